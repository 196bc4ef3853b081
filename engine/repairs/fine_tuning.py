"""Fine-tuning: the plainest repair.

https://arxiv.org/abs/1805.12185 (as the second half of Fine-Pruning), settings of BackdoorBench.

Train on a little clean data and hope that the network forgets what it is no longer asked. It forgets little: nothing
in clean images pulls the backdoor's weights anywhere.

    min_theta  E[CE(f_theta(x), y)]   over clean (x, y)
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from engine.repairs.base import Repair, Repaired
from engine.repairs.tuning import Tuning, tune
from engine.scores.base import Evidence


class FineTuning(Tuning, Repair):
    """SGD on clean images from the suspect's weights."""

    title: ClassVar[str] = "Fine-tuning"
    paper: ClassVar[str] = "https://arxiv.org/abs/1805.12185"

    def run(self, model: nn.Module, evidence: Evidence) -> Repaired:
        return Repaired(model, log={"tune": tune(model, evidence, self)})
