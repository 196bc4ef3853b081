"""The picture and the trigger that the Picture page is about: a test picture or one's own; drawn, recovered, or known.

What is drawn lives in the session. An upload goes through the intake and travels to the worker at the data's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import streamlit as st

from app import data, handed, panels, pictures, pixels, shared, state
from app.panels import Frame
from app.unit_card import chooser, row_question, tests_of
from engine.intake import uploads
from engine.runs import jobs
from engine.runs.store import BY_ID, open_run

Shape = tuple[int, int, int]
NAMES = {"drawn": "your trigger", "recovered": "the recovered trigger", "own": "the suspect's own trigger"}
_WAYS = {"drawn": "Draw it", "recovered": "Recovered", "own": "The suspect's own"}
#: Runs that are looked through for a recovered trigger, at most.
_RUNS = 40


def section(frame: Frame) -> tuple[dict[str, Any], Shape | None]:
    """Choose both; what to ask the worker about them, and the pictures' (C, H, W) once it is known."""
    asked: dict[str, Any] = {"suspect": frame.suspect.name}
    with st.container(border=True, key="picture-choice"):
        left, right = st.columns([1.25, 1], gap="large")
        with left:
            at = _picture_way(frame)
            shape = _shape(frame, state.load().picture)
            if at is None:
                asked["picture"] = _uploaded(shape)
            else:
                asked["number"] = at
        with right:
            asked |= _trigger(frame, shape)
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


def _shape(frame: Frame, at: int) -> Shape | None:
    """What a picture of the data is like, (C, H, W): told by the test pictures that the worker has sent."""
    known: dict[str, Shape] = st.session_state.setdefault("picture-shapes", {})
    items = (panels.answer_to(row_question(frame, at), frame.seen).value or {}).get("items") or []
    if items:
        found = pictures.opened(items[0]["clean"])
        known[frame.suspect.name] = (1 if found.ndim == 2 else 3, found.shape[0], found.shape[1])
    return known.get(frame.suspect.name)


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


# --- the trigger -----------------------------------------------------------------------------------------------------


def _trigger(frame: Frame, shape: Shape | None) -> dict[str, Any]:
    panels.over("The trigger")
    own = frame.seen and frame.suspect.result.get("asr") is not None
    ways = [way for way in _WAYS if way != "own" or own]
    store = st.session_state
    if store.get("trigger-way") not in ways:
        store["trigger-way"] = "own" if own else "drawn"
    way = st.segmented_control(
        "Trigger", ways, format_func=_WAYS.__getitem__, required=True, key="trigger-way",
        label_visibility="collapsed",
    )  # fmt: skip
    if way == "own":
        panels.note("What this suspect was trained to answer. A real defender does not have it.")
        return {"source": "own"}
    if way == "recovered":
        return _recovered(frame)
    if shape is None:
        st.container(height=360, border=False)
        return {"source": "none"}
    channels, height, width = shape

    def take(png: str) -> None:
        drawings()[frame.suspect.name] = png

    pixels.pixels(
        drawings().get(frame.suspect.name, ""), width, height, channels, key="picture-pixels", on_draw=take,
        label=f"Your trigger on a grid of {width} by {height} pixels. Arrows move, space paints, the colours stand "
        "above.",
    )  # fmt: skip
    panels.note("Drag to paint; arrows and space do the same. A link does not carry the drawing: it stays here.")
    drawn = drawings().get(frame.suspect.name, "")
    return {"source": "drawn", "drawn": drawn} if drawn else {"source": "none"}


def drawings() -> dict[str, str]:
    """What was drawn in this session for each suspect, as a PNG in base64."""
    found: dict[str, str] = st.session_state.setdefault("picture-drawings", {})
    return found


def _recovered(frame: Frame) -> dict[str, Any]:
    runs = recovered_runs(frame)
    if not runs:
        panels.note(
            "Nobody has looked for a trigger in this suspect yet. Neural Cleanse searches for the smallest patch that "
            "leads every picture to one class: a guess, found without the true trigger."
        )
        refusal = shared.why_not("jobs")
        st.button(
            "Look for one", key="recover", icon=":material/search:", disabled=refusal is not None,
            help=refusal or "A job of some minutes; it appears in the sidebar.", on_click=panels.submit,
            args=(["detect", frame.suspect.name, "--detector", "neural_cleanse"],
                  f"Neural Cleanse on {frame.suspect.title}"),
        )  # fmt: skip
        return {"source": "none"}
    labels = dict(runs)
    run = st.selectbox("Found by", list(labels), format_func=labels.__getitem__, key="picture-recovered")
    panels.note("A defender's guess, found without the true trigger.")
    return {"source": "recovered", "run": run}


def recovered_runs(frame: Frame) -> Sequence[tuple[str, str]]:
    """Finished runs that recovered a trigger from this suspect and may be seen, with what they are called."""
    found = []
    entries = [e for e in jobs.entries() if e.run is not None and e.suspect == frame.suspect.name]
    for entry in entries[:_RUNS]:
        try:
            run = open_run(entry.folder)
            spec, result = data.documents(run)
        except ValueError:
            continue
        if not frame.seen and result.get("oracle") is True:
            continue
        if run.has("recovered.safetensors") or (run.kind == "detect" and spec.get("detector") == "neural_cleanse"):
            found.append((f"{BY_ID}{run.id}", str(result.get("title") or run.kind)))
    return found
