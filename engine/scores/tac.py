"""Trigger-activated change (TAC). Zheng et al., Data-free Backdoor Removal based on Channel Lipschitzness, ECCV 2022.

https://arxiv.org/abs/2208.03111

How much does the trigger change what a unit says? With the true trigger this is the ground truth that other scores
are held against; a defender does not have it, so it is marked oracle.

    TAC(u) = mean over images of || phi_u(x) - phi_u(T(x)) ||_2        (phi_u: the unit's feature map)
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from engine.explain.activations import activation_change
from engine.scores.base import Evidence, Score, Scores


class TAC(Score):
    """Mean change of a unit's feature map when the trigger is put on."""

    title: ClassVar[str] = "Trigger-activated change (TAC)"
    paper: ClassVar[str] = "https://arxiv.org/abs/2208.03111"
    needs: ClassVar[tuple[str, ...]] = ("images", "labels", "trigger")

    def run(self, model: nn.Module, evidence: Evidence) -> Scores:
        assert evidence.trigger is not None
        x = evidence.images.x[evidence.trigger.changed(evidence.images.y)].float() / 255
        values = activation_change(model, x, evidence.trigger.trigger(x), evidence.compute)
        return Scores(values.float(), oracle=evidence.trigger_is_true)
