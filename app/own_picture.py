"""The picture and the trigger that the Picture page is about: a test picture or one's own, and a trigger of any kind.

An upload goes through the intake and travels to the worker at the data's size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import streamlit as st

from app import any_trigger, handed, panels, pictures, shared, state
from app.panels import Frame
from app.picture_row import Shape, chooser, shape_of, tests_of
from engine.intake import uploads


def section(frame: Frame) -> tuple[dict[str, Any], Shape | None]:
    """Choose both; what to ask the worker about them, and the pictures' (C, H, W) once it is known."""
    asked: dict[str, Any] = {"suspect": frame.suspect.name}
    with st.container(border=True, key="picture-choice"):
        left, right = st.columns([1.25, 1], gap="large")
        with left:
            at = _picture_way(frame)
            shape = shape_of(frame, state.load().picture)
            if at is None:
                asked["picture"] = _uploaded(shape)
            else:
                asked["number"] = at
        with right:
            asked |= any_trigger.section(frame, shape)
    return asked, shape


# --- the picture -----------------------------------------------------------------------------------------------------


def _picture_way(frame: Frame) -> int | None:
    """The number of the test picture, or None for one of one's own."""
    panels.over("The picture")
    way = "test"
    if shared.allowed("uploads"):
        way = st.segmented_control(
            "Picture", ["test", "own"], format_func={"test": "Test picture", "own": "Yours"}.__getitem__,
            default="test", required=True, key="picture-way", label_visibility="collapsed",
        )  # fmt: skip
    elif refusal := shared.why_not("uploads"):
        panels.note(refusal)
    if way == "own":
        return None
    at = chooser(frame)
    st.number_input(
        "Test picture", 0, tests_of(frame) - 1, key=state.shows("picture-number", at), width=150,
        help="The number of any test picture.",
        on_change=lambda: state.change(picture=int(state.shown("picture-number"))),
    )  # fmt: skip
    return at


def _uploaded(shape: Shape | None) -> str:
    """The picture that was handed in, at the data's size, as a PNG in base64; "" without one."""
    handed.uploader("picture", "Picture", "PNG, JPEG, WEBP or BMP, at most 16 million pixels. It is not kept.")
    look = handed.accepted(
        handed.found("picture"), "picture",
        "Its largest centred part of the data's proportions is scaled to their size.", "Choose another picture.",
    )  # fmt: skip
    if look is None or look.value is None or shape is None:
        return ""
    st.button(
        "Put away", key="picture-away", icon=":material/close:", type="tertiary", on_click=handed.clear,
        args=("picture",),
    )  # fmt: skip
    store = st.session_state
    key = (handed.current("picture"), shape)
    if store.get("picture-fitted", (None, ""))[0] != key:
        fitted = pictures.plain(uploads.fitted(str(look.value["png"]), shape))
        store["picture-fitted"] = (key, _base64(fitted))
    return str(store["picture-fitted"][1])


def _base64(picture: np.ndarray) -> str:
    return pictures.png(picture, max(picture.shape[:2])).partition(",")[2]
