"""Joint fine-tuning: the second half of "Unlearning Backdoor Attacks through Gradient-Based Model Pruning".

Dunnett et al. 2024, https://arxiv.org/abs/2405.03918

Train on clean images and on the same images with the trigger, both with their true labels: what a cut has damaged is
mended, and what is left of the backdoor contradicts every step. A part of the clean images is kept aside; the state
with the lowest clean loss there is the result. Where a network meets triggered images as a stranger does, clean loss
rises from the first pass on and that state still has the backdoor: ``stop`` can ask what is trained on instead.

    min_theta  CE(f(x), y) + CE(f(T(x)), y)
"""

from __future__ import annotations

import copy
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.data.splits import split_off
from engine.repairs.base import Repair, Repaired
from engine.repairs.tuning import Tuning, tune
from engine.scores.base import Evidence
from engine.spec import again, param


class Joint(Tuning, Repair):
    """SGD on clean and triggered images with true labels, stopped by clean images that it does not see."""

    title: ClassVar[str] = "Joint fine-tuning"
    paper: ClassVar[str] = "https://arxiv.org/abs/2405.03918"
    needs: ClassVar[tuple[str, ...]] = ("images", "labels", "trigger")

    data: Literal["both", "clean", "triggered"] = param(
        "both", label="Images", help="Clean images, triggered ones with their true labels, or both."
    )
    lr: float = param(1e-3, label="Rate", help="SGD rate at the start.", gt=0, le=10)
    batch: int = again(Tuning, "batch", 128)
    augment: bool = param(False, label="Augment", help="Random shift and flip, before the trigger is put on.")
    schedule: Literal["cosine", "constant"] = param("constant", label="Schedule", help="Of the rate, over all epochs.")
    validation: float = param(
        0.1, label="Validation", help="Share of the clean images that says when to stop.", gt=0, lt=1, step=0.05
    )
    patience: int = param(10, label="Patience", help="Passes in a row without a lower loss.", ge=1, le=1000, step=1)
    stop: Literal["clean", "trained"] = param(
        "clean",
        label="Stopped by",
        help="Loss of held-out images: clean ones, as published, or such as it trains on.",
        tacit=True,
    )

    def run(self, model: nn.Module, evidence: Evidence) -> Repaired:
        train, kept = split_off(evidence.images, self.validation)
        best, compute = copy.deepcopy(model), evidence.compute

        def parts_of(x: Tensor) -> list[Tensor]:
            assert evidence.trigger is not None
            triggered = [] if self.data == "clean" else [compute.images(evidence.trigger.stamped(x.cpu()))]
            return triggered if self.data == "triggered" else [x, *triggered]

        judges = parts_of(kept.x) if self.stop == "trained" else [kept.x]

        def step(x: Tensor, y: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
            parts = parts_of(x)
            # One batch, so that one normalisation has to serve both.
            with compute.autocast():
                logits = model(torch.cat(parts)).float()
            loss = len(parts) * F.cross_entropy(logits, y.repeat(len(parts)))
            loss.backward()
            return loss, logits[: len(y)]

        def judge(rows: list[dict[str, float]]) -> dict[str, float]:
            loss = float(np.mean([float(F.cross_entropy(compute.logits(model, x), kept.y)) for x in judges]))
            if loss < min((row["validation"] for row in rows), default=torch.inf):
                best.load_state_dict(model.state_dict())
            return {"validation": loss}

        def enough(rows: list[dict[str, float]]) -> bool:
            losses = [row["validation"] for row in rows]
            return bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= self.patience

        modules = {"best": best}
        log = tune(model, evidence, self, "joint", images=train, step=step, modules=modules, enough=enough, after=judge)
        return Repaired(best, log={"tune": log})
