"""Scores layer by layer, the hero figure of the Layers page. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from app.data import Present, Study
from app.figures import Chart, Table, cividis_scale, layout, loses_most
from app.neuron_figures import where
from app.palette import Theme, count, fade, number, units

#: Points of the figure at most; of larger networks each layer keeps its highest and an even choice of the others.
MOST = 6000


def strips(study: Study, now: Present, chosen: str, theme: Theme) -> Chart:
    """Every unit at its score, a row for each layer in the order of the network; crosses are cut.

    A point and the row that it lies in carry the id of the unit or the name of the layer: see :func:`layer_of`.
    """
    rows, values = study.layers, study.values.astype(float)
    names, sizes = [str(row["name"]) for row in rows], [int(row["size"]) for row in rows]
    spans = [slice(int(row["offset"]), int(row["offset"]) + int(row["size"])) for row in rows]
    cuts = [int(now.cut[span].sum()) for span in spans]
    scored = np.isfinite(values)
    low, high = _range(values[scored], now.threshold)
    where_cut = now.cut.astype(bool)
    shown = _thinned(values, spans)
    height = np.concatenate([_spread(row, size) for row, size in enumerate(sizes)])
    ids = [f"{name}:{k}" for name, size in zip(names, sizes, strict=True) for k in range(size)]

    def those(kept: np.ndarray) -> dict[str, Any]:
        at = np.flatnonzero(kept & scored & shown)
        return {
            "type": "scattergl", "mode": "markers", "x": [round(float(values[k]), 4) for k in at],
            "y": [round(float(height[k]), 2) for k in at], "customdata": [ids[k] for k in at],
            "selected": {"marker": {"opacity": 1}}, "unselected": {"marker": {"opacity": 1}},
        }  # fmt: skip

    colour = [round(float(values[k]), 4) for k in np.flatnonzero(~where_cut & scored & shown)]
    outline = {"width": 0.5, "color": fade(theme.ink, 0.35)}
    traces: list[dict[str, Any]] = [
        {
            "type": "bar", "orientation": "h", "base": low, "x": [high - low] * len(rows), "y": [*range(len(rows))],
            "width": 1, "customdata": names, "hoverinfo": "text",
            "hovertext": _hover(names, sizes, cuts, spans, values),
            "marker": {
                "color": [fade(theme.ink, 0.1) if name == chosen else fade(theme.ink, 0.0) for name in names],
                "line": {"width": 0},
            },
            "selected": {"marker": {"opacity": 1}}, "unselected": {"marker": {"opacity": 1}}, "name": "layers",
        },
        {
            **those(~where_cut), "name": "kept", "hovertemplate": "<b>%{customdata}</b> %{x:.3g}<extra></extra>",
            "marker": {
                "size": 5, "color": colour, "colorscale": cividis_scale(), "cmin": low, "cmax": high, "line": outline,
            },
        },
        {
            **those(where_cut), "name": "cut", "hovertemplate": "<b>%{customdata}</b> %{x:.3g}, cut<extra></extra>",
            "marker": {"size": 6, "symbol": "x-thin", "line": {"width": 1.2, "color": theme.ink}},
        },
    ]  # fmt: skip
    shapes: list[dict[str, Any]] = []
    if now.threshold is not None:
        line = {"color": theme.ink, "width": 1.5}
        shapes.append({"type": "line", "x0": now.threshold, "x1": now.threshold, "y0": 0, "y1": 1, "yref": "paper",
                       "line": line})  # fmt: skip
    side = {"xref": "paper", "x": 1.0, "xanchor": "left", "showarrow": False, "xshift": 8}
    soft = {"color": theme.soft, "size": 11}
    known = [bool(scored[span].any()) for span in spans]
    notes = [
        {**side, "y": row, "yref": "y", "font": {"color": theme.ink, "size": 12} if n else soft,
         "text": f"<b>{n:,}</b> of {size:,}" if n else f"0 of {size:,}" if known[row] else "no score"}
        for row, (n, size) in enumerate(zip(cuts, sizes, strict=True))
    ]  # fmt: skip
    notes.append({**side, "y": 1, "yref": "paper", "yanchor": "bottom", "text": "units cut", "font": soft})
    title = loses_most(names, sizes, cuts) if now.pruned else where(study.values, rows, study.label)
    alt = (
        f"{study.label} scores of {count(len(values))} units, a row of points for each of {len(rows)} layers. {title} "
    )
    alt += "No threshold is set." if now.threshold is None else (
        f"The threshold is {number(now.threshold)}; {units(now.pruned)} cut in {sum(1 for n in cuts if n)} layers."
    )  # fmt: skip
    if not all(known):
        alt += f" {len(known) - sum(known)} layers have no unit with a score."
    if not shown.all():
        alt += f" Drawn are {count(int((shown & scored).sum()))} of them, the highest of each layer included."
    alt += f" Chosen: {chosen}."
    step = max(15, min(25, 520 // len(rows)))
    figure = {
        "data": traces,
        "layout": layout(
            theme, step * len(rows) + 74, clickmode="event+select", dragmode="pan", hovermode="closest",
            margin={"l": 8, "r": 84, "t": 24, "b": 8}, shapes=shapes, annotations=notes, bargap=0,
            xaxis={
                "title": study.meaning + (" \u25c7" if study.oracle else ""), "range": [low, high], "tickformat": "~g",
            },
            yaxis={
                "tickvals": [*range(len(rows))], "range": [len(rows) - 0.5, -0.5], "fixedrange": True, "ticks": "",
                "ticktext": [f"<b>\u25b8 {name}</b>" if name == chosen else name for name in names],
                "tickfont": {"color": theme.ink, "size": 12 if step > 16 else 10}, "showgrid": False,
            },
        ),
    }  # fmt: skip
    return Chart(title, alt, figure, _table(names, sizes, cuts, spans, values))


def layer_of(picked: Any) -> str:
    """The layer that a click in the figure means."""
    value = picked[0] if isinstance(picked, list | tuple) and picked else picked
    return str(value).rpartition(":")[0] or str(value)


def _range(values: np.ndarray, threshold: float | None) -> tuple[float, float]:
    ends = [*values.tolist(), *([] if threshold is None else [threshold])] or [0.0, 1.0]
    low, high = min(ends), max(ends)
    pad = 0.03 * ((high - low) or 1.0)
    return low - pad, high + pad


def _spread(row: int, size: int) -> np.ndarray:
    """Heights (size,) inside a row, evenly spread, so that equal scores do not hide each other."""
    return row + 0.66 * (np.arange(size) * 0.6180339887 % 1 - 0.5)


def _thinned(values: np.ndarray, spans: Sequence[slice]) -> np.ndarray:
    """Which units are drawn, bool (U,): all of them, unless there are too many."""
    shown = np.ones(len(values), bool)
    if len(values) <= MOST:
        return shown
    each = max(20, MOST // len(spans))
    for span in spans:
        here = values[span]
        if len(here) > each:
            order = np.argsort(-np.nan_to_num(here, nan=-np.inf), kind="stable")
            kept = np.concatenate([order[: each // 2], order[each // 2 :: -(-2 * len(here) // each)]])
            part = np.zeros(len(here), bool)
            part[kept] = True
            shown[span] = part
    return shown


def _hover(
    names: Sequence[str], sizes: Sequence[int], cuts: Sequence[int], spans: Sequence[slice], values: np.ndarray
) -> list[str]:
    found = []
    for name, size, n, span in zip(names, sizes, cuts, spans, strict=True):
        known = values[span][np.isfinite(values[span])]
        most = f", highest score {number(float(known.max()))}" if len(known) else ", none has a score"
        found.append(f"<b>{name}</b><br>{n:,} of {size:,} units cut{most}")
    return found


def _table(
    names: Sequence[str], sizes: Sequence[int], cuts: Sequence[int], spans: Sequence[slice], values: np.ndarray
) -> Table:
    parts = [values[span][np.isfinite(values[span])] for span in spans]
    table: Table = {"Layer": [*names], "Units": [*sizes], "Cut": [*cuts], "With a score": [len(part) for part in parts]}
    for label, share in (("Median", 0.5), ("95th percentile", 0.95), ("Highest", 1.0)):
        table[label] = [round(float(np.quantile(part, share)), 4) if len(part) else None for part in parts]
    return table


def default_layer(study: Study, now: Present) -> str:
    """The layer to look at first: the one that loses most units, else the one with the highest score."""
    rows, values = study.layers, np.nan_to_num(study.values.astype(float), nan=-np.inf)
    cuts = [int(now.cut[int(row["offset"]) : int(row["offset"]) + int(row["size"])].sum()) for row in rows]
    if now.pruned:
        return str(rows[int(np.argmax(cuts))]["name"])
    top = int(np.argmax(values))
    return next(str(r["name"]) for r in rows if r["offset"] <= top < r["offset"] + r["size"])


def place_of(layers: Sequence[Mapping[str, Any]], name: str) -> int | None:
    """The number of a layer in the order of the network, or None if there is no such layer."""
    return next((k for k, row in enumerate(layers) if row["name"] == name), None)
