"""Figures of the Neurons page: those of :mod:`app.figures`, fitted to stand beside the grid. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from app import figures
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


def responses(hist: Mapping[str, Any], theme: Theme, height: int = 190) -> Chart:
    """What a unit puts out: its mean output on every defense picture, clean filled, triggered as a dashed outline."""
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
    layout = drawn.figure["layout"]
    layout["annotations"] = notes
    layout["yaxis"] = {**layout["yaxis"], "range": [0, 1.36 * max(top, 1.0)]}
    layout["margin"] = {"l": 4, "r": 8, "t": 4, "b": 4}
    layout["xaxis"] = {**layout["xaxis"], "nticks": 4, "title": {**layout["xaxis"]["title"], "text": "Mean output"}}
    alt = f"Distribution of the unit's mean output over {int(clean.sum()):,} {alt_kinds} pictures. {title}"
    return Chart(title, alt, drawn.figure, drawn.table)


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
