"""How to choose a threshold: policies that turn a score into a cut.

Four policies never see a trigger: ``tolerance`` (the last cut before held-out accuracy falls by more than a
tolerance), ``knee`` (where held-out accuracy turns down), ``fixed`` and ``fraction``. ``oracle`` reads ASR on the
test set and is marked so: it says what a score could do, not what a defender can do.

Held-out accuracy is *cross-fitted*: the defense images are split into folds, the score is computed without each
fold, and each image is judged under the score that never saw it. So all images are held out once, and none is
wasted. The final score is the mean over the folds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from engine.metrics import paired_interval
from engine.models.masking import Mode, masked
from engine.pruning.cut import cut_at, thresholds
from engine.scores.base import Evidence, Score, Scores
from engine.spec import Spec, param

PolicyName = Literal["tolerance", "knee", "fixed", "fraction", "oracle"]


class Policy(Spec):
    """Which rule chooses the threshold."""

    name: PolicyName = param("tolerance", label="Policy", help="The rule that chooses the threshold.")
    tolerance: float = param(
        0.01, label="Tolerance", help="Accepted drop of held-out accuracy (a fraction).", ge=0, le=0.5, step=0.005
    )
    threshold: float | None = param(None, label="Threshold", help="Suspicion at or above which units are cut.")
    fraction: float = param(0.05, label="Fraction", help="Share of all units to cut.", ge=0, le=1, step=0.01)
    folds: int = param(2, label="Folds", help="Parts of the defense images in cross-fitting.", ge=2, le=10, step=1)


@dataclass(frozen=True)
class HeldOut:
    """Held-out accuracy under growing cuts.

    ``counts`` (K,) units cut, rising from 0; ``correct`` bool (K, N): image by image, under the score that did not
    see the image.
    """

    counts: np.ndarray
    correct: Tensor

    @property
    def drops(self) -> np.ndarray:
        """Accuracy lost by each cut, (K,) fractions."""
        share = self.correct.float().mean(1).numpy()
        return np.asarray(share[0] - share)

    def rows(self) -> list[dict[str, Any]]:
        """Drop with its paired 95 % interval for each cut, as JSON values."""
        rows = []
        for count, drop, hits in zip(self.counts, self.drops, self.correct, strict=True):
            low, high = paired_interval(self.correct[0], hits)
            rows.append({"pruned": int(count), "drop": float(drop), "low": low, "high": high})
        return rows


def ladder(units: int, steps: int = 40, most: float = 0.25) -> np.ndarray:
    """Numbers of units to try: 0, then up to ``most`` of all units in steps that grow, since the first cuts matter."""
    top = max(1, round(units * most))
    return np.unique(np.ceil(top * np.linspace(0, 1, steps + 1) ** 2).astype(int))


def cut_of(values: np.ndarray, count: int) -> tuple[float | None, np.ndarray]:
    """The largest threshold cut of at most ``count`` units: its threshold (``None``: nothing is cut) and units."""
    levels, counts = thresholds(values)
    best = int(np.searchsorted(counts, count, side="right")) - 1
    threshold = None if best <= 0 else float(levels[best])
    return threshold, cut_at(values, threshold)


def cross_fit(
    score: Score, model: nn.Module, evidence: Evidence, folds: int, mode: Mode, give_up: float
) -> tuple[Scores, HeldOut]:
    """Score a model fold by fold and judge each fold under the score of the others.

    Args:
        give_up: stop trying larger cuts once a fold's accuracy has fallen by this much.

    Returns:
        The mean score, with the log and the unlearned model of the first fold, and the held-out accuracy.

    Raises:
        ValueError: if there are fewer than two images per fold.
    """
    images, n = evidence.images, len(evidence.images)
    if n < 2 * folds:
        raise ValueError(f"expected at least {2 * folds} samples for {folds} folds, got {n}")
    fold_of = torch.arange(n) % folds  # the images come in random order
    found: list[Scores] = []
    counts: np.ndarray | None = None
    correct = torch.zeros(0, n, dtype=torch.bool)
    reached = None
    for fold in range(folds):

        def report(what: str, share: float, fold: int = fold) -> None:
            evidence.progress(f"fold {fold + 1} of {folds}: {what}", (fold + share) / folds)

        part = replace(evidence, images=images[fold_of != fold], seed=evidence.seed * folds + fold, progress=report)
        scores = score(model, part)
        found.append(scores)
        values = scores.values.numpy()
        if counts is None:
            counts = ladder(int((~np.isnan(values)).sum()))
            correct = torch.zeros(len(counts), n, dtype=torch.bool)
            reached = len(counts)
        own = fold_of == fold
        x, y = images.x[own], images.y[own]
        assert reached is not None
        for k, count in enumerate(counts[:reached]):
            _, cut = cut_of(values, int(count))
            with masked(model, torch.from_numpy(cut), mode):
                hits = evidence.compute.logits(model, x).argmax(1) == y
            correct[k, own] = hits
            if float(correct[0, own].float().mean() - hits.float().mean()) > give_up:
                reached = k + 1
                break
    assert counts is not None and reached is not None
    mean = torch.stack([s.values for s in found]).mean(0)
    return replace(found[0], values=mean), HeldOut(counts[:reached], correct[:reached])


def by_tolerance(held_out: HeldOut, tolerance: float) -> int:
    """Units to cut: the last cut before the first whose held-out drop exceeds the tolerance."""
    violations = np.flatnonzero(held_out.drops > tolerance)
    last = (violations[0] if len(violations) else len(held_out.counts)) - 1
    return int(held_out.counts[max(0, last)])


def by_knee(held_out: HeldOut) -> int:
    """Units to cut: the point of the drop curve farthest below its chord (Satopaa et al., Kneedle, 2011)."""
    x, y = held_out.counts.astype(float), held_out.drops
    if len(x) < 3 or y[-1] <= 0:
        return int(held_out.counts[-1])
    gap = x / x[-1] - y / y[-1]
    return int(held_out.counts[int(np.argmax(gap))])


def by_oracle(points: list[dict[str, Any]], tolerance: float) -> dict[str, Any]:
    """The point of a test curve with the lowest ASR among those that lose at most ``tolerance`` test accuracy."""
    allowed = [p for p in points if points[0]["acc"] - p["acc"] <= tolerance]
    return min(allowed, key=lambda p: (p["asr"], p["pruned"]))
