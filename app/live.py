"""Parts of a page that wait for answers of the warm worker."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import streamlit as st

from app import panels
from app.panels import Frame
from engine.runs import ask

#: Seconds that a part of the page waits for its answers at most, where no more than a few questions wait.
MOMENT, FEW = 0.12, 6


def live(draw: Callable[[], None], frame: Frame, *questions: dict[str, Any]) -> None:
    """Draw a part that waits for answers: it alone is redrawn meanwhile, and the page when one has come.

    Where the page drew something without an answer before it came here, it looks afterwards: :func:`overtaken`.
    """

    def complete() -> list[bool]:
        return [panels.answer_to(question, frame.seen).final for question in questions]

    before = complete()
    # What the worker has nearly ready is worth a moment: it saves a look later and running the page once more.
    until = time.monotonic() + MOMENT
    while not all(before) and time.monotonic() < until and ask.waiting() <= FEW:
        time.sleep(0.015)
        before = complete()

    def again() -> None:
        if st.session_state.pop("followed", False):
            st.rerun()
        draw()
        if complete() != before:
            st.rerun()  # an answer is there, or a question is asked again

    st.fragment(again, run_every=None if all(before) else panels.pace())()


def overtaken(frame: Frame, *questions: dict[str, Any]) -> None:
    """Draw the page again if an answer has come that was not there when the page drew what needs it."""
    if any(panels.answer_to(question, frame.seen).final for question in questions):
        st.rerun()
