"""How far two scores of the same units agree: in rank, and on which units are the most suspicious. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr


@dataclass(frozen=True)
class Agreement:
    """``rank`` is Spearman's correlation over ``units`` units that both score; None if one of them is constant."""

    rank: float | None
    units: int


def rank_agreement(a: np.ndarray, b: np.ndarray) -> Agreement:
    """Of two scores (U,) with NaN where a unit is not eligible."""
    both = np.isfinite(a) & np.isfinite(b)
    x, y = a[both], b[both]
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Agreement(None, len(x))
    return Agreement(float(spearmanr(x, y).statistic), len(x))


def top(values: np.ndarray, k: int) -> np.ndarray:
    """How surely each unit is among the ``k`` highest (U,), in [0, 1]: of equal ones at the border each as likely."""
    found = np.zeros(len(values))
    eligible = np.flatnonzero(np.isfinite(values))
    if k <= 0 or not len(eligible):
        return found
    k = min(k, len(eligible))
    edge = np.partition(values[eligible], -k)[-k]
    above = np.isfinite(values) & (values > edge)
    level = values == edge
    found[above] = 1
    found[level] = (k - above.sum()) / level.sum()
    return found


def shared(a: np.ndarray, b: np.ndarray, k: int) -> float:
    """How many of the ``k`` highest units two scores share, on average where equal scores leave it open."""
    return float((top(a, k) * top(b, k)).sum())


def jaccard(a: np.ndarray, b: np.ndarray, k: int) -> float:
    """Shared units over all that either has among its ``k`` highest, in [0, 1]."""
    common = shared(a, b, k)
    union = float(top(a, k).sum() + top(b, k).sum()) - common
    return common / union if union else 0.0


def by_chance(k: int, units: int) -> float:
    """The Jaccard index that two rankings without anything in common come to on average, nearly."""
    return 0.0 if units <= 0 or k <= 0 else min(k, units) / (2 * units - min(k, units))


def sizes(units: int, k: int) -> list[int]:
    """For which numbers of units the overlap is drawn: closer where they are few, and at ``k``."""
    if units < 1:
        return []
    return sorted({*np.unique(np.geomspace(1, units, 60).astype(int)).tolist(), min(max(1, k), units)})
