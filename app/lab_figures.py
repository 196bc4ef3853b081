"""Figures of the Attack lab: the trigger's spectrum, what a training set is made of, how a training goes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.figures import Chart, Table, layout
from app.palette import DASH, NAME, Measure, Theme, count, percent

#: What a training image can be, in the order of the bar, with what is said of it.
KINDS = {
    "poisoned": ("Poisoned", "trigger and the attacker's label"),
    "cover": ("Cover", "trigger and the true label"),
    "cross": ("Cross", "another trigger or noise, and the true label"),
    "clean": ("Clean", "untouched"),
}


# --- the spectrum ----------------------------------------------------------------------------------------------------


def spectrum(value: Mapping[str, Any], theme: Theme, height: int = 290) -> Chart:
    """``db`` (H, W) in dB below its maximum, frequency 0 in the middle, ``reach`` waves down and across."""
    rows = value["db"]
    axes = []
    for n, reach in zip((len(rows), len(rows[0])), value["reach"], strict=True):
        axes.append([round((k - n // 2) * 2 * reach / n, 3) for k in range(n)])
    down, across = value["peak"]
    high, usual = value["high"], value["high_clean"]
    flat = all(v <= -60 for row in rows for v in row)
    title = (
        "The pictures do not change: there is no spectrum."
        if flat
        else f"{percent(high, 0)} of the trigger's energy lies in the upper half of the frequencies; of the pictures' "
        f"own, {percent(usual, 0)}."
    )
    strongest = "" if flat else f" Strongest at {abs(across)} waves across and {abs(down)} down."
    figure = {
        "data": [
            {
                "type": "heatmap",
                "z": rows,
                "x": axes[1],
                "y": axes[0],
                "zmin": -60,
                "zmax": 0,
                # Ink on paper: the hues have meanings of their own.
                "colorscale": [[0, theme.paper], [1, theme.ink]],
                "colorbar": {
                    "orientation": "h", "len": 0.5, "x": 0.5, "xanchor": "center", "y": 1.0, "yanchor": "bottom",
                    "thickness": 8, "outlinewidth": 0, "tickvals": [0, -20, -40, -60],
                    "ticktext": ["0 dB", "\u221220", "\u221240", "\u221260"],
                    "tickfont": {"color": theme.soft, "size": 11}, "ypad": 4,
                },
                "hovertemplate": "%{x:.3~g} across, %{y:.3~g} down: %{z:.0f} dB<extra></extra>",
            }
        ],
        "layout": layout(
            theme,
            height,
            margin={"l": 8, "r": 8, "t": 6, "b": 8},
            xaxis={"title": "Waves across the picture", "showgrid": False, "constrain": "domain", "nticks": 6},
            yaxis={
                "title": "Waves down", "showgrid": False, "scaleanchor": "x", "constrain": "domain", "nticks": 6,
                "autorange": "reversed",
            },
        ),
    }  # fmt: skip
    table: Table = {"Across": [], "Down": [], "dB": []}
    for y, row in zip(axes[0], rows, strict=True):
        for x, level in zip(axes[1], row, strict=True):
            if level > -30:
                table["Across"].append(x)
                table["Down"].append(y)
                table["dB"].append(level)
    return Chart(title, f"Amplitude spectrum of what the trigger changes. {title}{strongest}", figure, table)


def share(n: int, total: int) -> str:
    """A part of a training set, with a second digit where the first one would say none or all."""
    return percent(n / total, 2 if 0 < min(n, total - n) * 500 < total else 1)


# --- composition -----------------------------------------------------------------------------------------------------


def made_of(counts: Mapping[str, int], candidates: int | None, *, every: bool, target: str) -> str:
    """What a poisoned training set is made of, in one sentence with the effective number.

    Args:
        candidates: of a clean-label attack, the pictures of the ``target`` class; None for others.
        every: whether pictures are poisoned anew in every epoch.
    """
    n, total = counts.get("poisoned", 0), sum(counts.values())
    if every:  # it may show some pictures twice, with the trigger and without
        return f"{count(n)} of {count(total)} pictures that an epoch shows are poisoned ({share(n, total)})."
    if candidates is not None:
        return (
            f"{count(n)} of {count(candidates)} pictures of class {target} are poisoned, {share(n, total)} of the "
            "training set; no label changes."
        )
    return f"{count(n)} of {count(total)} training pictures are poisoned ({share(n, total)})."


# --- a training ------------------------------------------------------------------------------------------------------


def training(lines: Sequence[Mapping[str, Any]], theme: Theme, seen: bool, height: int = 260) -> Chart | None:
    """Loss, ACC and, where it may be ``seen``, ASR by step, from the journal of a job; None before the first step.

    A training that went on from a checkpoint has done some steps twice: the later figures count.
    """
    rows = {int(line["step"]): line for line in lines if "step" in line}
    steps = sorted(rows)
    if not steps:
        return None
    thin = max(1, len(steps) // 300)
    steps = sorted({*steps[::thin], steps[-1]})
    last = rows[steps[-1]]
    measures: list[Measure] = ["acc", "asr"] if seen else ["acc"]
    traces: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    table: Table = {"Step": list(steps), "Loss": [rows[s].get("loss") for s in steps]}

    def line(key: str, axis: str, colour: str, dash: str, name: str) -> None:
        y = [rows[s].get(key) for s in steps]
        traces.append(
            {
                "type": "scatter", "mode": "lines", "x": steps, "y": y, "name": name, "yaxis": axis,
                "line": {"color": colour, "width": 2, "dash": dash},
                "hovertemplate": f"{name} %{{y:{'.3f' if key == 'loss' else '.1%'}}}<extra></extra>",
            }
        )  # fmt: skip

    def label(key: str, axis: str, colour: str, name: str) -> None:
        value = last.get(key)
        if value is not None:
            notes.append(
                {
                    "x": 1, "xref": "paper", "xanchor": "left", "xshift": 6, "y": value, "yref": axis,
                    "showarrow": False, "text": f"<b>{name}</b>", "font": {"color": colour, "size": 13},
                }
            )  # fmt: skip

    for m in measures:
        if any(rows[s].get(m) is not None for s in steps):
            line(m, "y", theme.line[m], DASH[m], NAME[m])
            label(m, "y", theme.text[m], NAME[m])
            table[NAME[m]] = [rows[s].get(m) for s in steps]
    if len(notes) == 2 and abs(notes[0]["y"] - notes[1]["y"]) < 0.16:
        # Two labels at one height would hide each other.
        lower, upper = sorted(notes, key=lambda note: float(note["y"]))
        lower["yshift"], upper["yshift"] = -8, 8
    line("loss", "y2", theme.ink, "solid", "loss")
    label("loss", "y2", theme.ink, "Loss")
    most = max((v for v in table["Loss"] if v is not None), default=1.0)
    said = [f"loss {last['loss']:.3f}"] if last.get("loss") is not None else []
    said += [f"{NAME[m]} {percent(last[m])}" for m in measures if last.get(m) is not None]
    total = last.get("steps")
    title = f"After {count(steps[-1])}{f' of {count(int(total))}' if total else ''} steps: {', '.join(said)}."
    axis = {"showgrid": True, "gridcolor": theme.faint, "linecolor": theme.faint, "zeroline": False, "showline": True,
            "tickfont": {"color": theme.soft, "size": 12}, "ticks": "outside", "ticklen": 4,
            "tickcolor": theme.faint, "automargin": True}  # fmt: skip
    figure = {
        "data": traces,
        "layout": layout(
            theme,
            height,
            margin={"l": 8, "r": 44, "t": 8, "b": 8},
            xaxis={"title": "Step", "range": [0, total or steps[-1]], "anchor": "y2"},
            yaxis={"title": "Share", "range": [-0.04, 1.06], "tickformat": ".0%", "dtick": 0.5, "domain": [0.46, 1]},
            yaxis2={
                **axis, "domain": [0, 0.34], "range": [0, 1.08 * most], "nticks": 4,
                "title": {"text": "Loss", "font": {"color": theme.soft, "size": 13}, "standoff": 8},
            },
            annotations=notes,
            hovermode="x",
        ),
    }  # fmt: skip
    return Chart(title, f"Loss, accuracy{' and attack success' if seen else ''} by step. {title}", figure, table)
