"""Weight magnitude, from "Pruning Filters for Efficient ConvNets". Li et al., ICLR 2017.

https://arxiv.org/abs/1608.08710

The classic way to make a network smaller: cut the filters with the smallest weights, which matter least. Nothing in it
looks for a backdoor, so it is a control. What it gains over random cuts is what any careful cut gains.

    score(u) = - sum |w| over the filter of u, divided by the layer's mean
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from engine.models.neurons import filter_weights, units
from engine.scores.base import Evidence, Score, Scores


class WeightMagnitude(Score):
    """Minus the L1 norm of a unit's filter; units that no filter feeds get NaN."""

    title: ClassVar[str] = "Weight magnitude (control)"
    paper: ClassVar[str] = "https://arxiv.org/abs/1608.08710"
    needs: ClassVar[tuple[str, ...]] = ()

    @torch.no_grad()
    def run(self, model: nn.Module, evidence: Evidence) -> Scores:
        example = torch.zeros_like(evidence.images.x[:1])  # only its shape matters
        values = torch.full((len(units(model)),), torch.nan)
        filters = filter_weights(model, evidence.compute.images(example))
        for layer, weight in zip(units(model).layers, filters, strict=True):
            if weight is not None:
                size = weight.double().abs().flatten(1).sum(1)
                values[layer.span] = (-size / size.mean().clamp_min(1e-12)).float().cpu()
        return Scores(values)
