"""Which pixels drive a unit, or the answer: attributions in the four weight states, clean and triggered.

One state shows its clean and its triggered picture side by side; all of them are a strip with a column for each state
and a row for each picture. Only what is chosen is asked of the warm worker. A defender's question leaves the trigger
out, and the page says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st

from app import data, neuron_figures, panels, pictures, state
from app.any_trigger import NAMES
from app.card_pieces import SIDE, absent, column, image, scale
from app.live import live
from app.neuron_figures import short
from app.palette import LESS, MORE, count, number, percent
from app.panels import Frame, esc
from engine.explain.methods import ANSWER, METHODS, STATES, WHOLE
from engine.runs import ask

#: The choice of all weight states at once, and the largest side of a picture in their strip.
ALL, SMALL = "all", 84
ROWS = {"clean": ("Clean", "acc"), "triggered": ("Triggered", "asr"), "marked": ("Marked", "asr")}


def rnp_of(studies: Mapping[str, data.Study]) -> str:
    """The run id of the suspect's RNP scores, which say how to unlearn it and by what to recover it; else empty."""
    return studies["rnp"].run_id if "rnp" in studies else ""


def attribution(
    frame: Frame, studies: Mapping[str, data.Study], now: data.Present, unit: str, k: int, at: int, *, total: int,
    stamped: bool, mark: Mapping[str, Any] | None,
) -> None:  # fmt: skip
    """The choice of picture, method and state, and what comes of it.

    ``stamped``: there are triggered pictures. ``mark``: where there are none, a trigger to put on instead.
    """
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.number_input(
            "Test picture", 0, total - 1, key=state.shows("picture-choice", at), width=124,
            help="The number of any test picture.",
            on_change=lambda: state.change(picture=int(state.shown("picture-choice"))),
        )  # fmt: skip
        method = st.selectbox(
            "Which pixels drive it?",
            list(METHODS),
            index=None,
            format_func=METHODS.__getitem__,
            key="method",
            placeholder="Choose an attribution",
            help="Computed by Captum for this unit and picture.",
        )
    if method is None:
        return
    states = [name for name in STATES if name != "recovered" or rnp_of(studies)]
    chosen = st.segmented_control(
        "Model", [*states, ALL], format_func=lambda name: STATES.get(name, "All"), required=True,
        # Without a trigger there is nothing to set beside the clean picture but the same in other weights.
        default="suspect" if stamped or mark else ALL, key=f"weights-{stamped or mark is not None}",
        help="Unlearned: after RNP's first stage. Recovered: with the masks of its second. Pruned: the present cut.",
    )  # fmt: skip
    wanted = states if chosen == ALL else [chosen]
    question = {
        "kind": "attribution", "suspect": frame.suspect.name, "unit": k, "number": at, "method": method,
        "triggered": frame.seen, "states": wanted, "cut": now.numbers if "pruned" in wanted else [],
        "mode": state.load().mode, "study": rnp_of(studies), **(mark or {}),
    }  # fmt: skip
    live(lambda: _attributed(frame, question, unit, "triggered" if stamped else "marked" if mark else None), frame,
         question)  # fmt: skip
    if chosen == ALL and "recovered" not in states:
        panels.note(
            "Recovered is missing: it needs the masks of RNP. Score this model with RNP on Runs, or in the terminal "
            "with sweep and --score rnp."
        )
    if mark:
        panels.note(f"Marked: the same picture with {NAMES[mark['source']]} on it, not the suspect's own.")
    if not frame.seen:
        panels.locked(f"The same on the triggered picture is hidden. {panels.WHY_LOCKED}")


@dataclass(frozen=True)
class _Cell:
    """One map (H, W) with what its model answers to the picture, or None while they are not there."""

    row: str
    state: str
    pixels: np.ndarray | None = None
    p: Sequence[float] = ()


def _attributed(frame: Frame, question: Mapping[str, Any], unit: str, second: str | None) -> None:
    answer = panels.answer_to(question, frame.seen)
    if answer.error:
        panels.failed(question, answer, "again-attribution")
        return
    value, states = dict(answer.value or {}), list(question["states"])
    names = [row for row in ROWS if row == "clean" or (row == second and value.get(row, {}) is not None)]
    rows = [[_cell(value, row, name) for name in states] for row in names]
    with st.container(gap="xsmall", key="attributed"):
        if answer.value is None or not answer.final:
            panels.waiting(answer, "attributing")
        else:
            panels.heading(_title(frame, question, rows, unit), lines=1)
        if len(states) == 1:  # the pictures are the columns of the one row
            heads, rows = [column(*ROWS[row]) for row in names], [[cells[0] for cells in rows]]
        else:
            heads = [f'<p class="um-name">{esc(STATES[name])}</p>' for name in states]
        known = [max(c.pixels.shape) for cells in rows for c in cells if c.pixels is not None]
        side = neuron_figures.fitted(max(known, default=28), SIDE if len(states) == 1 else SMALL)
        drawn = "".join(_row(frame, question, answer, cells, unit) for cells in rows)
        grid = f"--um-side:{side}px;--um-columns:{len(rows[0])}"
        st.html(f'<div class="um-pairs um-states" style="{grid}">{"".join(heads)}{drawn}</div>')
        panels.note(_meaning(frame, question, value, unit))


