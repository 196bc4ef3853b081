"""Pictures by the network's features, before and after a cut, on the same axes. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from app.compare_figures import side_by_side
from app.figures import Chart, Table
from app.palette import CLASSES, MARKER, Theme, count, fade, percent, units

#: Pixels that the figure is taken to have at least, and that a label takes, for the places of labels.
_WIDE, _TALL = 880.0, 17.0
Side = Literal["before", "after"]
Found = Mapping[str, Any]


def projection(found: Found, classes: Sequence[str], theme: Theme, *, pruned: int, height: int = 440) -> Chart:
    """Points coloured by true class; a dot is clean, an open square triggered.

    Args:
        found: as :func:`engine.project.placed` gives it, its figures included: ``truth``, ``before_clean`` (N, 2) and
            so on; ``shares`` where the axes are principal components.
    """
    sides: list[Side] = ["before", "after"] if "after_clean" in found else ["before"]
    shares = found.get("shares")
    names = ["t-SNE 1", "t-SNE 2"]
    if shares:
        names = [f"Principal component {k} ({percent(float(share), 0)})" for k, share in enumerate(shares, start=1)]
    every = np.concatenate([np.asarray(found[key], float) for key in _places(found)])
    span = np.maximum(np.ptp(every, axis=0), 1e-9)
    low, high = every.min(0) - 0.05 * span, every.max(0) + 0.05 * span
    quiet = {"showgrid": False, "showticklabels": False, "ticks": ""}
    heads = ["Nothing is cut", f"{units(pruned)} cut"][: len(sides)]
    drawn = side_by_side(
        theme, height, heads,
        xaxis={"title": names[0], "range": [float(low[0]), float(high[0])], **quiet},
        yaxis={"title": names[1], "range": [float(low[1]), float(high[1])], **quiet},
    )  # fmt: skip
    drawn["dragmode"] = "pan"
    traces: list[dict[str, Any]] = []
    table: Table = {key: [] for key in ("Cut", "Picture", "Class", "Answered as", "Nearest to", "x", "y")}
    for number, side in enumerate(sides):
        axes = {"xaxis": f"x{number + 1 if number else ''}", "yaxis": f"y{number + 1 if number else ''}"}
        for kind, truth in (("clean", found["truth"]), ("triggered", found.get("triggered_truth"))):
            if truth is None or f"{side}_{kind}" not in found:
                continue
            traces.append({**_points(found, side, kind, truth, classes, theme), **axes})
            for column, part in zip(table.values(), _lines(found, side, kind, truth, classes), strict=True):
                column += part
        box = (_WIDE / len(sides), height - 80.0)
        drawn["annotations"] += _centres(found, side, classes, axes, theme, low, high, box)
    title = sentence(found, classes, pruned)
    alt = f"{count(len(every) // len(sides))} pictures by {names[0]} and {names[1]}, coloured by true class"
    alt += ", dots clean, open squares triggered" if "before_triggered" in found else ""
    alt += f", without a cut and with {units(pruned)} cut on the same axes. " if len(sides) > 1 else ". "
    return Chart(title, alt + title, {"data": traces, "layout": drawn}, table)


def sentence(found: Found, classes: Sequence[str], pruned: int) -> str:
    """What the cut does to the pictures in feature space."""
    with_cut = "after_clean" in found
    if "before_triggered" in found and len(found["before_triggered"]):
        near = np.asarray(found["before_triggered_nearest"], int)
        top = int(np.bincount(near, minlength=len(classes)).argmax())
        share, own = float((near == top).mean()), float(found["own_before_triggered"])
        first = f"{percent(share, 0)} of the triggered pictures lie nearest to the clean {classes[top]} pictures"
        if share <= own:
            first = f"{percent(own, 0)} of the triggered pictures lie nearest to their own class"
        if not with_cut:
            return f"{first}; nothing is cut."
        after = float(found["own_after_triggered"])
        return f"{first}; with {units(pruned)} cut {percent(after, 0)} lie nearest to their own class."
    before = float(found["own_before_clean"])
    first = f"{percent(before, 0)} of the clean pictures lie nearest to the centre of their own class"
    if not with_cut:
        return f"{first}; nothing is cut."
    return f"{first}, {percent(float(found['own_after_clean']), 0)} with {units(pruned)} cut."


def colours(theme: Theme, classes: int) -> list[str]:
    """A colour for each class; of more than ten they come again, so a name always stands beside them."""
    palette = CLASSES[theme.name]
    return [palette[k % len(palette)] for k in range(classes)]


def _places(found: Found) -> list[str]:
    keys = [f"{side}_{kind}" for side in ("before", "after") for kind in ("clean", "triggered")]
    return [key for key in keys if key in found]


def _points(
    found: Found, side: Side, kind: str, truth: Sequence[int], classes: Sequence[str], theme: Theme
) -> dict[str, Any]:
    hue = colours(theme, len(classes))
    at = np.asarray(found[f"{side}_{kind}"], float)
    own = [hue[int(k)] for k in truth]
    clean = kind == "clean"
    symbol = MARKER["acc"] if clean else f"{MARKER['asr']}-open"
    return {
        "type": "scattergl", "mode": "markers", "name": kind,
        "x": [round(float(v), 3) for v in at[:, 0]], "y": [round(float(v), 3) for v in at[:, 1]],
        "text": [
            f"{kind} {classes[int(k)]}, answered as {classes[int(said)]}"
            for k, said in zip(truth, found[f"{side}_{kind}_said"], strict=True)
        ],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "size": 5 if clean else 7, "symbol": symbol, "color": own, "opacity": 0.6 if clean else 0.9,
            "line": {"width": 0, "color": own} if clean else {"width": 1.4, "color": own},
        },
    }  # fmt: skip


def _lines(found: Found, side: Side, kind: str, truth: Sequence[int], classes: Sequence[str]) -> list[list[Any]]:
    at = np.asarray(found[f"{side}_{kind}"], float)
    key = f"{side}_{kind}"
    return [
        [side == "after"] * len(at), [kind] * len(at), *(
            [classes[int(k)] for k in numbers] for numbers in (truth, found[f"{key}_said"], found[f"{key}_nearest"])
        ), [round(float(v), 4) for v in at[:, 0]], [round(float(v), 4) for v in at[:, 1]],
    ]  # fmt: skip


def _centres(
    found: Found,
    side: Side,
    classes: Sequence[str],
    axes: Mapping[str, str],
    theme: Theme,
    low: np.ndarray,
    high: np.ndarray,
    box: tuple[float, float],
) -> list[dict[str, Any]]:
    """The name of each class in the middle of its clean pictures, or beside it with a line where names would meet."""
    truth, at = np.asarray(found["truth"], int), np.asarray(found[f"{side}_clean"], float)
    present = [int(k) for k in np.unique(truth)]
    middles = np.array([np.median(at[truth == k], 0) for k in present])
    pixels = (middles - low) / (high - low) * box
    # On a map of tight clumps a name in the middle would hide its clump: it stands above.
    above = np.array([0.0, 0.0 if found.get("shares") else 16.0])
    lifts = _apart(pixels + above, [7.2 * len(classes[k]) + 6 for k in present])
    lifts = [lift + float(above[1]) for lift in lifts]
    return [
        {
            "x": round(float(x), 3), "y": round(float(y), 3), "xref": axes["xaxis"], "yref": axes["yaxis"],
            "text": f"<b>{classes[k]}</b>", "bgcolor": fade(theme.paper, 0.82), "borderpad": 1,
            "font": {"color": theme.ink, "size": 12}, "showarrow": abs(lift) > _TALL, "ax": 0, "ay": -lift,
            "arrowhead": 0, "arrowwidth": 1, "arrowcolor": theme.ink, "yshift": 0 if abs(lift) > _TALL else lift,
        }
        for k, (x, y), lift in zip(present, middles, lifts, strict=True)
    ]  # fmt: skip


def _apart(places: np.ndarray, widths: Sequence[float]) -> list[float]:
    """How many pixels each label has to move up so that none lies on another; places (K, 2) in pixels."""
    tops = places[:, 1].copy()
    for _ in range(60):
        moved = False
        for a in range(len(tops)):
            for b in range(a):
                across = abs(places[a, 0] - places[b, 0]) < (widths[a] + widths[b]) / 2
                gap = _TALL - abs(tops[a] - tops[b])
                if across and gap > 0.5:
                    upper, lower = (a, b) if (tops[a], a) > (tops[b], b) else (b, a)
                    tops[upper] += gap / 2
                    tops[lower] -= gap / 2
                    moved = True
        if not moved:
            break
    return [float(top - place) for top, place in zip(tops, places[:, 1], strict=True)]
