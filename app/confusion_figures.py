"""Which answers a cut or a defense changes: two confusion matrices side by side. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from app.figures import Chart, Table, layout
from app.palette import LIGHT, Measure, Theme, count, percent

#: Classes up to which each cell says its share, and the right answers are framed.
_READABLE = 12


def confusions(
    classes: Sequence[str],
    before: Sequence[Sequence[int]],
    after: Sequence[Sequence[int]],
    kind: Literal["clean", "triggered"],
    name: str,
    theme: Theme,
    height: int = 400,
) -> Chart:
    """Answers by true class before and after, side by side in the same colours: counts (K, K) each.

    Args:
        name: what the second one is called, as a sentence begins with it: ``Cut`` or ``After RNP``.
    """
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
        for x, words in ((0, f"Before, {kind} pictures"), (0.515, name))
    ]  # fmt: skip
    if readable:  # the right answers are set apart by a frame around each
        found["shapes"] = [
            {
                "type": "rect", "x0": k - 0.5, "x1": k + 0.5, "y0": k - 0.5, "y1": k + 0.5, "xref": f"x{place}",
                "yref": f"y{place}", "line": {"color": theme.ink, "width": 1.2}, "fillcolor": "rgba(0,0,0,0)",
            }
            for place in ("", 2)
            for k in range(len(classes))
        ]  # fmt: skip
    title = _clean_sentence(classes, counts, name) if kind == "clean" else _triggered_sentence(classes, counts, name)
    table: Table = {"True class": [], "Answer": [], "Before": [], "After": []}
    for true, name in enumerate(classes):
        for said, answer in enumerate(classes):
            if counts[0][true, said] or counts[1][true, said]:
                line = (name, answer, int(counts[0][true, said]), int(counts[1][true, said]))
                for column, value in zip(table, line, strict=True):
                    table[column].append(value)
    right = " and ".join(percent(float(np.trace(n) / max(1, n.sum()))) for n in counts)
    alt = f"Confusion matrices of {count(int(counts[0].sum()))} {kind} pictures, before, and {name.lower()}. {title} "
    alt += f"Named correctly: {right}."
    return Chart(title, alt, {"data": data, "layout": found}, table)


def _clean_sentence(classes: Sequence[str], counts: Sequence[np.ndarray], name: str) -> str:
    """The mistake that grows most."""
    change = counts[1] - counts[0]
    np.fill_diagonal(change, -1)
    true, said = divmod(int(change.argmax()), len(classes))
    if change[true, said] <= 0:
        return f"{name}, no clean picture is mistaken for another class that was not before."
    was, now = (int(n[true, said]) for n in counts)
    of = count(int(counts[1][true].sum()))
    return (
        f"{name}, {count(now)} of {of} pictures of {classes[true]} are called {classes[said]}, {count(was)} before: "
        "no other mistake grows more."
    )


def _triggered_sentence(classes: Sequence[str], counts: Sequence[np.ndarray], name: str) -> str:
    wrong = counts[0] - np.diag(np.diag(counts[0]))
    target = int(wrong.sum(0).argmax())
    was, now = (float(n[:, target].sum() / max(1, n.sum())) for n in counts)
    right = float(np.trace(counts[1]) / max(1, counts[1].sum()))
    return (
        f"{name}, {percent(now)} of the triggered pictures are called {classes[target]}, {percent(was)} before; "
        f"{percent(right)} get their true name."
    )
