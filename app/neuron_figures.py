"""Figures of the Neurons page: those of :mod:`app.figures`, fitted to stand beside the grid. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from app import agreement, figures
from app.data import Study
from app.figures import Chart
from app.palette import CIVIDIS, Measure, Theme, count, fade, number, percent, rgb


def short(value: float) -> str:
    """Three significant digits with a true minus sign, as captions give them; never in powers of ten."""
    if not np.isfinite(value):
        return "none"
    if abs(value) < 0.0005:
        return "0"
    digits = max(0, 2 - int(np.floor(np.log10(abs(value)))))
    return f"{value:.{min(digits, 3)}f}".replace("-", "\u2212")


def where(values: np.ndarray, layers: Sequence[Mapping[str, Any]], label: str, most: int = 100) -> str:
    """Where the units with the highest scores sit, as the sentence above the grid."""
    eligible = np.flatnonzero(np.isfinite(values))
    positive = eligible[values[eligible] > values[eligible].min()] if len(eligible) else eligible
    if not len(positive):
        return f"{label} gives every unit the same score."
    top = positive[np.argsort(-values[positive], kind="stable")][:most]
    per = [int(((top >= row["offset"]) & (top < row["offset"] + row["size"])).sum()) for row in layers]
    best = int(np.argmax(per))
    size = int(layers[best]["size"])
    held = f"{count(per[best])} are in {layers[best]['name']}, which has {percent(size / len(values), 0)} of all units."
    return f"Of the {count(len(top))} units that {label} scores highest, {held}"


def scatter(
    clean: np.ndarray,
    triggered: np.ndarray | None,
    scores: np.ndarray,
    layers: Sequence[Mapping[str, Any]],
    theme: Theme,
    *,
    meaning: str,
    ring: str | None,
    group: Sequence[str] = (),
    height: int = 296,
) -> Chart:
    """Every unit by what it puts out, in the colours of the grid beside it.

    With ``triggered`` (U,) it is the mean output on triggered pictures over that on clean ones, without it the score.
    The specification depends on nothing but the arguments: drawn again it is the same to the byte.
    """
    other = scores if triggered is None else triggered
    drawn = figures.scatter(
        clean, other, layers, theme, colour=scores, colour_label=meaning,
        kind="score" if triggered is None else "triggered", ring=ring, height=height,
    )  # fmt: skip
    # While the lasso is the drag mode Streamlit takes no clicks; the toolbar has it.
    drawn.figure["layout"]["dragmode"] = "pan"
    ids, x, y = drawn.table.values()
    drawn.figure["data"] += _ringed(group, ids, x, y, theme)
    for trace in drawn.figure["data"]:
        if "colorscale" in trace.get("marker", {}):
            trace["marker"].pop("colorbar", None)  # the grid beside it carries the scale
            trace["marker"]["showscale"] = False
            trace["marker"]["line"] = {"width": 0.6, "color": fade(theme.ink, 0.3 if theme.name == "dark" else 0.45)}
    title = drawn.title
    if triggered is not None:
        end = float(np.nanmax(clean))
        drawn.figure["layout"]["annotations"] = [
            {
                "x": end, "y": end, "text": "same on both", "showarrow": False, "xanchor": "right", "yanchor": "top",
                "yshift": -20, "font": {"color": theme.soft, "size": 12},
            }
        ]  # fmt: skip
        top = int(np.nanargmax(triggered - clean))
        ids = drawn.table["Unit"]
        before, after = short(float(clean[top])), short(float(triggered[top]))
        title = f"{ids[top]} answers the trigger most: its mean output goes from {before} to {after}."
        drawn = replace(drawn, alt=drawn.alt.replace(drawn.title, title))
    return replace(drawn, title=title)


def _ringed(
    group: Sequence[str], ids: Sequence[str], x: Sequence[float | None], y: Sequence[float | None], theme: Theme
) -> list[dict[str, Any]]:
    """Small rings about units that were chosen together elsewhere."""
    at = {unit: k for k, unit in enumerate(ids)}
    known = [k for unit in group if (k := at.get(unit)) is not None and x[k] is not None and y[k] is not None]
    if not known:
        return []
    return [
        {
            "type": "scattergl", "mode": "markers", "x": [x[k] for k in known], "y": [y[k] for k in known],
            "hoverinfo": "skip", "unselected": {"marker": {"opacity": 0}},
            "marker": {"size": 10, "symbol": "circle-open", "color": theme.ink, "line": {"width": 1.2}},
        }
    ]  # fmt: skip


def two_scores(
    first: Study, second: Study, theme: Theme, *, ring: str | None, group: Sequence[str] = (), height: int = 340
) -> Chart:
    """Every unit by two scores, coloured by the ``first``; units that one of them does not score stand apart.

    Those lie in a strip at the lower end of the axis whose score they lack, hollow; units without either are left
    out. The specification depends on nothing but the arguments.
    """
    ids = [f"{row['name']}:{k}" for row in first.layers for k in range(int(row["size"]))]
    values = {"x": first.values.astype(float), "y": second.values.astype(float)}
    scored = {axis: np.isfinite(v) for axis, v in values.items()}
    both = scored["x"] & scored["y"]
    apart = (scored["x"] | scored["y"]) & ~both
    axes: dict[str, Any] = {}
    placed: dict[str, list[float | None]] = {}
    shapes: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    for axis, study in (("x", first), ("y", second)):
        known = values[axis][scored[axis]]
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        span = (high - low) or 1.0
        strip, lacking = low - 0.09 * span, apart & ~scored[axis]
        where = np.where(lacking, strip, values[axis])
        placed[axis] = [None if not np.isfinite(v) else round(float(v), 4) for v in where]
        bottom = strip - 0.05 * span if lacking.any() else low - 0.03 * span
        axes[f"{axis}axis"] = {
            "title": study.meaning + (" \u25c7" if study.oracle else ""), "tickformat": "~g",
            "range": [bottom, high + 0.05 * span],
        }  # fmt: skip
        if lacking.any():
            edge, other = low - 0.045 * span, "y" if axis == "x" else "x"
            line = {"color": theme.soft, "width": 1, "dash": "dot"}
            shapes.append({"type": "line", "line": line, f"{axis}0": edge, f"{axis}1": edge, f"{other}0": 0,
                           f"{other}1": 1, f"{other}ref": "paper"})  # fmt: skip
            notes.append(
                {
                    axis: strip, other: 1, f"{other}ref": "paper", "text": f"no {study.label}", "showarrow": False,
                    "font": {"color": theme.soft, "size": 11}, "bgcolor": theme.paper,
                    **({"textangle": -90, "yanchor": "top"} if axis == "x" else {"xanchor": "right"}),
                }
            )  # fmt: skip

    def those(chosen: np.ndarray) -> dict[str, Any]:
        numbers = [int(k) for k in np.flatnonzero(chosen)]
        return {
            "type": "scattergl", "mode": "markers",
            "x": [placed["x"][k] for k in numbers], "y": [placed["y"][k] for k in numbers],
            "customdata": [ids[k] for k in numbers],
            "selected": {"marker": {"size": 13, "opacity": 1}}, "unselected": {"marker": {"opacity": 0.35}},
        }  # fmt: skip

    outline = {"width": 0.6, "color": fade(theme.ink, 0.3 if theme.name == "dark" else 0.45)}
    colour = [round(float(v), 4) for v in values["x"][both]]
    hover = f"<b>%{{customdata}}</b><br>{first.label} %{{x:.3g}}, {second.label} %{{y:.3g}}<extra></extra>"
    traces: list[dict[str, Any]] = [
        {
            **those(both), "hovertemplate": hover,
            "marker": {"size": 6, "color": colour, "colorscale": figures.cividis_scale(), "line": outline},
        },
    ]  # fmt: skip
    if apart.any():
        hollow = {"size": 6, "symbol": "circle-open", "color": theme.soft}
        lone = "<b>%{customdata}</b><br>scored by only one of the two<extra></extra>"
        traces.append({**those(apart), "marker": hollow, "hovertemplate": lone})
    traces += _ringed(group, ids, placed["x"], placed["y"], theme)
    if ring in ids and placed["x"][ids.index(ring)] is not None and placed["y"][ids.index(ring)] is not None:
        k = ids.index(ring)
        traces.append(figures.ringed(str(ring), placed["x"][k], placed["y"][k], theme))
    layout = figures.layout(
        theme, height, left=60, clickmode="event+select", dragmode="pan", hovermode="closest", shapes=shapes,
        annotations=notes, **axes,
    )  # fmt: skip
    k = max(1, min(100, int(both.sum()) // 20 or 1))
    common = agreement.shared(first.values, second.values, k)
    title = (
        f"Of the {count(k)} units that {first.label} scores highest, {count(round(common))} are also among the "
        f"{count(k)} highest of {second.label}."
    )
    missing = f" {count(int(apart.sum()))} units have only one of the two scores and stand apart." * bool(apart.any())
    correlation = agreement.rank_agreement(first.values, second.values).rank
    if correlation is not None:
        missing += f" Rank correlation {correlation:.2f}."
    alt = f"{count(len(ids))} units by {first.label} and {second.label}. {title}{missing}"
    table: figures.Table = {"Unit": ids, first.label: _numbers(values["x"]), second.label: _numbers(values["y"])}
    return Chart(title, alt, {"data": traces, "layout": layout}, table)


def _numbers(values: np.ndarray) -> list[float | None]:
    return [None if not np.isfinite(v) else round(float(v), 4) for v in values]


def responses(hist: Mapping[str, Any], theme: Theme, height: int = 190, named: str = "") -> Chart:
    """What a unit puts out: its mean output on every defense picture, clean filled, triggered as a dashed outline.

    With ``unlearned`` counts in place of ``triggered`` ones the outline, dotted in ink, is what it puts out on the same
    clean pictures in the unlearned model. With ``marked`` ones it is with a trigger that is ``named``.
    """
    forgot, marked = "unlearned" in hist, "marked" in hist
    if forgot or marked:
        hist = {**hist, "triggered": hist["unlearned" if forgot else "marked"]}
    drawn = figures.outputs(hist, "the unit", theme, height)
    edges = np.asarray(hist["edges"], float)
    middles = (edges[:-1] + edges[1:]) / 2
    clean = np.asarray(hist["clean"], float)
    stamped = None if hist.get("triggered") is None else np.asarray(hist["triggered"], float)
    mean = float((middles * clean).sum() / max(1.0, clean.sum()))
    title, alt_kinds = f"Mean output {short(mean)} on clean pictures.", "clean"
    labels: list[tuple[str, Measure, np.ndarray]] = [("clean", "acc", clean)]
    if stamped is not None:
        high = float((middles * stamped).sum() / max(1.0, stamped.sum()))
        title = f"Mean output {short(mean)} on clean, {short(high)} on triggered pictures."
        alt_kinds = "clean (blue bars) and triggered (dashed outline)"
        labels.append(("triggered", "asr", stamped))
        if forgot:
            title = f"Mean output {short(mean)} in the suspect, {short(high)} in the unlearned model, both on clean."
            alt_kinds = "clean (blue bars: suspect; dotted outline: unlearned model)"
        if marked:
            title = f"Mean output {short(mean)} on clean pictures, {short(high)} with {named}."
            alt_kinds = f"clean (blue bars; dashed outline: with {named})"
    top = max(float(n.max()) for _, _, n in labels)
    peaks = [int(n.argmax()) for _, _, n in labels]
    # Where both peaks are at one place the labels are stacked above the higher one.
    together = len(labels) > 1 and abs(middles[peaks[0]] - middles[peaks[1]]) < 0.35 * (edges[-1] - edges[0])
    notes = [
        {
            "x": float(middles[max(1, min(at, len(middles) - 3))]) if len(middles) > 4 else float(middles[at]),
            "y": top if together else float(n[at]),
            "text": f"<b>{text}</b>", "showarrow": False, "yanchor": "bottom",
            "yshift": 2 + (15 * place if together else 0), "font": {"color": theme.text[key], "size": 12},
        }
        for place, ((text, key, n), at) in enumerate(zip(labels, peaks, strict=True))
    ]  # fmt: skip
    if forgot:
        notes[0]["text"], notes[1]["text"], notes[1]["font"] = (
            "<b>suspect</b>",
            "<b>unlearned</b>",
            {"color": theme.ink, "size": 12},
        )
        outline = drawn.figure["data"][1]
        outline["line"] = {**outline["line"], "color": theme.ink, "dash": "dot"}
        outline["name"], outline["hovertemplate"] = "unlearned", "%{y} pictures near %{x:.3g}, unlearned<extra></extra>"
        drawn.table["Unlearned"] = drawn.table.pop("Triggered")
    if marked:
        notes[1]["text"] = f"<b>{named}</b>"
        outline, drawn.table[f"With {named}"] = drawn.figure["data"][1], drawn.table.pop("Triggered")
        outline["name"], outline["hovertemplate"] = named, f"%{{y}} pictures near %{{x:.3g}}, {named}<extra></extra>"
    layout = drawn.figure["layout"]
    layout["annotations"] = notes
    layout["yaxis"] = {**layout["yaxis"], "range": [0, 1.36 * max(top, 1.0)]}
    layout["margin"] = {**layout["margin"], "t": 4}
    layout["xaxis"] = {**layout["xaxis"], "nticks": 4, "title": {**layout["xaxis"]["title"], "text": "Mean output"}}
    alt = f"Distribution of the unit's mean output over {int(clean.sum()):,} {alt_kinds} pictures. {title}"
    return Chart(title, alt, drawn.figure, drawn.table)


def by_class(value: Mapping[str, Any], classes: Sequence[str], unit: str, theme: Theme) -> Chart:
    """What a unit puts out on the pictures of each class: a row each, clean filled, triggered as a dashed outline.

    ``value`` holds ``edges`` (bins + 1), ``clean`` and ``triggered`` (a list of counts for each class, or None).
    """
    edges = np.asarray(value["edges"], float)
    middles = (edges[:-1] + edges[1:]) / 2
    sides: list[tuple[str, Measure, np.ndarray]] = [("clean", "acc", np.asarray(value["clean"], float))]
    if value.get("triggered") is not None:
        sides.append(("triggered", "asr", np.asarray(value["triggered"], float)))
    means = {name: (counts @ middles) / np.maximum(1, counts.sum(1)) for name, _, counts in sides}
    tallest = max(1.0, *(float(counts.max()) for _, _, counts in sides))
    traces: list[dict[str, Any]] = []
    for row, label in enumerate(classes):
        base = len(classes) - 1 - row
        for name, key, counts in sides:
            heights = base + 0.9 * counts[row] / tallest
            filled = name == "clean"
            traces += [
                {"type": "scatter", "mode": "lines", "x": [float(edges[0]), float(edges[-1])], "y": [base, base],
                 "hoverinfo": "skip", "line": {"color": theme.faint, "width": 1}},
                {
                    "type": "scatter", "mode": "lines", "x": [round(float(e), 5) for e in edges],
                    "y": [round(float(h), 4) for h in (*heights, heights[-1])], "name": f"{label}, {name}",
                    "line": {"shape": "hv", "color": theme.line[key], "width": 1 if filled else 1.6,
                             "dash": "solid" if filled else "dash"},
                    **({"fill": "tonexty", "fillcolor": fade(theme.line[key], 0.4)} if filled else {}),
                    "hovertemplate": f"{label}, {name}: mean {short(float(means[name][row]))}<extra></extra>",
                },
            ]  # fmt: skip
    name, _, _ = sides[-1]
    top, low = int(means[name].argmax()), int(means[name].argmin())
    title = (
        f"{unit} answers {name} {classes[top]} most (mean {short(float(means[name][top]))}), {classes[low]} least "
        f"({short(float(means[name][low]))})."
    )
    layout = figures.layout(
        theme, 26 * len(classes) + 64,
        xaxis={"title": "Mean output over a picture", "tickformat": "~g", "fixedrange": True},
        yaxis={
            "tickvals": [len(classes) - 1 - row + 0.3 for row in range(len(classes))], "ticktext": list(classes),
            "range": [-0.15, len(classes) + 0.05], "fixedrange": True, "showgrid": False, "ticks": "",
        },
    )  # fmt: skip
    kinds = "clean (filled) and triggered (dashed outline)" if len(sides) > 1 else "clean"
    alt = f"Histograms of the unit's mean output on {kinds} pictures of each of {len(classes)} classes. {title}"
    table: figures.Table = {"Class": list(classes)}
    table |= {f"Mean, {name}": [round(float(m), 4) for m in means[name]] for name, _, _ in sides}
    return Chart(title, alt, {"data": traces, "layout": layout}, table)


# --- pictures --------------------------------------------------------------------------------------------------------


def cividis(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """(H, W) numbers to uint8 (H, W, 3) along cividis, dark at ``low``, yellow at ``high``."""
    share = np.clip((np.nan_to_num(values) - low) / max(high - low, 1e-12), 0, 1) * (len(CIVIDIS) - 1)
    stops = np.array([rgb(colour) for colour in CIVIDIS], np.float32)
    first = np.minimum(share.astype(int), len(CIVIDIS) - 2)
    mixed = stops[first] + (stops[first + 1] - stops[first]) * (share - first)[..., None]
    return np.round(mixed).astype(np.uint8)


def fitted(size: int, side: int) -> int:
    """The width of a picture of ``size`` pixels that may take ``side``: a whole multiple where one fits."""
    return size * (side // size) if size <= side else side


def describe(values: np.ndarray, what: str) -> str:
    """A map in words: its size, its range and where it is strongest."""
    if not values.size:
        return f"{what}: empty."
    row, column = np.unravel_index(int(np.nan_to_num(values).argmax()), values.shape)
    return (
        f"{what}, {values.shape[0]} by {values.shape[1]} positions: from {number(float(values.min()))} to "
        f"{number(float(values.max()))}, highest at row {row + 1}, column {column + 1}."
    )
