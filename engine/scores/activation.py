"""Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural Networks. Liu et al., RAID 2018.

https://arxiv.org/abs/1805.12185

A backdoor needs neurons that clean images do not use. Rank the units by their mean activation on clean images and
cut the sleepiest first. Here the rank is within the last convolutional layer, as published, or within each layer.

    score(u) = - mean over clean images of mean over space of ReLU(output of u), divided by the layer's mean
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import nn

from engine.explain.activations import mean_outputs
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
        active = mean_outputs(model, evidence.images.x, evidence.compute, rectify=True).mean(0).float()
        values = torch.full_like(active, torch.nan)
        layers = units(model).layers
        for layer in layers[-1:] if self.scope == "last" else layers:
            part = active[layer.span]
            values[layer.span] = -part / part.mean().clamp_min(1e-12)
        return Scores(values)
