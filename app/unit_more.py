"""More about one unit, each on demand: its connections, the pictures it answers most, its classes, what it alone does.

Only the part that is chosen is asked of the warm worker. The choice stays while one walks through units, so whoever
wants to know what each of them does alone sees it for each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import streamlit as st

from app import neuron_figures, panels, pictures, state, what_if
from app.live import live
from app.neuron_figures import short
from app.palette import count, rgb
from app.panels import Frame, article, esc

PARTS = {"wiring": "Connections", "top": "Top pictures", "by_class": "By class", "check": "Cut alone"}
#: CSS pixels that a picture on the sheet may take.
_TILE = 56


def more(frame: Frame, unit: str, k: int) -> None:
    """The part that is chosen, for unit number ``k``."""
    part = st.segmented_control(
        "More about this unit", list(PARTS), format_func=PARTS.__getitem__, key="more", default="wiring",
        help="Cut alone measures the network without this unit on all test pictures, which takes a while.",
    )  # fmt: skip
    if part is not None:
        asked = question(frame, k)
        assert asked is not None
        live(lambda: _part(frame, asked, unit), frame, asked)


def question(frame: Frame, k: int) -> dict[str, Any] | None:
    """What the part that is chosen needs of the worker; None without one."""
    part = st.session_state.get("more", "wiring")
    if part == "check":
        return {"kind": "check", "suspect": frame.suspect.name, "cut": [k], "mode": state.load().mode}
    triggered = {"triggered": frame.seen} if part == "by_class" else {}
    return None if part is None else {"kind": part, "suspect": frame.suspect.name, "unit": k, **triggered}


def _part(frame: Frame, question: dict[str, Any], unit: str) -> None:
    answer = panels.answer_to(question, frame.seen)
    if answer.error:
        panels.failed(question, answer, "again-more")
        return
    draw = {"wiring": _wiring, "top": _top, "by_class": _by_class, "check": _alone}[question["kind"]]
    if answer.value is not None:
        draw(frame, answer.value, unit)
    if not answer.final:
        with st.container(height=64 if answer.value is not None else 160, border=False):
            panels.waiting(answer, "asking the worker")


# --- connections -----------------------------------------------------------------------------------------------------


def _wiring(_frame: Frame, value: Mapping[str, Any], _unit: str) -> None:
    left, right = st.columns(2, gap="small")
    for column, way, many, words in (
        (left, "incoming", value["feeders"], "Fed by"),
        (right, "outgoing", value["readers"], "Read by"),
    ):
        with column, st.container(gap="xxsmall", key=f"links-{way}"):
            panels.over(f"{words} {count(many)}")
            if not value[way]:
                panels.note("The picture itself." if way == "incoming" else "No unit and no class directly.")
            most = max((link["strength"] for link in value[way]), default=1.0) or 1.0
            for link in value[way]:
                share = f"{round(100 * link['strength'] / most)} %".replace(" ", "\u202f")
                if "id" not in link:
                    panels.note(f"class {link['class']}, {share}")
                    continue
                st.button(
                    f"{link['id']}  \u00b7  {share}", key=f"link {way} {link['id']}", type="tertiary",
                    help=f"Strength {link['strength']:.3g}; select this unit.", on_click=_follow,
                    args=(link["id"],),
                )  # fmt: skip
    words = "Strongest first, in percent of the strongest: size of the kernel between them times both scales."
    if value["through_sum"]:
        words += " A residual sum is on the way: every unit that is added to the channel counts, each by itself."
    panels.note(words)


def _follow(unit: str) -> None:
    """Select a unit from inside a part that is redrawn alone: the page has to follow."""
    state.select(unit, "find")
    st.session_state["followed"] = True


# --- top pictures ----------------------------------------------------------------------------------------------------


def _top(frame: Frame, value: Mapping[str, Any], unit: str) -> None:
    classes, n = frame.suspect.classes, len(value["numbers"])
    (most, often), *_ = Counter(classes[int(t)] for t in value["truths"]).most_common(1)
    title = f"{often} of the {n} clean test pictures that {unit} answers most show {article(most)}."
    panels.heading(title, lines=1)
    sheet, columns = pictures.opened(value["sheet"]), int(value["columns"])
    rows = -(-n // columns)
    side, wide = sheet.shape[0] // rows, sheet.shape[1] // columns
    gap, paper = 1, np.array(rgb(frame.theme.paper), np.uint8)
    framed = np.tile(paper, (rows * (side + gap) - gap, columns * (wide + gap) - gap, 1))
    for tile in range(n):
        row, column = divmod(tile, columns)
        piece = sheet[row * side : (row + 1) * side, column * wide : (column + 1) * wide]
        piece = piece[..., None].repeat(3, 2) if piece.ndim == 2 else piece
        y, x = row * (side + gap), column * (wide + gap)
        framed[y : y + side, x : x + wide] = piece
    ends = f"mean output {short(value['values'][0])} to {short(value['values'][-1])}"
    alt = f"{title} In falling order, {ends}; the first is test picture {value['numbers'][0]}."
    scale = max(1, _TILE // max(side, wide))
    source = pictures.png(framed, scale * max(framed.shape[:2]))
    st.html(f'<img class="um-sheet" src="{esc(source)}" alt="{esc(alt)}">')
    panels.note(
        f"Rowwise in falling order, {ends}, of {count(value['seen'])} clean test pictures. The first is number "
        f"{value['numbers'][0]}."
    )


# --- classes and the unit alone --------------------------------------------------------------------------------------


def _by_class(frame: Frame, value: Mapping[str, Any], unit: str) -> None:
    panels.chart(neuron_figures.by_class(value, frame.suspect.classes, unit, frame.theme), "by-class")
    panels.note("Of the pictures that the defender has; filled: clean" + (
        ", dashed outline: the same with the trigger." if value.get("triggered") is not None else "."
    ))  # fmt: skip


def _alone(frame: Frame, value: Mapping[str, Any], unit: str) -> None:
    """What changes when this unit alone is cut."""
    what_if.effect(frame, value, f"Cutting {unit} alone")
