"""The control: units in random order. A score that does not beat it has found nothing."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from engine.models.neurons import units
from engine.scores.base import Evidence, Score, Scores


class RandomOrder(Score):
    """Uniform numbers in [0, 1)."""

    title: ClassVar[str] = "Random (control)"
    paper: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()

    def run(self, model: nn.Module, evidence: Evidence) -> Scores:
        return Scores(torch.rand(len(units(model)), generator=evidence.rng("random")))
