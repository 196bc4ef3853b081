"""ACC against ASR after every defense of one suspect, or of two on the same axes. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.comparison import Row
from app.figures import Chart, Table, layout
from app.matrix import Cell, cell_of, names, pareto
from app.palette import Theme, fade, percent

#: Pixels that a panel's plot is taken to have at least, for the places of labels.
_WIDE, _NARROW = 800, 390
_GAP = 0.03
#: The ASR at the bottom and at the top of a plot.
_LOW, _HIGH = -0.04, 1.06
#: A share of ACC and one of ASR, or what they are in pixels.
Point = tuple[float, float]


@dataclass(frozen=True)
class Side:
    """The defenses of one suspect."""

    title: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class Mark:
    """A defense as a point: means over its seeds, and where each seed lies as (ACC, ASR)."""

    name: str
    acc: Cell
    asr: Cell
    oracle: bool
    seeds: Sequence[Point]


def marks(rows: Sequence[Row]) -> list[Mark]:
    """The points of the rows that have both figures."""
    both = [row for row in rows if row.state == "done" and {"acc", "asr"} <= set(row.figures)]
    called = names(both)
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in both:
        groups.setdefault(row.column, []).append(row)
    return [
        Mark(
            called[column],
            cell_of([row.figures["acc"] for row in of]),
            cell_of([row.figures["asr"] for row in of]),
            of[0].oracle,
            [(row.figures["acc"].value, row.figures["asr"].value) for row in of],
        )
        for column, of in groups.items()
    ]


def fronts(found: Sequence[Mark]) -> list[Mark]:
    """The oracle-free ones that no other oracle-free one beats in both, by rising ACC."""
    free = [mark for mark in found if not mark.oracle]
    return [free[k] for k in pareto([(mark.acc.value, mark.asr.value) for mark in free])]


def tradeoff(sides: Sequence[Side], theme: Theme, height: int = 430) -> Chart:
    """ACC against ASR after each defense, one panel for each suspect with the same axes."""
    every = [marks(side.rows) for side in sides]
    befores = [next((row.before for row in side.rows if row.before.get("acc")), {}) for side in sides]
    accs = [mark.acc.value for found in every for mark in found]
    accs += [acc for before in befores if (acc := before.get("acc")) is not None]
    right = max(accs) + 0.012
    left = max(min(accs) - 0.02, min(right - 0.06, right - 0.32))
    outside = sum(mark.acc.value < left for found in every for mark in found)
    figure_layout = side_by_side(
        theme, height, [side.title for side in sides],
        xaxis={"title": "ACC after the defense", "range": [left, right], "tickformat": ".0%", "nticks": 7},
        yaxis={"title": "ASR after the defense", "range": [_LOW, _HIGH], "tickformat": ".0%", "dtick": 0.25},
    )  # fmt: skip
    traces: list[dict[str, Any]] = []
    titles, table = [], empty("Suspect", "Defense", "ACC", "ASR", "ASR from", "ASR to", "Seeds", "Oracle", "Front")
    for place, (side, found, before) in enumerate(zip(sides, every, befores, strict=True)):
        front, undefended = fronts(found), _undefended(before)
        axes = {"xaxis": f"x{place + 1 if place else ''}", "yaxis": f"y{place + 1 if place else ''}"}
        traces += [{**trace, **axes} for trace in _points(found, front, undefended, theme)]
        inside = [mark for mark in found if mark.acc.value >= left]
        box = (_NARROW if len(sides) > 1 else _WIDE, height - 70)
        figure_layout["annotations"] += _labels(inside, front, undefended, (left, right), box, axes, theme)
        titles.append(_front_sentence(side.title, found, front))
        for mark in found:
            line = (side.title, mark.name, mark.acc.value, mark.asr.value, mark.asr.low, mark.asr.high, mark.asr.n)
            for column, value in zip(table, (*line, mark.oracle, mark in front), strict=True):
                table[column].append(round(value, 4) if isinstance(value, float) else value)
    title = " ".join(titles)
    alt = f"Points of ACC against ASR after {sum(map(len, every))} defenses. {title}"
    if outside:
        alt += f" {outside} with still lower ACC lie{'s' if outside == 1 else ''} left of the axis."
    return Chart(title, alt, {"data": traces, "layout": figure_layout}, table)


def _front_sentence(suspect: str, found: Sequence[Mark], front: Sequence[Mark]) -> str:
    free = sum(not mark.oracle for mark in found)
    if not front:
        return f"On {suspect} only oracles were measured."
    if len(front) == 1:
        one = f"{front[0].name} (ASR {percent(front[0].asr.value)}, ACC {percent(front[0].acc.value)})"
        return f"On {suspect} {one} {'beats the others in both' if free > 1 else 'is the only one without an oracle'}."
    last = front[::-1]
    called = f"{', '.join(mark.name for mark in last[:-1])} and {last[-1].name}"
    return f"On {suspect} {len(front)} of {free} defenses are beaten by no other in both ACC and ASR: {called}."


def _undefended(before: Mapping[str, Any]) -> Point | None:
    """ACC and ASR of the suspect itself; success on chosen images stands in place of an ASR that there is not."""
    acc, asr = before.get("acc"), before.get("asr")
    asr = before.get("success") if asr is None else asr
    return None if acc is None or asr is None else (acc, asr)


def _points(
    found: Sequence[Mark], front: Sequence[Mark], undefended: Point | None, theme: Theme
) -> list[dict[str, Any]]:
    traces: list[dict[str, Any]] = []
    seeds_x: list[float | None] = []
    seeds_y: list[float | None] = []
    for mark in found:
        for acc, seed in mark.seeds if len(mark.seeds) > 1 else ():
            seeds_x += [mark.acc.value, acc, None]
            seeds_y += [mark.asr.value, seed, None]
    if seeds_x:
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "x": seeds_x, "y": seeds_y, "hoverinfo": "skip",
                "line": {"color": fade(theme.ink, 0.35), "width": 0.8},
                "marker": {"size": 3.5, "color": fade(theme.ink, 0.45)}, "name": "seeds",
            }
        )  # fmt: skip
    if len(front) > 1:
        traces.append(
            {
                "type": "scatter", "mode": "lines", "x": [mark.acc.value for mark in front],
                "y": [mark.asr.value for mark in front], "hoverinfo": "skip", "name": "front",
                "line": {"color": theme.soft, "width": 1.3, "shape": "vh"},
            }
        )  # fmt: skip
    for oracle in (True, False):
        those = [mark for mark in found if mark.oracle == oracle]
        if not those:
            continue
        colour = [theme.ink if mark in front else theme.soft for mark in those]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "oracles" if oracle else "defenses",
                "x": [mark.acc.value for mark in those],
                "y": [mark.asr.value for mark in those],
                "error_y": {
                    "array": [(mark.asr.high or mark.asr.value) - mark.asr.value for mark in those],
                    "arrayminus": [mark.asr.value - (mark.asr.low or mark.asr.value) for mark in those],
                    "color": fade(theme.ink, 0.4), "thickness": 1, "width": 0,
                },
                "marker": {
                    "size": 11 if oracle else [11 if mark in front else 8 for mark in those],
                    "symbol": "diamond-open" if oracle else "circle", "color": colour,
                    "line": {"width": 1.6 if oracle else 0},
                },
                "customdata": [[mark.name, _seeds(mark.asr), _interval(mark.asr)] for mark in those],
                "hovertemplate": "<b>%{customdata[0]}</b><br>ACC %{x:.1%}, ASR %{y:.1%}%{customdata[2]}"
                "%{customdata[1]}<extra></extra>",
            }
        )  # fmt: skip
    if undefended is not None:
        traces.append(
            {
                "type": "scatter", "mode": "markers", "x": [undefended[0]], "y": [undefended[1]],
                "name": "undefended",
                "marker": {"size": 11, "symbol": "x-thin", "line": {"width": 2, "color": theme.ink}},
                "hovertemplate": "<b>Undefended</b><br>ACC %{x:.1%}, ASR %{y:.1%}<extra></extra>",
            }
        )  # fmt: skip
    return traces


def _seeds(cell: Cell) -> str:
    return "" if cell.n == 1 else f"<br>mean of {cell.n} seeds"


def _interval(cell: Cell) -> str:
    return "" if cell.low is None else f" ({100 * cell.low:.1f} to {percent(cell.high)})"


def _labels(
    found: Sequence[Mark],
    front: Sequence[Mark],
    undefended: Point | None,
    reach: Point,
    box: tuple[int, int],
    axes: Mapping[str, str],
    theme: Theme,
) -> list[dict[str, Any]]:
    """Names beside their points, each where it covers least; far from its point with a thin line."""
    spots = [(mark.name, mark.acc.value, mark.asr.value, mark in front, mark.oracle) for mark in found]
    if undefended is not None:
        spots.append(("undefended", *undefended, False, False))
    at = _pixels([(x, y) for _, x, y, _, _ in spots], reach, box)
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in at]
    taken += _along([(mark.acc.value, mark.asr.value) for mark in front], reach, box)
    notes = []
    for k in sorted(range(len(spots)), key=lambda k: (not spots[k][3], at[k][1], at[k][0])):
        name, x, y, first, _ = spots[k]
        size = (len(name) * 6.6 + 6, 16)
        best = min(_places(), key=lambda d: _cost(at[k], d, size, [t for n, t in enumerate(taken) if n != k], box))
        taken.append(_box(at[k], best, size))
        far = abs(best[0]) + abs(best[1]) > 24
        notes.append(
            {
                "x": x, "y": y, "xref": axes["xaxis"], "yref": axes["yaxis"],
                "text": f"<b>{name}</b>" if first else name,
                "ax": best[0], "ay": best[1], "showarrow": True, "arrowhead": 0, "arrowwidth": 0.8, "standoff": 6,
                "arrowcolor": fade(theme.soft, 0.7 if far else 0.0), "xanchor": _anchor(best[0]), "yanchor": "middle",
                "font": {"color": theme.ink if first else theme.soft, "size": 12}, "borderpad": 0,
                "bgcolor": fade(theme.paper, 0.7),
            }
        )  # fmt: skip
    return notes


def _pixels(points: Sequence[Point], reach: Point, box: tuple[int, int]) -> list[Point]:
    """Where points of ACC and ASR lie in a plot of ``box`` pixels, from its upper left; ``reach`` is what ACC spans."""
    wide, high = reach[1] - reach[0], _HIGH - _LOW
    return [((x - reach[0]) / wide * box[0], (_HIGH - y) / high * box[1]) for x, y in points]


def _along(front: Sequence[Point], reach: Point, box: tuple[int, int]) -> list[tuple[float, float, float, float]]:
    """The front's line, first up or down and then across, as thin boxes that names had better not cover."""
    at, found = _pixels(front, reach, box), []
    for (x, y), (to_x, to_y) in zip(at, at[1:], strict=False):
        found.append((x - 2, min(y, to_y), x + 2, max(y, to_y)))
        found.append((x, to_y - 2, to_x, to_y + 2))
    return found


