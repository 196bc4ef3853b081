"""Engine results to figures: pure functions that know neither Streamlit nor the session.

A figure is a Plotly specification as plain lists and dicts, with a title that is a sentence built from the data, an
alt text, and the same numbers as a table. What must not be seen has been removed from the results before they come
here; a figure without ASR is what a defender gets, not an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from app.palette import (
    DASH,
    FONT,
    MARKER,
    MEASURES,
    NAME,
    Measure,
    Theme,
    cividis_scale,
    count,
    cut_sentence,
    fade,
    number,
    percent,
    units,
)

Against = Literal["units", "threshold"]
Table = dict[str, list[Any]]
K = TypeVar("K", bound=str)


@dataclass(frozen=True)
class Chart:
    """A Plotly specification with its words: ``title`` stands above it, ``alt`` is what a screen reader says."""

    title: str
    alt: str
    figure: dict[str, Any]
    table: Table


#: Pixels below a plot that the labels of its ticks and the title of its axis take.
_BELOW = 47


def layout(theme: Theme, height: int, *, left: int | None = None, **more: Any) -> dict[str, Any]:
    """What all figures share: the theme's paper and ink, no chart junk, tabular numerals.

    ``left``: pixels for the labels and the title of the vertical axis. Without it Plotly measures them, for which it
    draws everything twice: figures that are redrawn while somebody waits say it.
    """
    axis = {
        "gridcolor": theme.faint,
        "linecolor": theme.faint,
        "tickcolor": theme.faint,
        "zeroline": False,
        "showline": True,
        "ticks": "outside",
        "ticklen": 4,
        "tickfont": {"color": theme.soft, "size": 12},
        "automargin": left is None,
    }
    title = {"font": {"color": theme.soft, "size": 13}, "standoff": 8}
    base: dict[str, Any] = {
        "height": height,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "color": theme.ink, "size": 13},
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "showlegend": False,
        "template": {},  # else Plotly sends its own along with every figure
        "hoverlabel": {
            "bgcolor": theme.paper,
            "bordercolor": theme.faint,
            "font": {"family": FONT, "color": theme.ink, "size": 13},
        },
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": theme.soft, "activecolor": theme.ink},
        "dragmode": "zoom",
    }
    if left is not None:
        base["margin"] = {**base["margin"], **more.pop("margin", {}), "l": left, "b": _BELOW}
    for name in ("xaxis", "yaxis"):
        given = more.pop(name, {})
        text = given.pop("title", "")
        base[name] = {**axis, "title": {**title, "text": text}, **given}
    return {**base, **more}


def _rounded(values: Sequence[Any] | np.ndarray, digits: int = 5) -> list[float | None]:
    return [None if v is None or not np.isfinite(v) else round(float(v), digits) for v in values]


# --- the curve -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Other:
    """A pinned study, drawn thin behind the curve."""

    label: str
    points: Sequence[Mapping[str, Any]]


def curve(
    points: Sequence[Mapping[str, Any]],
    theme: Theme,
    *,
    total: int,
    pruned: int,
    threshold: float | None,
    shown: Mapping[str, float | None],
    before: Mapping[str, float | None] | None = None,
    against: Against = "units",
    score: str = "score",
    pinned: Other | None = None,
    height: int = 330,
) -> Chart:
    """ACC, ASR and RA along the cuts of a score.

    Args:
        points: measured points, rising in ``pruned``; a measure that is missing or None is not drawn.
        total: units of the network. ``pruned`` and ``threshold``: the chosen cut, the same line in every panel.
        shown: figures of the chosen cut, for the sentence; ``before`` of the uncut model, if not the first point's.
    """
    measures = [m for m in MEASURES if any(p.get(m) is not None for p in points)]
    rows = [p for p in points if against == "units" or p["threshold"] is not None]
    x = [p["pruned"] if against == "units" else p["threshold"] for p in rows]
    traces: list[dict[str, Any]] = []
    for m in measures:
        traces.append(band(rows, x, m, theme))
    if pinned is not None:
        others = [p for p in pinned.points if against == "units" or p["threshold"] is not None]
        for m in MEASURES:
            if any(p.get(m) is not None for p in others) and against == "units":
                traces.append(_thin(others, m, theme, pinned.label))
    for m in measures:
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": _rounded(x, 6),
                "y": _rounded([p.get(m) for p in rows]),
                "name": NAME[m],
                "line": {"color": theme.line[m], "width": 2, "dash": DASH[m]},
                "marker": {"size": 5, "symbol": MARKER[m], "color": theme.line[m]},
                "customdata": [[count(p["pruned"]), number(p["threshold"])] for p in rows],
                "hovertemplate": f"<b>{NAME[m]} %{{y:.1%}}</b><br>%{{customdata[0]}} units cut, at or above "
                "%{customdata[1]}<extra></extra>",
            }
        )
    edge = _reach(points, pruned, total)
    upper = edge if against == "units" else max([v for v in x if v is not None], default=1.0)
    lower = 0.0 if against == "units" else min([v for v in x if v is not None], default=0.0)
    pad = (upper - lower) * 0.02
    at: float | None = pruned if against == "units" else threshold
    shapes, notes = [], []
    if at is not None:
        shapes.append(_line(at, theme))
    last = _right_end(rows, x, measures, upper, against)
    for m, y in spread({m: last[m] for m in measures}).items():
        notes.append(
            {
                "x": 1.0, "xref": "paper", "xanchor": "left", "xshift": 6, "y": y, "yref": "y", "showarrow": False,
                "text": f"<b>{NAME[m]}</b>", "font": {"color": theme.text[m], "size": 13},
            }
        )  # fmt: skip
    unit = "units cut" if against == "units" else f"threshold on {score}"
    title = cut_sentence(dict(before or _of(points[0])), dict(shown), pruned, total)
    alt = f"{_words(measures)} against {unit}. {title}"
    if pinned is not None:
        alt += f" Thin lines: {pinned.label}."
    figure = {
        "data": traces,
        "layout": layout(
            theme,
            height,
            left=64,
            margin={"r": 44, "t": 10},
            xaxis={
                "title": unit[0].upper() + unit[1:],
                "range": [lower - pad, upper + pad],
                "tickformat": ",d" if against == "units" else "~g",
            },
            yaxis={"title": "Share of test pictures", "range": [-0.03, 1.03], "tickformat": ".0%", "dtick": 0.25},
            shapes=shapes,
            annotations=notes,
            hovermode="closest",
        ),
    }
    table: Table = {
        "Units cut": [p["pruned"] for p in points],
        "Threshold": [p["threshold"] for p in points],
    }
    for m in measures:
        for end, words in (("", ""), ("_low", " from"), ("_high", " to")):
            table[f"{NAME[m]}{words}"] = _rounded(
                [np.nan if (v := p.get(f"{m}{end}")) is None else v for p in points], 4
            )
    return Chart(title, alt, figure, table)


def _of(point: Mapping[str, Any]) -> dict[str, float | None]:
    return {m: point.get(m) for m in MEASURES}


def _words(measures: Sequence[Measure]) -> str:
    names = [{"acc": "Accuracy", "asr": "attack success", "ra": "robust accuracy"}[m] for m in measures]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def band(rows: Sequence[Mapping[str, Any]], x: Sequence[Any], m: Measure, theme: Theme) -> dict[str, Any]:
    low, high = [p.get(f"{m}_low") for p in rows], [p.get(f"{m}_high") for p in rows]
    kept = [k for k in range(len(rows)) if low[k] is not None and high[k] is not None]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": _rounded([x[k] for k in kept] + [x[k] for k in reversed(kept)], 6),
        "y": _rounded([low[k] for k in kept] + [high[k] for k in reversed(kept)]),
        "fill": "toself",
        "fillcolor": fade(theme.line[m], 0.16),
        "line": {"width": 0, "color": fade(theme.line[m], 0)},
        "hoverinfo": "skip",
        "name": f"{NAME[m]} interval",
    }


def _thin(rows: Sequence[Mapping[str, Any]], m: Measure, theme: Theme, label: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [p["pruned"] for p in rows],
        "y": _rounded([p.get(m) for p in rows]),
        "line": {"color": fade(theme.line[m], 0.55), "width": 1.2, "dash": DASH[m]},
        "name": f"{NAME[m]}, {label}",
        "hovertemplate": f"{NAME[m]} %{{y:.1%}}, {label}<extra></extra>",
    }


def _line(at: float, theme: Theme) -> dict[str, Any]:
    return {
        "type": "line", "x0": at, "x1": at, "xref": "x", "y0": 0, "y1": 1, "yref": "paper",
        "line": {"color": theme.ink, "width": 1.5},
    }  # fmt: skip


def _reach(points: Sequence[Mapping[str, Any]], pruned: int, total: int) -> float:
    """Where the axis of units ends at first: past what matters and past the present cut; a double click shows all."""
    start = points[0].get("acc")
    dead = next((p["pruned"] for p in points if start and p.get("acc") is not None and p["acc"] < start / 2), total)
    return float(min(points[-1]["pruned"], max(dead, 1.6 * pruned, 0.06 * total)))


def _right_end(
    rows: Sequence[Mapping[str, Any]], x: Sequence[Any], measures: Sequence[Measure], edge: float, against: Against
) -> dict[Measure, float]:
    order = np.argsort(x) if against == "threshold" else np.arange(len(x))
    xs = [x[k] for k in order]
    return {m: float(np.interp(edge, xs, [float(rows[k].get(m) or 0.0) for k in order])) for m in measures}


def spread(ends: Mapping[K, float], gap: float = 0.075) -> dict[K, float]:
    """Heights of labels beside the lines' ends, moved apart where they would overlap."""
    order = sorted(ends, key=lambda m: ends[m])
    placed: dict[K, float] = {}
    floor = 0.0
    for m in order:
        placed[m] = max(ends[m], floor)
        floor = placed[m] + gap
    over = max([*placed.values(), 0.0]) - 1.0
    if over > 0:
        ceiling = 1.0
        for m in reversed(order):
            placed[m] = min(placed[m], ceiling)
            ceiling = placed[m] - gap
    return placed


