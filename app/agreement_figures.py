"""Figures of the Compare page about two scores, and about the answers before and after a defense. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from app.agreement import Agreement, by_chance, jaccard, rank_agreement, shared, sizes
from app.figures import Chart, Table, layout
from app.palette import LIGHT, Measure, Theme, count, percent

#: Classes up to which each cell of a confusion matrix says its share.
_READABLE = 12


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


def confusions(
    classes: Sequence[str],
    before: Sequence[Sequence[int]],
    after: Sequence[Sequence[int]],
    kind: Literal["clean", "triggered"],
    defense: str,
    theme: Theme,
    height: int = 400,
) -> Chart:
    """Answers by true class before and after a defense, side by side in the same colours: counts (K, K) each."""
    counts = [np.asarray(before, float), np.asarray(after, float)]
    shares = [n / np.maximum(1, n.sum(1, keepdims=True)) for n in counts]
    m: Measure = "acc" if kind == "clean" else "asr"
    readable = len(classes) <= _READABLE
    data = []
    for place, share in enumerate(shares):
        number = place + 1 if place else ""
        text = [["" if v < 0.01 else f"{100 * v:.0f}" for v in line] for line in share]
        data.append(
            {
                "type": "heatmap", "x": list(classes), "y": list(classes), "z": np.round(share, 4).tolist(),
                "zmin": 0, "zmax": 1, "showscale": False, "xgap": 1, "ygap": 1,
                "colorscale": [[0, theme.faint if theme.name == "dark" else "#F3F0E9"], [1, LIGHT.text[m]]],
                **({"text": text, "texttemplate": "%{text}", "textfont": {"size": 11}} if readable else {}),
                "xaxis": f"x{number}", "yaxis": f"y{number}",
                "hovertemplate": "%{y}, called %{x}: <b>%{z:.1%}</b><extra></extra>",
            }
        )  # fmt: skip
    common = {"ticklabelstandoff": 4, "showgrid": False, "ticks": "", "showline": False, "fixedrange": True}
    found = layout(
        theme, height, margin={"l": 8, "r": 8, "t": 30, "b": 8},
        xaxis={"title": "Answer", "tickangle": -45, **common},
        yaxis={"title": "True class", "autorange": "reversed", **common},
    )  # fmt: skip
    found["xaxis2"] = {**found["xaxis"], "domain": [0.515, 1], "anchor": "y2"}
    found["xaxis"] = {**found["xaxis"], "domain": [0, 0.485]}
    found["yaxis2"] = {**found["yaxis"], "anchor": "x2", "showticklabels": False, "title": {"text": ""}}
    found["annotations"] = [
        {
            "x": x, "xref": "paper", "xanchor": "left", "y": 1, "yref": "paper", "yanchor": "bottom", "yshift": 6,
            "text": f"<b>{words}</b>", "showarrow": False, "font": {"color": theme.ink, "size": 13},
        }
        for x, words in ((0, f"Before, {kind} pictures"), (0.515, f"After {defense}"))
    ]  # fmt: skip
    title = _clean_sentence(classes, shares, defense) if kind == "clean" else _triggered_sentence(classes, counts)
    table: Table = {"True class": [], "Answer": [], "Before": [], "After": []}
    for true, name in enumerate(classes):
        for said, answer in enumerate(classes):
            if counts[0][true, said] or counts[1][true, said]:
                line = (name, answer, int(counts[0][true, said]), int(counts[1][true, said]))
                for column, value in zip(table, line, strict=True):
                    table[column].append(value)
    alt = f"Confusion matrices of {kind} pictures, before and after {defense}. {title}"
    return Chart(title, alt, {"data": data, "layout": found}, table)


def _clean_sentence(classes: Sequence[str], shares: Sequence[np.ndarray], defense: str) -> str:
    change = np.diag(shares[1]) - np.diag(shares[0])
    worst = int(np.argmin(change))
    if change[worst] > -0.0005:
        return f"{defense} costs no class any of its clean pictures."
    said = shares[1][worst].copy()
    said[worst] = -1
    return (
        f"{defense} costs {classes[worst]} most: {percent(shares[1][worst, worst])} of its clean pictures are named "
        f"correctly, {percent(shares[0][worst, worst])} before; most often it is called {classes[int(said.argmax())]}."
    )


def _triggered_sentence(classes: Sequence[str], counts: Sequence[np.ndarray]) -> str:
    wrong = counts[0] - np.diag(np.diag(counts[0]))
    target = int(wrong.sum(0).argmax())
    called = [float(n[:, target].sum() / max(1, n.sum())) for n in counts]
    right = float(np.trace(counts[1]) / max(1, counts[1].sum()))
    return (
        f"{percent(called[0])} of the triggered pictures are called {classes[target]} before, {percent(called[1])} "
        f"after, when {percent(right)} get their true name."
    )