def _places() -> list[tuple[int, int]]:
    near = [(10, 0), (-10, 0), (8, -11), (-8, -11), (8, 11), (-8, 11), (0, -15), (0, 15)]
    return near + [(dx, dy) for r in (28, 46, 66, 88, 112) for dx in (0, 14, -14, 34, -34) for dy in (-r, r)]


def _anchor(dx: int) -> str:
    return "left" if dx > 0 else "right" if dx < 0 else "center"


def _box(at: Point, d: tuple[int, int], size: tuple[float, float]) -> tuple[float, float, float, float]:
    x, y = at[0] + d[0], at[1] + d[1]
    left = x if d[0] > 0 else x - size[0] if d[0] < 0 else x - size[0] / 2
    return left, y - size[1] / 2, left + size[0], y + size[1] / 2


def _cost(
    at: Point,
    d: tuple[int, int],
    size: tuple[float, float],
    taken: Sequence[tuple[float, float, float, float]],
    frame: tuple[int, int],
) -> float:
    a = _box(at, d, size)
    covered = sum(
        max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1])) for b in taken
    )
    off = max(0.0, -a[0]) + max(0.0, a[2] - frame[0]) + max(0.0, -a[1]) + max(0.0, a[3] - frame[1])
    return covered * 3 + off * 40 + (d[0] ** 2 + d[1] ** 2) ** 0.5


