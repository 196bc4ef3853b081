"""Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural Networks. Liu et al., RAID 2018.

https://arxiv.org/abs/1805.12185

A backdoor needs neurons that clean images do not use. Rank the units by their mean activation on clean images and
cut the sleepiest first. Here the rank is within the last convolutional layer, as published, or within each layer.

    score(u) = - mean over clean images of mean over space of ReLU(output of u), divided by the layer's mean

The last layer is what the classifier reads. In a residual network each channel of that is a sum, and to cut one of the
units that are added leaves the others: all units of a channel have its score, so that they are cut together.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from engine.explain.activations import mean_outputs
from engine.explain.wiring import read_last
from engine.models.neurons import units
from engine.scores.base import Evidence, Score, Scores
from engine.spec import param


class Activation(Score):
    """Minus the mean clean activation."""

    title: ClassVar[str] = "Fine-Pruning activation"
    paper: ClassVar[str] = "https://arxiv.org/abs/1805.12185"
    needs: ClassVar[tuple[str, ...]] = ("images",)

    scope: Literal["last", "all"] = param(
        "last", label="Scope", help="The last layer only, as published, or all layers (relative to the layer's mean)."
    )

    def run(self, model: nn.Module, evidence: Evidence) -> Scores:
        layers = units(model).layers
        values = torch.full((len(units(model)),), torch.nan)
        if self.scope == "last":
            head, writers = read_last(model, evidence.compute.images(evidence.images.x[:1]))
            read = _mean_input(model, head, evidence)
            for at in writers:
                values[layers[at].span] = _sleepy(read.unflatten(0, (layers[at].size, -1)).mean(1))
            return Scores(values)
        active = mean_outputs(model, evidence.images.x, evidence.compute, rectify=True).mean(0).float()
        for layer in layers:
            values[layer.span] = _sleepy(active[layer.span])
        return Scores(values)


def _sleepy(active: Tensor) -> Tensor:
    return -active / active.mean().clamp_min(1e-12)


@torch.inference_mode()
def _mean_input(model: nn.Module, head: nn.Linear, evidence: Evidence) -> Tensor:
    """What a linear layer reads of the images, (in,), in the mean."""
    total = torch.zeros(head.in_features)

    def see(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        total.add_(inputs[0].float().sum(0).cpu())

    hook = head.register_forward_pre_hook(see)
    try:
        evidence.compute.logits(model, evidence.images.x)
    finally:
        hook.remove()
    return total / len(evidence.images)
