"""How to choose a threshold: policies that turn a score into a cut.

Five policies never see a trigger: ``tolerance`` (the last cut before held-out accuracy falls by more than a
tolerance; with ``enough`` it also ends where the score finds nothing left), ``knee`` (where held-out accuracy turns
down), ``native`` (where the score's own paper stops), ``fixed`` and ``fraction``. ``oracle`` reads ASR on the test set
and is marked so: it says what a score could do, not what a defender can do.

Held-out accuracy is *cross-fitted* and the score is *bagged*: the defense images are split into an even number of
folds, the score is computed once for each fold from that one and its followers, half of all images, and the final
score combines them (``Score.combine``). Masks learned on one draw of images wipe out a clean class by chance; several
draws do not. Each image is judged under the scores that did not see it, so all images are held out and none is wasted.
Half as many scores judge as decide, so the measured drop is larger than the final cut's: a cautious estimate.

A score that is best learned from as many images as there are (``Score.whole``) is not bagged: all images make the one
that decides, and each fold is judged under another that was learned without it. That too is cautious.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from engine.data.base import turns
from engine.metrics import paired_interval
from engine.models.masking import Mode, masked
from engine.pruning.cut import cut_of, ladder
from engine.pruning.fold import Fold
from engine.runs.checkpoints import Keep
from engine.scores.base import Evidence, Score, Scores
from engine.spec import Spec, param
from engine.train import stage

PolicyName = Literal["tolerance", "knee", "native", "fixed", "fraction", "oracle"]


class Policy(Spec):
    """Which rule chooses the threshold."""

    name: PolicyName = param("tolerance", label="Policy", help="The rule that chooses the threshold.")
    tolerance: float = param(
        0.01, label="Tolerance", help="Accepted drop of held-out accuracy (a fraction).", ge=0, le=0.5, step=0.001
    )
    enough: bool = param(
        False,
        label="Enough",
        help="Cut no more once the score finds nothing suspicious left, even where held-out accuracy would allow it.",
        tacit=True,
    )
    threshold: float | None = param(None, label="Threshold", help="Suspicion at or above which units are cut.")
    fraction: float = param(0.05, label="Fraction", help="Share of all units to cut.", ge=0, le=1, step=0.01)
    folds: int = param(
        4,
        label="Folds",
        help="Parts of the defense images in cross-fitting, an even number.",
        ge=2,
        le=10,
        multiple_of=2,
    )


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
        # In double precision, so that a drop of 5 in 500 is the 1 % that somebody accepted.
        share = self.correct.double().mean(1).numpy()
        return np.asarray(share[0] - share)

    def rows(self) -> list[dict[str, Any]]:
        """Drop with its paired 95 % interval for each cut, as JSON values."""
        rows = []
        for count, drop, hits in zip(self.counts, self.drops, self.correct, strict=True):
            low, high = paired_interval(self.correct[0], hits)
            rows.append({"pruned": int(count), "drop": float(drop), "low": low, "high": high})
        return rows


def whole_ladder(units: int) -> np.ndarray:
    """As :func:`ladder`, and on to all units in steps of a twentieth: the last layer alone may bear far larger cuts."""
    first = ladder(units)
    return np.unique([*first, *np.ceil(np.linspace(first[-1], units, 16)).astype(int)])


def cross_fit(
    score: Score, model: nn.Module, evidence: Evidence, folds: int, mode: Mode, give_up: float
) -> tuple[Scores, HeldOut]:
    """Score a model on parts of the images and judge each image under the scores that did not see it.

    Args:
        folds: an even number; one score is computed for each, and one more of all images where it is ``whole``.
        give_up: stop trying larger cuts once the accuracy on all images has fallen by this much.

    Returns:
        The score that decides, with the log and the unlearned model of the first, and the held-out accuracy.

    Raises:
        ValueError: if there are fewer than two images per fold.
    """
    images, n = evidence.images, len(evidence.images)
    if n < 2 * folds:
        raise ValueError(f"expected at least {2 * folds} samples for {folds} folds, got {n}")
    every = set(range(folds))
    decides = [every] if score.whole else []
    seen_by = [every - {fold} for fold in every] if score.whole else halves(folds)
    parts = decides + seen_by
    fold_of = fold_numbers(images.y, folds)
    found = _scores_of(evidence.keep)
    for k, seen in list(enumerate(parts))[len(found) :]:
        begin, end = 0.8 * k / len(parts), 0.8 * (k + 1) / len(parts)
        part = replace(
            evidence,
            images=images[torch.isin(fold_of, torch.tensor(sorted(seen)))],
            seed=evidence.seed * len(parts) + k,
            progress=stage(evidence.progress, begin, end, f"score {k + 1} of {len(parts)}, "),
            keep=evidence.keep.part(f"score {k + 1}"),
            values_only=k > 0,
            # A label says next to nothing of one image, and half of the unlearning is there only to find it.
            favourite=found[0].log.get("favourite") if found else None,
        )
        found.append(score(model, part))
        if evidence.keep.due or (k + 1 == len(parts) and evidence.keep.worth):
            _keep_scores(evidence.keep, found)
    values = torch.stack([s.values for s in found[len(decides) :]])
    final = found[0].values if score.whole else score.combine(values)
    unseen = [score.combine(values[[fold not in seen for seen in seen_by]]).numpy() for fold in range(folds)]
    eligible = (~values[0].isnan()).nonzero().flatten()
    counts = whole_ladder(len(eligible))
    starts = int(eligible[0]) if len(eligible) else values.shape[1]
    judges = [Fold(model, starts, images.x[fold_of == fold], evidence.compute) for fold in range(folds)]
    correct, reached, first = torch.zeros(len(counts), n, dtype=torch.bool), len(counts), 0
    if saved := evidence.keep.read("held_out"):
        correct, first = torch.from_numpy(saved[0]["correct"].astype(bool)), saved[1]["next"]
    for k, count in list(enumerate(counts))[first:]:
        for fold in range(folds):
            own = fold_of == fold
            _, cut = cut_of(unseen[fold], int(count))
            with masked(model, torch.from_numpy(cut), mode):
                correct[k, own] = judges[fold].logits().argmax(1) == images.y[own]
        evidence.progress(f"judging a cut of {count} units on held-out images", 0.8 + 0.15 * (k + 1) / len(counts))
        # All images together: a single part is small enough to look bad by chance.
        if float(correct[0].float().mean() - correct[k].float().mean()) > give_up:
            reached = k + 1
            break
        if evidence.keep.due or (k + 1 == len(counts) and evidence.keep.worth):
            evidence.keep.write("held_out", {"correct": correct.numpy().astype(np.uint8)}, {"next": k + 1})
    return replace(found[0], values=final), HeldOut(counts[:reached], correct[:reached])


def halves(folds: int) -> list[set[int]]:
    """The folds that each score sees: one and those after it, half of all."""
    return [{(first + k) % folds for k in range(folds // 2)} for first in range(folds)]


def fold_numbers(y: Tensor, folds: int) -> Tensor:
    """The fold, int64 (N,), of each image with label ``y`` (N,): in turn, since images come in random order.

    Of few images chance may leave a half without a class, and a score that never saw a class cuts it. Then the images
    of each class go in pairs into opposite folds, so that every half has each class that has two images.
    """
    n = len(y)
    in_turn = torch.arange(n) % folds
    paired = y.bincount() >= 2
    parts = [y[torch.isin(in_turn, torch.tensor(sorted(half)))] for half in halves(folds)]
    if all(bool((part.bincount(minlength=len(paired)) > 0)[paired].all()) for part in parts):
        return in_turn
    own = turns(y)
    single = (own == y.bincount()[y] - 1) & (own % 2 == 0)  # the odd one of its class comes after all pairs
    order = torch.argsort(single * len(paired) + y, stable=True)
    opposite = torch.arange(folds).reshape(2, -1).T.flatten()  # 0, F/2, 1, F/2 + 1, …
    found = torch.empty_like(in_turn)
    found[order] = opposite[in_turn]
    return found


def _keep_scores(keep: Keep, found: list[Scores]) -> None:
    """The scores of the first folds; only the first one's unlearned model is used later."""
    arrays = {f"values.{k}": scores.values.numpy() for k, scores in enumerate(found)}
    if found[0].unlearned is not None:
        arrays |= {f"unlearned.{name}": value.cpu().numpy() for name, value in found[0].unlearned.items()}
    rows = [
        {"native": scores.native, "oracle": scores.oracle, "enough": scores.enough, "log": scores.log}
        for scores in found
    ]
    keep.write("scores", arrays, rows)


def _scores_of(keep: Keep) -> list[Scores]:
    saved = keep.read("scores")
    if saved is None:
        return []
    arrays, rows = saved
    unlearned = {k.removeprefix("unlearned."): torch.from_numpy(v) for k, v in arrays.items() if k[:2] == "un"}
    found = [Scores(values=torch.from_numpy(arrays[f"values.{k}"]), **row) for k, row in enumerate(rows)]
    return [replace(found[0], unlearned=unlearned or None), *found[1:]]


def by_tolerance(held_out: HeldOut, tolerance: float) -> int:
    """Units to cut: the last cut before the first whose held-out drop exceeds the tolerance."""
    violations = np.flatnonzero(held_out.drops > tolerance + 1e-9)
    last = (violations[0] if len(violations) else len(held_out.counts)) - 1
    return int(held_out.counts[max(0, last)])


def by_policy(held_out: HeldOut, policy: Policy, scores: Scores) -> int:
    """Units to cut by ``tolerance``; where the policy says so, no more than are ``enough``."""
    count = by_tolerance(held_out, policy.tolerance)
    if not policy.enough or scores.enough is None:
        return count
    return min(count, int((scores.values >= scores.enough).sum()))


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