def held_out(
    rows: Sequence[Mapping[str, Any]],
    theme: Theme,
    *,
    samples: int,
    tolerance: float | None,
    pruned: int,
    height: int = 200,
) -> Chart:
    """What the default threshold is chosen from: accuracy lost on clean pictures that the score did not see.

    Args:
        rows: ``pruned`` (rising), ``drop`` with its paired interval ``low`` and ``high``, fractions.
        pruned: the present cut; its sentence is about the largest measured cut that is not larger.
    """
    x = [row["pruned"] for row in rows]
    here = rows[max(0, int(np.searchsorted(x, pruned, side="right")) - 1)]
    drop, low, high = (f"{100 * here[key]:.1f}".replace("-", "\u2212") for key in ("drop", "low", "high"))
    title = (
        f"On {count(samples)} held-out clean pictures accuracy loses {drop} points, {low} to {high}, with "
        f"{units(here['pruned'])} cut."
    )
    if pruned > x[-1]:
        title += " Larger cuts were not tried there."
    shapes = [_line(pruned, theme)]
    notes = []
    if tolerance is not None:
        shapes.append(
            {
                "type": "line", "x0": 0, "x1": 1, "xref": "paper", "y0": tolerance, "y1": tolerance, "yref": "y",
                "line": {"color": theme.soft, "width": 1, "dash": "dot"},
            }
        )  # fmt: skip
        notes.append(
            {
                "x": 0, "xref": "paper", "xanchor": "left", "y": tolerance, "yref": "y", "yanchor": "bottom",
                "showarrow": False, "text": f"tolerance {100 * tolerance:.1f} points",
                "font": {"color": theme.soft, "size": 12},
            }
        )  # fmt: skip
    drops = [{"acc": row["drop"], "acc_low": row["low"], "acc_high": row["high"]} for row in rows]
    line = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": x,
        "y": _rounded([row["drop"] for row in rows]),
        "line": {"color": theme.line["acc"], "width": 2},
        "marker": {"size": 5, "symbol": MARKER["acc"], "color": theme.line["acc"]},
        "customdata": [f"{100 * row['low']:.1f} to {100 * row['high']:.1f}" for row in rows],
        "hovertemplate": "<b>%{y:.1%} lost</b>, %{customdata} points<br>%{x:,} units cut<extra></extra>",
    }
    upper = float(max(x[-1], 1.05 * min(pruned, 1.4 * x[-1])))
    figure = {
        "data": [band(drops, x, "acc", theme), line],
        "layout": layout(
            theme,
            height,
            left=64,
            margin={"r": 44, "t": 10},
            xaxis={"title": "Units cut", "range": [-0.02 * upper, upper * 1.02], "tickformat": ",d"},
            yaxis={"title": "Accuracy lost", "tickformat": ".0%", "nticks": 5},
            shapes=shapes,
            annotations=notes,
            hovermode="closest",
        ),
    }
    alt = f"Held-out accuracy drop against units cut. {title}"
    if tolerance is not None:
        alt += f" The tolerance is {100 * tolerance:.1f} points."
    table: Table = {"Units cut": x}
    for key, words in (("drop", "Accuracy lost"), ("low", "from"), ("high", "to")):
        table[words] = _rounded([row[key] for row in rows], 4)
    return Chart(title, alt, figure, table)


