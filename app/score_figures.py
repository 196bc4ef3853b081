"""Curves of several scores of one suspect, or of two on the same axes, in one measure. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.compare_figures import empty, side_by_side
from app.figures import Chart
from app.palette import DASH, MARKER, MEANING, NAME, Measure, Theme, blend, fade, percent, units


@dataclass(frozen=True)
class Curve:
    """The measured points of one score."""

    label: str
    points: Sequence[Mapping[str, Any]]
    oracle: bool = False
    first: bool = False


@dataclass(frozen=True)
class Curves:
    """The scores of one suspect."""

    title: str
    curves: Sequence[Curve]


#: The other scores share a colour: it is the measure's meaning, not theirs.
_DASHES = ("solid", "8px,3px", "12px,3px,2px,3px", "4px,2px", "16px,4px")
_SYMBOLS = ("circle", "square", "triangle-up", "cross", "star", "pentagon", "hexagon", "triangle-down")


def score_curves(sides: Sequence[Curves], m: Measure, theme: Theme, height: int = 360) -> Chart:
    """One measure along the cuts of several scores; the page's own score in the measure's colour with its interval."""
    reach = max(_reach(curve.points) for side in sides for curve in side.curves)
    found = side_by_side(
        theme, height, [side.title for side in sides],
        xaxis={"title": "Units cut", "range": [-0.015 * reach, reach * 1.02], "tickformat": ",d", "nticks": 8},
        yaxis={"title": MEANING[m].split(":")[0], "range": [-0.03, 1.05], "tickformat": ".0%", "dtick": 0.25},
    )  # fmt: skip
    traces: list[dict[str, Any]] = []
    table = empty("Suspect", "Score", "Oracle", "Units cut", NAME[m], f"{NAME[m]} from", f"{NAME[m]} to")
    for place, side in enumerate(sides):
        number = str(place + 1) if place else ""
        axes = {"xaxis": f"x{number}", "yaxis": f"y{number}"}
        drawn = [curve for curve in side.curves if any(p.get(m) is not None for p in curve.points)]
        for k, curve in enumerate(drawn):
            rows = [p for p in curve.points if p.get(m) is not None]
            traces += [{**trace, **axes} for trace in _line(curve, rows, m, theme, k)]
            for p in rows:
                line = (side.title, curve.label, curve.oracle, p["pruned"], p[m], p.get(f"{m}_low"), p.get(f"{m}_high"))
                for column, value in zip(table, line, strict=True):
                    table[column].append(round(value, 4) if isinstance(value, float) else value)
        found["annotations"] += _names_on_lines(drawn, m, reach, axes, theme)
    title = " ".join(_score_sentence(side, m) for side in sides)
    alt = f"{NAME[m]} against units cut for {', '.join(c.label for side in sides[:1] for c in side.curves)}. {title}"
    return Chart(title, alt, {"data": traces, "layout": found}, table)


def _called(curve: Curve) -> str:
    return curve.label + (" \u25c7" if curve.oracle else "")


def _reach(points: Sequence[Mapping[str, Any]]) -> float:
    """Past where accuracy has halved, at most half of the units."""
    start, last = points[0].get("acc") or 1.0, points[-1]["pruned"]
    dead = next((p["pruned"] for p in points if p.get("acc") is not None and p["acc"] < start / 2), last)
    return float(max(1, min(dead, last / 2)))


def _line(curve: Curve, rows: Sequence[Mapping[str, Any]], m: Measure, theme: Theme, k: int) -> list[dict[str, Any]]:
    x, y = [p["pruned"] for p in rows], [round(float(p[m]), 5) for p in rows]
    colour = theme.line[m] if curve.first else blend(theme.paper, theme.ink, 0.62)
    symbol = MARKER[m] if curve.first else f"{_SYMBOLS[k % len(_SYMBOLS)]}"
    dash, name = DASH[m] if curve.first else _DASHES[k % len(_DASHES)], _called(curve)
    found: list[dict[str, Any]] = []
    kept = [p for p in rows if p.get(f"{m}_low") is not None and p.get(f"{m}_high") is not None]
    if curve.first and kept:
        both = [p["pruned"] for p in kept]
        edge = [round(p[f"{m}_low"], 5) for p in kept] + [round(p[f"{m}_high"], 5) for p in reversed(kept)]
        found.append(
            {
                "type": "scatter", "mode": "lines", "x": [*both, *reversed(both)], "y": edge, "fill": "toself",
                "fillcolor": fade(theme.line[m], 0.16), "line": {"width": 0}, "hoverinfo": "skip", "name": "interval",
            }
        )  # fmt: skip
    found.append(
        {
            "type": "scatter", "mode": "lines+markers", "x": x, "y": y, "name": curve.label,
            "line": {"color": colour, "width": 2.4 if curve.first else 1.3, "dash": dash},
            "marker": {
                "size": 6 if curve.first or curve.oracle else 4.5, "color": colour,
                "symbol": "diamond-open" if curve.oracle else symbol,
            },
            "hovertemplate": f"<b>{name}</b><br>{NAME[m]} %{{y:.1%}}, "
            "%{x:,} units cut<extra></extra>",
        }
    )  # fmt: skip
    return found


def _names_on_lines(
    curves: Sequence[Curve], m: Measure, reach: float, axes: Mapping[str, str], theme: Theme
) -> list[dict[str, Any]]:
    """Each name on its own line, at a height of its own, so that they do not meet where lines run together."""
    grid = np.linspace(0, reach, 200)
    lines = []
    for curve in curves:
        rows = [p for p in curve.points if p.get(m) is not None]
        lines.append(np.interp(grid, [p["pruned"] for p in rows], [float(p[m]) for p in rows], right=np.nan))
    # Where a line is farthest from the others; the names that stand already count as lines.
    notes: list[dict[str, Any]] = []
    stand: list[tuple[float, float]] = []
    for k, curve in enumerate(curves):
        free = np.full(len(grid), 0.3)
        for n, other in enumerate(lines):
            if n != k:
                free = np.fmin(free, np.abs(lines[k] - other))
        for at, y in stand:
            free = np.minimum(free, np.hypot((grid - at) / reach * 2.2, lines[k] - y) * 0.8)
        free[: len(grid) // 25] = free[-len(grid) // 7 :] = -1
        free[np.isnan(lines[k])] = -2
        best, text = int(np.argmax(free)), _called(curve)
        y = float(lines[k][best])
        # Where lines are one, so would be their names: the later one stands aside.
        while any(
            abs(float(grid[best]) - at) < 0.006 * reach * (len(text) + len(name)) and abs(y - height) < 0.065
            for (at, height), name in zip(stand, map(_called, curves), strict=False)
        ):
            y += 0.07 if lines[k][best] < 0.5 else -0.07
        stand.append((float(grid[best]), y))
        notes.append(
            {
                "x": float(grid[best]), "y": y, "xref": axes["xaxis"], "yref": axes["yaxis"],
                "text": f"<b>{text}</b>" if curve.first else text, "showarrow": False, "xanchor": "center",
                "yanchor": "middle", "bgcolor": fade(theme.paper, 0.85), "borderpad": 1,
                "font": {"color": theme.text[m] if curve.first else theme.ink, "size": 12},
            }
        )  # fmt: skip
    return notes


def _score_sentence(side: Curves, m: Measure) -> str:
    """Which score does best in the measure, in numbers; an oracle only where no other gets there."""
    if not any(p.get(m) is not None for curve in side.curves for p in curve.points):
        return f"{side.title} has no {NAME[m]} to show."
    reached: list[tuple[bool, int, str]] = []
    for curve in side.curves:
        rows = [p for p in curve.points if p.get(m) is not None]
        if not rows:
            continue
        if m == "acc":
            start = float(rows[0][m])
            reached.append((curve.oracle, -max(p["pruned"] for p in rows if p[m] >= start - 0.02), curve.label))
        elif m == "asr":
            low = [p["pruned"] for p in rows if p[m] <= 0.1]
            reached += [(curve.oracle, min(low), curve.label)] if low else []
        else:
            reached.append((curve.oracle, -round(1000 * max(float(p[m]) for p in rows)), curve.label))
    if not reached:
        return f"On {side.title} no score brings ASR to 10\u202f%."
    oracle, value, label = min(reached)
    label += ", an oracle," if oracle else ""
    if m == "acc":
        return f"On {side.title} {label} can cut most before accuracy loses 2 points: {units(-value)}."
    if m == "asr":
        return f"On {side.title} {label} needs fewest cuts to bring ASR to 10\u202f%: {units(value)}."
    return f"On {side.title} RA comes highest along {label.rstrip(',')}: {percent(-value / 1000)}."