def side_by_side(theme: Theme, height: int, titles: Sequence[str], **axes: Any) -> dict[str, Any]:
    """The layout of one or two panels on the same axes; two are named above."""
    top = 10 if len(titles) == 1 else 30
    found = layout(theme, height, margin={"l": 8, "r": 12, "t": top, "b": 8}, hovermode="closest", **axes)
    found["annotations"] = []
    if len(titles) == 1:
        return found
    width = (1 - _GAP) / 2
    for place, title in enumerate(titles):
        start = place * (width + _GAP)
        number = place + 1 if place else ""
        found[f"xaxis{number}"] = {**found["xaxis"], "domain": [start, start + width], "anchor": f"y{number}"}
        found["annotations"].append(
            {
                "x": start, "xref": "paper", "xanchor": "left", "y": 1, "yref": "paper", "yanchor": "bottom",
                "yshift": 6, "showarrow": False, "text": f"<b>{title}</b>", "font": {"color": theme.ink, "size": 13},
            }
        )  # fmt: skip
    found["xaxis2"]["matches"] = "x"
    found["yaxis2"] = {**found["yaxis"], "anchor": "x2", "matches": "y", "showticklabels": False}
    found["yaxis2"]["title"] = {"text": ""}
    return found


def empty(*columns: str) -> Table:
    return {column: [] for column in columns}