# --- what is cut, layer by layer -------------------------------------------------------------------------------------


def loses_most(names: Sequence[str], sizes: Sequence[int], cuts: Sequence[int]) -> str:
    """Which layer loses most units, as a sentence."""
    if not sum(cuts):
        return "No layer loses a unit."
    top = int(np.argmax(cuts))
    touched = sum(1 for n in cuts if n)
    share = percent(cuts[top] / sum(cuts), 0)
    title = f"{names[top]} loses most: {count(cuts[top])} of its {count(sizes[top])} units"
    return title + (f", {share} of the whole cut." if touched > 1 else ", and no other layer loses any.")


def per_layer(layers: Sequence[Mapping[str, Any]], cut: np.ndarray, theme: Theme, height: int = 330) -> Chart:
    """Units cut in each layer, hatched, in the outline of the layer's size."""
    names = [str(row["name"]) for row in layers]
    sizes = [int(row["size"]) for row in layers]
    cuts = [int(cut[row["offset"] : row["offset"] + row["size"]].sum()) for row in layers]
    total, all_cut = sum(sizes), sum(cuts)
    title = loses_most(names, sizes, cuts)
    hover = [
        f"<b>{n}</b><br>{c:,} of {s:,} units cut ({percent(c / s)})" for n, c, s in zip(names, cuts, sizes, strict=True)
    ]
    shared: dict[str, Any] = {"type": "bar", "orientation": "h", "y": names, "hoverinfo": "text", "hovertext": hover}
    # Hatched as in the grid; the pattern keeps the cut readable without hue.
    pattern = {"shape": "/", "fgcolor": theme.ink, "bgcolor": fade(theme.ink, 0.22), "size": 5, "solidity": 0.28}
    figure = {
        "data": [
            {
                **shared,
                "x": sizes,
                "marker": {"color": fade(theme.ink, 0.05), "line": {"color": theme.faint, "width": 1}},
            },
            {
                **shared,
                "x": cuts,
                "marker": {
                    "color": fade(theme.ink, 0.22),
                    "pattern": pattern,
                    "line": {"color": theme.ink, "width": 0.6},
                },
                "text": [f"{c:,}" if c else "" for c in cuts],
                "textposition": "outside",
                "cliponaxis": False,
                "textfont": {"color": theme.ink, "size": 12},
            },
        ],
        "layout": layout(
            theme,
            height,
            left=14 + 6 * max(map(len, names)),
            barmode="overlay",
            bargap=0.28,
            xaxis={"title": "Units (hatched: cut)", "tickformat": ",d", "fixedrange": True},
            yaxis={
                "autorange": "reversed",
                "fixedrange": True,
                "showgrid": False,
                "tickfont": {"color": theme.soft, "size": 11},
                "dtick": 1,
                "ticks": "",
            },
        ),
    }
    alt = f"Bars of the units cut in each of {len(names)} layers, {count(all_cut)} of {count(total)} in all. {title}"
    return Chart(title, alt, figure, {"Layer": names, "Units": sizes, "Cut": cuts})


