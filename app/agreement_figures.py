"""Figures of the Compare page about how far two scores agree. Pure functions."""

from __future__ import annotations

from typing import Any

import numpy as np

from app.agreement import Agreement, by_chance, jaccard, rank_agreement, shared, sizes
from app.figures import Chart, layout
from app.palette import Theme, count


def overlap(a: np.ndarray, b: np.ndarray, names: tuple[str, str], k: int, theme: Theme, height: int = 270) -> Chart:
    """The Jaccard index of the ``k`` most suspicious units of two scores (U,), for every ``k``.

    Only units that both score count: NaN means that one of them leaves a unit out.
    """
    both = np.isfinite(a) & np.isfinite(b)
    a, b = np.where(both, a, np.nan), np.where(both, b, np.nan)
    found: Agreement = rank_agreement(a, b)
    k = min(k, found.units)
    x = sizes(found.units, k)
    y = [round(jaccard(a, b, n), 4) for n in x]
    chance = [round(by_chance(n, found.units), 4) for n in x]
    here = jaccard(a, b, k)
    common = round(shared(a, b, k))
    rank = "one of them says the same of all" if found.rank is None else f"rank agreement is {_signed(found.rank)}"
    whole = "" if found.units == len(a) else f" among the {count(found.units)} that both score"
    title = f"{names[0]} and {names[1]} share {count(common)} of their {count(k)} most suspicious units{whole}; {rank}."
    data: list[dict[str, Any]] = [
        {
            "type": "scatter", "mode": "lines", "x": x, "y": chance, "hoverinfo": "skip", "name": "by chance",
            "line": {"color": theme.soft, "width": 1.2, "dash": "dot"},
        },
        {
            "type": "scatter", "mode": "lines+markers", "x": x, "y": y, "name": "Jaccard",
            "line": {"color": theme.ink, "width": 2}, "marker": {"size": 4, "color": theme.ink},
            "hovertemplate": "<b>Jaccard %{y:.2f}</b><br>%{x:,} most suspicious units of each<extra></extra>",
        },
    ]  # fmt: skip
    middle = int(np.searchsorted(chance, 0.12))
    notes = [
        {
            "x": float(np.log10(x[middle])), "y": chance[middle], "text": "by chance", "showarrow": False,
            "xanchor": "left", "yanchor": "top", "xshift": 4, "font": {"color": theme.soft, "size": 12},
        },
        {
            "x": float(np.log10(k)), "y": 1, "yref": "paper", "yanchor": "top", "xanchor": "right", "xshift": -5,
            "text": f"<b>{here:.2f}</b> at {count(k)}", "showarrow": False, "font": {"color": theme.ink, "size": 12},
        },
    ] if x else []  # fmt: skip
    line = {
        "type": "line", "x0": k, "x1": k, "xref": "x", "y0": 0, "y1": 1, "yref": "paper",
        "line": {"color": theme.ink, "width": 1.5},
    }  # fmt: skip
    figure = {
        "data": data,
        "layout": layout(
            theme, height,
            xaxis={"title": "Most suspicious units of each score", "type": "log", "tickformat": ",d", "dtick": 1},
            yaxis={"title": "Jaccard index", "range": [-0.03, 1.05], "dtick": 0.25, "tickformat": ".2f"},
            shapes=[line], annotations=notes, hovermode="closest",
        ),
    }  # fmt: skip
    alt = f"Overlap of the most suspicious units of two scores. {title} The Jaccard index is {here:.2f} there."
    return Chart(title, alt, figure, {"Units": x, "Jaccard": y, "By chance": chance})


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "\u2212")
