"""Which answers does a cut or a defense change? Confusion matrices before and after, as the warm worker counts them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import streamlit as st

from app import confusion_figures, panels
from app.live import live
from app.palette import count
from app.panels import Frame

_KINDS: tuple[Literal["clean", "triggered"], ...] = ("clean", "triggered")


def question(frame: Frame, cut: list[int], mode: str) -> dict[str, Any]:
    """What to ask about a cut; a defender's question leaves the trigger out."""
    return {"kind": "confusion", "suspect": frame.suspect.name, "cut": cut, "mode": mode, "triggered": frame.seen}


def section(frame: Frame, asked: dict[str, Any], name: str) -> None:
    """The matrices: first of some pictures, then of all; ``name`` as for :func:`app.confusion_figures.confusions`."""
    live(lambda: _draw(frame, asked, name), frame, asked)


def _draw(frame: Frame, asked: dict[str, Any], name: str) -> None:
    answer = panels.answer_to(asked, frame.seen)
    if answer.error:
        panels.failed(asked, answer, "again-answers")
        return
    value = answer.value or {}
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="answers-status"):
        if not answer.final:
            panels.waiting(answer, "counting answers")
        else:
            chip = '<span class="um-chip exact"><i>exact</i></span>'
            n = int(np.sum(value["clean"]["after"]))
            st.html(f'<p class="um-note um-counted">{chip} all {count(n)} clean test pictures</p>')
    if not value:
        st.container(height=440, border=False)
    for kind in _KINDS:
        part = value.get(kind)
        if part is None or not np.any(part["before"]):
            continue
        drawn = confusion_figures.confusions(value["classes"], part["before"], part["after"], kind, name, frame.theme)
        if not answer.final:
            panels.note(f"An estimate from the first {count(int(np.sum(part['before'])))} {kind} pictures.")
        panels.chart(drawn, f"confusion-{kind}", lines=1)
    words = "Cells are percent of the true class; right answers are framed."
    if frame.seen:
        panels.note(words)
    else:
        panels.locked(f"{words} Triggered pictures: {panels.WHY_LOCKED}")
