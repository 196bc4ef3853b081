"""Data-free Backdoor Removal based on Channel Lipschitzness (CLP). Zheng, Tang, Li, Liu, ECCV 2022.

https://arxiv.org/abs/2208.03111

A trigger is small and still has to change the answer, so the channels that carry it must react strongly to little.
How strongly a channel can react at most, its Lipschitz constant, can be bounded from the weights alone: no image is
needed. Channels whose bound stands out in their layer are cut.

    sigma(u) = largest singular value of W_u |gamma_u| / sqrt(var_u + eps),   W_u: the filter as a (C_in, k k) matrix
    score(u) = (sigma(u) - mean of the layer) / standard deviation of the layer;   the paper cuts from u = 3 on

The official code takes the convolution that is named before a normalisation for the one that feeds it, and divides by
the root of the variance alone. Here it is the one whose output the normalisation reads, and eps is the layer's own, as
the network computes. Units that no filter feeds (the leading norms of PreAct networks) get NaN. Without normalisation
the second factor is 1.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from engine.models.neurons import filter_weights, unit_modules, units
from engine.scores.base import Evidence, Score, Scores


class CLP(Score):
    """How far a channel's Lipschitz bound stands out in its layer, in standard deviations."""

    title: ClassVar[str] = "Channel Lipschitzness (CLP)"
    paper: ClassVar[str] = "https://arxiv.org/abs/2208.03111"
    native_rule: ClassVar[str] = "at least 3 standard deviations above the layer's mean (the paper's u)"
    needs: ClassVar[tuple[str, ...]] = ()

    def run(self, model: nn.Module, evidence: Evidence) -> Scores:
        example = torch.zeros_like(evidence.images.x[:1])  # only its shape matters
        table, values = units(model), torch.full((len(units(model)),), torch.nan)
        filters = filter_weights(model, evidence.compute.images(example))
        for layer, module, weight in zip(table.layers, unit_modules(model), filters, strict=True):
            if weight is not None:
                values[layer.span] = standing_out(lipschitz_bounds(weight, module)).float().cpu()
        return Scores(values, native=3.0)


@torch.no_grad()
def lipschitz_bounds(weight: Tensor, module: nn.Module) -> Tensor:
    """Bounds (size,) of the channels of a layer from their filters ``weight`` (size, C_in, ...)."""
    rows = weight.double().reshape(weight.shape[0], weight.shape[1] if weight.ndim > 2 else 1, -1)
    bounds = torch.linalg.matrix_norm(rows, ord=2)
    if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
        bounds = bounds / (module.running_var.double() + module.eps).sqrt()
        bounds = bounds if module.weight is None else bounds * module.weight.double().abs()
    return bounds


def standing_out(values: Tensor) -> Tensor:
    """How many standard deviations each value (size,) lies above the mean; zeros where all are equal."""
    spread = values.std() if len(values) > 1 else values.new_zeros(())
    return (values - values.mean()) / spread if spread > 0 else torch.zeros_like(values)
