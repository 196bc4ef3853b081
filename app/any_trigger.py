"""A trigger to put on a picture: drawn by a person, recovered from the suspect, or the suspect's own where it is seen.

The Picture page offers all of them. The unit card offers the first two where it may not use the suspect's own, or there
is none. What is drawn lives in the session, the same on both pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from app import data, panels, pixels, shared
from app.panels import Frame
from app.picture_row import Shape, shape_of
from engine.runs import jobs
from engine.runs.store import BY_ID, open_run

NAMES = {"drawn": "your trigger", "recovered": "the recovered trigger", "own": "the suspect's own trigger"}
_WAYS = {"drawn": "Draw it", "recovered": "Recovered", "own": "The suspect's own"}
BESIDE = {"unlearned": "Unlearned", "drawn": "Your trigger", "recovered": "Recovered trigger"}
#: Runs that are looked through for a recovered trigger, at most.
_RUNS = 40


def section(frame: Frame, shape: Shape | None) -> dict[str, Any]:
    """The choice on the Picture page; what to ask the worker with."""
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
        return _recovered(frame, "picture-recovered")
    if shape is None:
        st.container(height=360, border=False)
        return {"source": "none"}
    _editor(frame, shape, "picture-pixels")
    return _drawn(frame)


# --- beside a unit's clean picture -----------------------------------------------------------------------------------


def mark(frame: Frame) -> dict[str, Any] | None:
    """What the card puts beside the clean picture: what a question to the worker says of a trigger that is not the
    suspect's own, ``source`` and more. None: the same picture in the unlearned model.
    """
    store, drawn = st.session_state, _drawn(frame)
    way = store.get("beside") or store.get("beside-way") or ("drawn" if drawn.get("drawn") else None)
    if way == "drawn":
        return drawn if drawn.get("drawn") else None
    runs = [] if way == "unlearned" else [run for run, _ in recovered_runs(frame)]
    if not runs:
        return None
    chosen = store.get("beside-recovered")
    return {"source": "recovered", "run": chosen if chosen in runs else runs[0]}


def beside(frame: Frame, at: int) -> None:
    """Choose it. Whoever has no trigger can draw one, or take what Neural Cleanse has found."""
    store = st.session_state
    now = mark(frame)
    if "beside" not in store:
        store["beside"] = store.get("beside-way") or ("unlearned" if now is None else now["source"])
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        way = st.segmented_control(
            "Beside the clean picture", list(BESIDE), format_func=BESIDE.__getitem__, required=True, key="beside",
            help="The trigger of this suspect is not known here. The same picture in the unlearned model shows what "
            "the unit serves; a trigger that you draw or recover is a guess.",
        )  # fmt: skip
        store["beside-way"] = way  # a widget's own value is forgotten on other pages
        if way == "drawn":
            shape = shape_of(frame, at)
            with st.popover("Draw it", icon=":material/draw:", disabled=shape is None, key="beside-draw"):
                if shape is not None:
                    _editor(frame, shape, "beside-pixels")
    if way == "drawn" and now is None:
        panels.note("Nothing is drawn yet, so the unlearned model is shown. A bright square in a corner is a start.")
    if way == "recovered":
        _recovered(frame, "beside-recovered")


# --- drawn -----------------------------------------------------------------------------------------------------------


def drawings() -> dict[str, str]:
    """What was drawn in this session for each suspect, as a PNG in base64."""
    found: dict[str, str] = st.session_state.setdefault("picture-drawings", {})
    return found


def _drawn(frame: Frame) -> dict[str, Any]:
    drawn = drawings().get(frame.suspect.name, "")
    return {"source": "drawn", "drawn": drawn} if drawn else {"source": "none"}


def _editor(frame: Frame, shape: Shape, key: str) -> None:
    channels, height, width = shape

    def take(png: str) -> None:
        drawings()[frame.suspect.name] = png

    pixels.pixels(
        drawings().get(frame.suspect.name, ""), width, height, channels, key=key, on_draw=take,
        label=f"Your trigger on a grid of {width} by {height} pixels. Arrows move, space paints, the colours stand "
        "above.",
    )  # fmt: skip
    panels.note("Drag to paint; arrows and space do the same. A link does not carry the drawing: it stays here.")


# --- recovered -------------------------------------------------------------------------------------------------------


def _recovered(frame: Frame, key: str) -> dict[str, Any]:
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
    run = st.selectbox("Found by", list(labels), format_func=labels.__getitem__, key=key)
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
