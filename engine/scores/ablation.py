"""Ablation of single units: On the Importance of Single Directions for Generalization. Morcos et al., ICLR 2018.

https://arxiv.org/abs/1803.06959

The plainest question one can ask of a unit, and the most expensive: cut it, and nothing else, and ask every image
again. The answer is exact.

    measure ``loss``:   score(u) = L - L without u,   L = E[CE(f(x), y)] over clean (x, y)
    measure ``asr``:    score(u) = (ASR - ASR without u) - (ACC - ACC without u)

Without a trigger a unit is the more suspicious the less clean images miss it. That is also true of units that do
nothing, so it is a weak score. With the true trigger it is the effect itself, and an oracle. It says nothing of what
units do together: where two carry the backdoor, and each would do, cutting either one changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn

from engine.metrics import TestSet
from engine.models.masking import masked
from engine.models.neurons import no_units, units
from engine.pruning.fold import Fold, FoldedTest
from engine.scores.base import Evidence, Score, Scores
from engine.spec import param


class Ablation(Score):
    """The exact effect of every single unit on the defense images, in the mode of the cut."""

    title: ClassVar[str] = "Single-unit ablation"
    paper: ClassVar[str] = "https://arxiv.org/abs/1803.06959"

    measure: Literal["auto", "loss", "asr"] = param(
        "auto", label="Measure", help="Clean loss, or ASR less ACC; auto: the second where there is a trigger."
    )

    def run(self, model: nn.Module, evidence: Evidence) -> Scores:
        stamped = evidence.trigger is not None and self.measure != "loss"
        if self.measure == "asr" and not stamped:
            raise ValueError("expected a trigger for the measure asr, got none; choose --trigger true (oracle)")
        measured = _trigger_effect(model, evidence) if stamped else _clean_loss(model, evidence)
        values, first = torch.zeros(len(units(model)), dtype=torch.float64), 0
        if saved := evidence.keep.read("ablation"):
            values, first = torch.from_numpy(saved[0]["values"].copy()), saved[1]["next"]
        for layer in units(model).layers:
            if layer.offset + layer.size <= first:
                continue
            now = measured(layer.offset)
            whole = now()
            for unit in range(max(first, layer.offset), layer.offset + layer.size):
                alone = no_units(model)
                alone[unit] = True
                with masked(model, alone, evidence.mode):
                    values[unit] = whole - now()
                evidence.progress(f"cutting {layer.name} unit by unit", (unit + 1) / len(values))
                if evidence.keep.due:
                    evidence.keep.write("ablation", {"values": values.numpy()}, {"next": unit + 1})
        return Scores(values.float(), oracle=stamped and evidence.trigger_is_true)


Measure = Callable[[int], Callable[[], float]]
"""Given the first unit that will be cut, what measures the model as it is; what comes before is computed once."""


def _clean_loss(model: nn.Module, evidence: Evidence) -> Measure:
    def of(first: int) -> Callable[[], float]:
        clean = Fold(model, first, evidence.images.x, evidence.compute)
        return lambda: float(F.cross_entropy(clean.logits().double(), evidence.images.y))

    return of


def _trigger_effect(model: nn.Module, evidence: Evidence) -> Measure:
    """ASR less ACC on the defense images."""
    test = TestSet.of(evidence.images, evidence.trigger)
    if test.triggered is None or not len(test.triggered) or test.measures != "trigger":
        raise ValueError("expected defense images that the trigger changes, got none")

    def of(first: int) -> Callable[[], float]:
        folded = FoldedTest(model, first, test, evidence.compute)

        def now() -> float:
            found = folded.answers()
            assert found.fooled is not None
            return float(found.fooled.double().mean() - found.correct.double().mean())

        return now

    return of