# --- activations -----------------------------------------------------------------------------------------------------


def scatter(
    clean: np.ndarray,
    other: np.ndarray,
    layers: Sequence[Mapping[str, Any]],
    theme: Theme,
    *,
    colour: np.ndarray,
    colour_label: str,
    kind: Literal["triggered", "score"],
    ring: str | None = None,
    height: int = 340,
) -> Chart:
    """Every unit by its mean output on clean pictures (x) and on triggered ones, or its score (y).

    The specification depends on nothing but these arguments: drawn again it is the same to the byte, and Plotly keeps
    its selection. ``ring`` marks a unit that was selected elsewhere.
    """
    ids = [f"{row['name']}:{k}" for row in layers for k in range(int(row["size"]))]
    eligible = np.isfinite(clean) & np.isfinite(other)
    if kind == "triggered":
        gap = np.where(eligible, other - clean, -np.inf)
        top = int(np.argmax(gap))
        title = (
            f"{ids[top]} answers the trigger most: its mean output goes from {number(float(clean[top]))} "
            f"to {number(float(other[top]))}."
        )
        y_title = "Mean output, triggered pictures"
    else:
        top = int(np.argmax(np.where(eligible, other, -np.inf)))
        title = (
            f"{ids[top]} scores highest, {number(float(other[top]))}, at a mean output of {number(float(clean[top]))}."
        )
        y_title = colour_label
    x, y = _rounded(clean, 4), _rounded(other, 4)
    scored = np.isfinite(colour)

    def those(chosen: np.ndarray) -> dict[str, Any]:
        numbers = np.flatnonzero(chosen)
        return {"x": [x[k] for k in numbers], "y": [y[k] for k in numbers], "customdata": [ids[k] for k in numbers]}

    dots: dict[str, Any] = {
        "type": "scattergl",
        "mode": "markers",
        **those(scored),
        "marker": {
            "size": 6,
            "color": _rounded(colour[scored], 4),
            "colorscale": cividis_scale(),
            "line": {"width": 0.6, "color": fade(theme.ink, 0.45)},
            "colorbar": {
                "title": {"text": colour_label, "side": "right", "font": {"color": theme.soft, "size": 12}},
                "thickness": 10,
                "outlinewidth": 0,
                "tickfont": {"color": theme.soft, "size": 11},
            },
        },
        "selected": {"marker": {"size": 13, "opacity": 1}},
        "unselected": {"marker": {"opacity": 0.35}},
        "hovertemplate": "<b>%{customdata}</b><br>clean %{x:.3g}, "
        + ("triggered" if kind == "triggered" else "score")
        + " %{y:.3g}<extra></extra>",
    }
    traces = [dots]
    if kind == "triggered" and not scored.all():
        # Not eligible, as in the grid: hollow, and under the others.
        hollow = {"size": 5, "symbol": "circle-open", "color": fade(theme.soft, 0.5)}
        hover = dots["hovertemplate"].replace("<extra>", "<br>no score<extra>")
        traces.insert(0, {**dots, **those(~scored), "marker": hollow, "hovertemplate": hover})
    if kind == "triggered":
        ends = [float(np.nanmin(clean)), float(np.nanmax(clean))]
        traces.insert(
            0,
            {
                "type": "scatter", "mode": "lines", "x": ends, "y": ends, "hoverinfo": "skip",
                "line": {"color": theme.soft, "width": 1, "dash": "dot"},
            },
        )  # fmt: skip
    if ring in ids:
        k = ids.index(ring)
        traces.append(ringed(str(ring), x[k], y[k], theme))
    figure = {
        "data": traces,
        "layout": layout(
            theme,
            height,
            left=60,
            clickmode="event+select",
            dragmode="lasso",
            xaxis={"title": "Mean output, clean pictures", "tickformat": "~g"},
            yaxis={"title": y_title, "tickformat": "~g"},
            hovermode="closest",
        ),
    }
    above = ""
    if kind == "triggered":
        risen = int((other[eligible] > 1.5 * clean[eligible] + 0.1).sum())
        above = f" {units(risen)} answer{'s' if risen == 1 else ''} triggered pictures clearly more strongly."
        above += "" if scored.all() else f" {units(int((~scored).sum()))} without a score are hollow."
    alt = f"{count(len(ids))} units by mean output on clean pictures and {y_title.lower()}. {title}{above}"
    table: Table = {"Unit": ids, "Clean": x, ("Triggered" if kind == "triggered" else colour_label): y}
    return Chart(title, alt, figure, table)