def _cell(value: Mapping[str, Any], row: str, name: str) -> _Cell:
    found = (value.get(row) or {}).get(name)
    return _Cell(row, name) if found is None else _Cell(row, name, np.asarray(found["pixels"], float), found["p"])


def _row(frame: Frame, question: Mapping[str, Any], answer: ask.Answer, cells: Sequence[_Cell], unit: str) -> str:
    """Maps on one scale, the model's answers under them, and the scale."""
    reach = max((float(np.abs(c.pixels).max()) for c in cells if c.pixels is not None), default=1.0) or 1.0
    parts, several = [], len(question["states"]) > 1
    if several:
        name, key = ROWS[cells[0].row]
        parts.append(f'<div class="um-row">{column(f"{name} picture", key)}</div>')
    for cell in cells:
        if cell.pixels is None:
            parts.append(absent(STATES[cell.state], answer))
        else:
            drawn = pictures.diverging(cell.pixels, reach, frame.theme)
            parts.append(image(drawn, _alt(frame, question, cell, unit)))
    parts += [_said(frame, cell) for cell in cells]
    known = any(cell.pixels is not None for cell in cells)
    parts.append(scale((LESS, frame.theme.paper, MORE), *((_end(-reach), _end(reach)) if known else ("", ""))))
    return "".join(parts)


def _end(value: float) -> str:
    return short(value) if abs(value) >= 0.0005 else number(float(f"{value:.2g}"))


def _said(frame: Frame, cell: _Cell) -> str:
    if not len(cell.p):
        return '<p class="um-say"></p>'
    best = int(np.argmax(cell.p))
    return f'<p class="um-say"><b>{esc(frame.suspect.classes[best])}</b> {esc(percent(float(cell.p[best]), 0))}</p>'


def _alt(frame: Frame, question: Mapping[str, Any], cell: _Cell, unit: str) -> str:
    pixels, best = cell.pixels, int(np.argmax(cell.p))
    assert pixels is not None
    row, at = np.unravel_index(int(np.abs(pixels).argmax()), pixels.shape)
    what = METHODS[question["method"]] + ("" if question["method"] in WHOLE else f", {unit}")
    return (
        f"{what}, {STATES[cell.state].lower()} model, {ROWS[cell.row][0].lower()} picture, answered "
        f"{frame.suspect.classes[best]} with {percent(float(cell.p[best]), 0)} confidence: strongest at row {row + 1}, "
        f"column {at + 1}, where it is {number(float(pixels[row, at]))}; the sum is {number(float(pixels.sum()))}."
    )


def _title(frame: Frame, question: Mapping[str, Any], rows: Sequence[Sequence[_Cell]], unit: str) -> str:
    """What is seen: what the states answer to the last picture, or where the one state looks."""
    cells, classes = rows[-1], frame.suspect.classes
    picture = f"the {ROWS[cells[0].row][0].lower()} picture"
    if len(cells) > 1:
        said: dict[str, list[str]] = {}
        for cell in cells:
            said.setdefault(classes[int(np.argmax(cell.p))], []).append(STATES[cell.state].lower())
        parts = [f"{panels.article(name)} to the {' and '.join(who)} model" for name, who in said.items()]
        return f"{picture.capitalize()} is {', '.join(parts)}."
    pixels = cells[0].pixels
    assert pixels is not None
    row, at = np.unravel_index(int(np.abs(pixels).argmax()), pixels.shape)
    answer = f"The answer through {unit}" if question["method"] == "conductance" else "The answer"
    who = answer if question["method"] in ANSWER else unit
    return f"{who} depends most on row {row + 1}, column {at + 1} of {picture}."


def _meaning(frame: Frame, question: Mapping[str, Any], value: Mapping[str, Any], unit: str) -> str:
    """How to read the colours, and what the states are."""
    method, states = str(question["method"]), question["states"]
    if method in ANSWER:
        classes = frame.suspect.classes
        said = dict.fromkeys(classes[int(a)] for a in (value.get("explained") or {}).values())
        named = f", {' and '.join(said)}" if said else ""
        who = {"layer_gradcam": unit.rpartition(":")[0], "conductance": unit}.get(method, "the picture")
        words = f"Orange is where {who} speaks for the suspect's answer{named}; blue is where it speaks against it."
    else:
        words = f"Orange pixels raise the output of {unit}, blue ones lower it."
    words += " One scale for both pictures." if len(states) == 1 else " One scale for each row."
    if {"unlearned", "recovered"} & set(states) and value.get("passes"):
        words += f" Unlearned: {count(value['passes'])} passes, to {percent(value['acc'], 0)} accuracy."
    if "recovered" in states:
        words += " Recovered: where RNP learned its masks, with them on."
    if "pruned" in states:
        cut = len(question["cut"])
        words += f" Pruned: {count(cut)} unit{'' if cut == 1 else 's'} cut." if cut else " Pruned: nothing is cut yet."
    return words
