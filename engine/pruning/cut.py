"""From scores to a cut: threshold plus hand edits. NumPy only, so that the page and the engine share it."""

from __future__ import annotations

import numpy as np


def cut_at(values: np.ndarray, threshold: float | None) -> np.ndarray:
    """Units at or above the threshold, bool (U,). NaN is never cut, equal scores are cut together."""
    if threshold is None:
        return np.zeros(len(values), dtype=bool)
    with np.errstate(invalid="ignore"):
        return np.asarray(values >= np.float32(threshold))


def edited(cut: np.ndarray, spare: list[int], also: list[int]) -> np.ndarray:
    """A copy of ``cut`` with the units of ``spare`` kept and those of ``also`` cut; ``spare`` wins."""
    cut = cut.copy()
    cut[also] = True
    cut[spare] = False
    return cut


def thresholds(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every distinct cut: thresholds from high to low and the number of units at or above each.

    The first is ``inf``, which cuts nothing.
    """
    eligible = values[~np.isnan(values)]
    levels, counts = np.unique(eligible, return_counts=True)
    return np.concatenate([[np.inf], levels[::-1]]), np.concatenate([[0], counts[::-1].cumsum()])


def cut_of(values: np.ndarray, count: int) -> tuple[float | None, np.ndarray]:
    """The largest threshold cut of at most ``count`` units: its threshold (``None``: nothing is cut) and units."""
    levels, counts = thresholds(values)
    best = int(np.searchsorted(counts, count, side="right")) - 1
    threshold = None if best <= 0 else float(levels[best])
    return threshold, cut_at(values, threshold)


def ladder(units: int, steps: int = 40, most: float = 0.25) -> np.ndarray:
    """Numbers of units to try: 0, then up to ``most`` of all units in steps that grow, since the first cuts matter."""
    top = max(1, round(units * most))
    return np.unique(np.ceil(top * np.linspace(0, 1, steps + 1) ** 2).astype(int))
