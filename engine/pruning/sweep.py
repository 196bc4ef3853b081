"""The curve: ACC, ASR and RA under nested cuts of growing size."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from engine.compute import Compute
from engine.metrics import Answers, Share, TestSet
from engine.models.masking import Mode, masked
from engine.pruning.cut import cut_of, ladder, thresholds
from engine.pruning.fold import FoldedTest
from engine.runs.checkpoints import NOTHING, Keep
from engine.train import Progress, silent


def point(found: Answers, threshold: float | None, pruned: int) -> dict[str, Any]:
    """One point of a curve as JSON values: shares with the ends of their intervals."""
    row: dict[str, Any] = {"threshold": threshold, "pruned": pruned}
    for key in ("acc", "asr", "ra", *(["success"] if found.success else [])):
        share: Share | None = getattr(found, key)
        row |= {key: share and share.value, f"{key}_low": share and share.low, f"{key}_high": share and share.high}
    return row


def counts_for(values: np.ndarray, points: int) -> list[int]:
    """How many units the points of a curve cut: nothing, all, and mostly the first quarter, where cuts matter."""
    eligible = int((~np.isnan(values)).sum())
    fine = max(2, points * 4 // 5)
    rest = np.linspace(eligible / 4, eligible, max(2, points - fine) + 1)[1:]
    wanted = np.concatenate([ladder(eligible, fine - 1), np.round(rest).astype(int)])
    # Equal scores are cut together, so a wanted number becomes the largest possible one below it.
    _, possible = thresholds(values)
    reached = possible[np.searchsorted(possible, wanted, side="right") - 1]
    return sorted({int(n) for n in reached})


def sweep(
    model: nn.Module,
    values: np.ndarray,
    counts: list[int],
    test: TestSet,
    mode: Mode,
    compute: Compute,
    progress: Progress = silent,
    keep: Keep = NOTHING,
) -> list[dict[str, Any]]:
    """Measure each cut of ``counts`` units, the most suspicious first; the model is left as it was.

    Points that ``keep`` knows are not measured again.
    """
    saved = keep.read("curve")
    rows: list[dict[str, Any]] = saved[1] if saved else []
    widest = np.flatnonzero(cut_of(values, max(counts, default=0))[1])  # the others are parts of it
    folded = FoldedTest(model, int(widest[0]) if len(widest) else len(values), test, compute)
    for k, count in list(enumerate(counts))[len(rows) :]:
        threshold, cut = cut_of(values, count)
        with masked(model, torch.from_numpy(cut), mode):
            found = folded.answers()
        rows.append(point(found, threshold, int(cut.sum())))
        progress(
            f"curve, point {k + 1} of {len(counts)}: {count:,} units cut",
            (k + 1) / len(counts),
            step=k + 1,
            steps=len(counts),
            acc=rows[-1]["acc"],
            asr=rows[-1]["asr"],
        )
        if keep.due:
            keep.write("curve", {}, rows)
    return rows
