"""Unlearning Backdoor Attacks through Gradient-Based Model Pruning (Grad-Prune). Dunnett et al. 2024.

https://arxiv.org/abs/2405.03918

Ask the model to answer triggered images correctly. The filter that this would change most is cut, then the question
is asked again of what is left: a cut moves the gradients of all other filters. A part of the clean images is kept
aside and says when to stop: as soon as cutting on no longer helps triggered images, or costs clean ones too much.

    L_u = CE(f(T(x)), y_true)          next cut: argmax_u  mean |dL_u / dw| over the weights of filter u
    a cut is accepted if the validation L_u is the lowest so far; over after ``patience`` cuts without, or once clean
    validation accuracy has fallen by ``limit``

A unit is the normalisation channel that a filter feeds; those that no filter feeds get NaN. The score is the order of
the cuts: 1 for the first, falling by 1/U with each. Units that were never reached follow by their gradient before any
cut, and ``native`` is the last accepted cut, so everything below it on a curve is not the paper's.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.attacks.base import Attack
from engine.compute import Compute
from engine.data.base import Images
from engine.data.splits import split_off
from engine.models.masking import apply_cut
from engine.models.neurons import no_units
from engine.scores.base import Evidence, Score, Scores
from engine.scores.unlearning_gradient import unlearning_gradient
from engine.spec import param

#: A suspicion that no unit has.
NOTHING_CUT = 2.0


class GradPrune(Score):
    """The order in which filters are cut by the gradient of the unlearning loss, one at a time."""

    title: ClassVar[str] = "Grad-Prune"
    paper: ClassVar[str] = "https://arxiv.org/abs/2405.03918"
    native_rule: ClassVar[str] = "the cut with the lowest loss of triggered validation images, labelled correctly"
    needs: ClassVar[tuple[str, ...]] = ("images", "labels", "trigger")

    validation: float = param(
        0.1, label="Validation", help="Share of the clean images that says when to stop.", gt=0, lt=1, step=0.05
    )
    patience: int = param(10, label="Patience", help="Cuts in a row that need not help.", ge=1, le=1000, step=1)
    limit: float = param(
        0.1, label="Limit", help="Fall of clean validation accuracy that ends it.", gt=0, le=1, step=0.01
    )

    def run(self, model: nn.Module, evidence: Evidence) -> Scores:
        assert evidence.trigger is not None
        compute, trigger = evidence.compute, evidence.trigger
        model = compute.model(copy.deepcopy(model)).eval().requires_grad_(True)
        train, kept = split_off(evidence.images, self.validation)
        (x, y), held = (stamped(trigger, images) for images in (train, kept))

        def gradients() -> Tensor:
            return unlearning_gradient(model, x, y, compute, lambda part: part)

        first = gradients()
        start, cut = measure(model, held, kept, compute), no_units(model)
        rows: list[dict[str, Any]] = []
        if saved := evidence.keep.read("grad_prune"):
            rows = saved[1]
            cut[[row["unit"] for row in rows]] = True
            apply_cut(model, cut, evidence.mode)
        while not self._over(start, rows) and len(rows) < int((~first.isnan()).sum()):
            now = gradients() if rows else first
            unit = int(now.nan_to_num(-1.0).masked_fill(cut, -1.0).argmax())
            cut[unit] = True
            apply_cut(model, cut, evidence.mode)
            rows.append({"unit": unit, **measure(model, held, kept, compute)})
            since = len(rows) - self._accepted(start, rows)
            what = f"cut {len(rows)}: loss of triggered images {rows[-1]['loss']:.3f}"
            evidence.progress(what, max(since / self.patience, (start["acc"] - rows[-1]["acc"]) / self.limit, 0.0))
            if evidence.keep.due:
                evidence.keep.write("grad_prune", {}, rows)
        order, accepted = [row["unit"] for row in rows], self._accepted(start, rows)
        values = ranked(first, order)
        native = float(values[order[accepted - 1]]) if accepted else NOTHING_CUT
        log = {"start": start, "rounds": rows, "selected": len(order), "accepted": accepted}
        return Scores(values, native, evidence.trigger_is_true, log=log)

    def _accepted(self, start: dict[str, float], rows: list[dict[str, Any]]) -> int:
        """How many of the cuts the best state has: 0 if none helped."""
        best, accepted = start["loss"], 0
        for k, row in enumerate(rows):
            if row["loss"] < best and not self._too_much(start, row):
                best, accepted = row["loss"], k + 1
        return accepted

    def _too_much(self, start: dict[str, float], row: dict[str, Any]) -> bool:
        return bool(start["acc"] - row["acc"] > self.limit - 1e-6)  # 1 - 0.9 is a little less than 0.1

    def _over(self, start: dict[str, float], rows: list[dict[str, Any]]) -> bool:
        if rows and self._too_much(start, rows[-1]):
            return True
        return len(rows) - self._accepted(start, rows) >= self.patience


def stamped(trigger: Attack, images: Images) -> tuple[Tensor, Tensor]:
    """Triggered images (N, C, H, W) and the true labels (N,) of those whose label the trigger's rule changes.

    Raises:
        ValueError: if there are none.
    """
    images = images[trigger.changed(images.y)]
    if not len(images):
        raise ValueError("expected images whose label the trigger changes on both sides of the split, got too few")
    return trigger.stamped(images.x), images.y


def measure(model: nn.Module, held: tuple[Tensor, Tensor], clean: Images, compute: Compute) -> dict[str, float]:
    """Loss of triggered images, which should get their true labels, and accuracy on clean ones."""
    loss = F.cross_entropy(compute.logits(model, held[0]), held[1])
    right = compute.logits(model, clean.x).argmax(1) == clean.y
    return {"loss": float(loss), "acc": float(right.float().mean())}


def ranked(first: Tensor, order: list[int]) -> Tensor:
    """Values (U,) in (0, 1]: the units of ``order``, then all others by ``first`` (U,), NaN where that is NaN."""
    rest = first.nan_to_num(-1.0)
    rest[order] = torch.inf
    by_gradient = rest.argsort(descending=True, stable=True)[len(order) :]
    places = torch.cat([torch.tensor(order, dtype=torch.long), by_gradient])
    values = torch.empty_like(first)
    values[places] = 1 - torch.arange(len(first)) / len(first)
    return torch.where(first.isnan(), torch.nan, values)