def ringed(unit: str, x: float | None, y: float | None, theme: Theme) -> dict[str, Any]:
    """A ring about a chosen unit, on a lighter one that sets it off against points of its own colour.

    It is drawn as the points are: anything else lies under them.
    """
    return {
        "type": "scattergl", "mode": "markers", "x": [x, x], "y": [y, y], "customdata": [unit, unit],
        "hoverinfo": "skip",
        "marker": {
            "size": [17, 16], "symbol": "circle-open", "color": [theme.paper, theme.ink], "line": {"width": [6, 2.2]},
        },
        # A click in this chart makes Plotly mark the new unit; the old ring steps back.
        "unselected": {"marker": {"opacity": 0}},
    }  # fmt: skip


def outputs(hist: Mapping[str, Any], unit: str, theme: Theme, height: int = 190) -> Chart:
    """A unit's mean output over defense pictures: clean filled, triggered an outline on top."""
    edges = [float(e) for e in hist["edges"]]
    middles = [(a + b) / 2 for a, b in zip(edges, edges[1:], strict=False)]
    clean = [int(n) for n in hist["clean"]]
    stamped = hist.get("triggered")
    traces: list[dict[str, Any]] = [
        {
            "type": "bar", "x": _rounded(middles), "y": clean, "name": "clean",
            "width": [b - a for a, b in zip(edges, edges[1:], strict=False)],
            "marker": {"color": fade(theme.line["acc"], 0.45), "line": {"width": 0}},
            "hovertemplate": "%{y} clean pictures near %{x:.3g}<extra></extra>",
        }
    ]  # fmt: skip
    mean = _mean(middles, clean)
    title = f"On clean pictures {unit} gives {number(mean)} on average."
    table: Table = {"From": edges[:-1], "To": edges[1:], "Clean": clean}
    if stamped is not None:
        stamped = [int(n) for n in stamped]
        # Counts become an outline: each bin's height over its whole width.
        traces.append(
            {
                "type": "scatter", "mode": "lines",
                "line": {"shape": "hv", "color": theme.line["asr"], "width": 2, "dash": "dash"},
                "x": _rounded(edges), "y": [*stamped, stamped[-1]], "name": "triggered",
                "hovertemplate": "%{y} triggered pictures near %{x:.3g}<extra></extra>",
            }
        )  # fmt: skip
        high = _mean(middles, stamped)
        title = f"{unit} gives {number(mean)} on clean pictures and {number(high)} on triggered ones."
        table["Triggered"] = stamped
    figure = {
        "data": traces,
        "layout": layout(
            theme,
            height,
            left=50,
            bargap=0,
            xaxis={"title": "Mean output over a picture", "tickformat": "~g", "fixedrange": True},
            yaxis={"title": "Pictures", "rangemode": "tozero", "fixedrange": True, "nticks": 4},
        ),
    }
    n = sum(clean)
    kinds = "clean (blue bars) and triggered (dashed outline)" if stamped is not None else "clean"
    return Chart(title, f"Distribution of a unit's output over {n:,} {kinds} pictures. {title}", figure, table)


def _mean(x: Sequence[float], n: Sequence[int]) -> float:
    total = sum(n)
    return 0.0 if not total else sum(a * b for a, b in zip(x, n, strict=True)) / total
