"""A picture of one's own: what the present suspect answers to it, before and after the present cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import streamlit as st

from app import data, handed, panels, pictures, state
from app.palette import percent, units
from app.panels import Frame, Picture

SIDE = 196  # seven times the 28 pixels of a demo's picture
#: Classes that are listed.
MOST = 3


def section(frame: Frame) -> None:
    st.space("small")
    st.header(f"Try a picture on {panels.plain(frame.suspect.title)}")
    with st.container(border=True, key="stranger"):
        left, right = st.columns([1, 1.9], gap="large")
        with left:
            handed.uploader("picture", "Picture", "PNG, JPEG, WEBP or BMP, at most 16 million pixels. It is not kept.")
            panels.note(
                "It is decoded in a process of its own. Its largest centred part of the data's proportions is scaled "
                "to their size (bilinear, smoothed); grey is luminance, and transparency is dropped."
            )
            look = handed.found("picture")
            if look is not None:
                st.button(
                    "Put away", key="stranger-away", icon=":material/close:", type="tertiary", on_click=handed.clear,
                    args=("picture",),
                )  # fmt: skip
        with right:
            if look is None:
                panels.heading("Which class does this suspect see in a picture of yours?", lines=1)
                panels.note(
                    f"Choose another suspect in the sidebar. Whatever the picture shows, the answer is one of its "
                    f"{len(frame.suspect.classes)} classes."
                )
            elif look.state == "working":
                handed.wait("picture")
            elif look.state == "refused":
                panels.refuse(ValueError(look.error), "Choose another picture.")
            elif look.value is not None:
                _asked(frame, str(look.value["png"]))


def _asked(frame: Frame, picture: str) -> None:
    """The answer, or how far it is; the part that waits is redrawn alone."""
    cut = _cut(frame)
    question: dict[str, Any] = {
        "kind": "stranger", "suspect": frame.suspect.name, "picture": picture, "cut": cut,
        "mode": frame.address.mode, "triggered": frame.seen,
    }  # fmt: skip
    _forget_others(picture)
    answer = panels.answer_to(question, frame.seen)
    if answer.error:
        panels.failed(question, answer, "again-stranger")
    elif answer.value is not None:
        state.note_seen(frame.suspect.name, frame.seen)
        _answered(frame, answer.value, len(cut))
    else:

        def wait() -> None:
            found = panels.answer_to(question, frame.seen)
            if found.final:
                st.rerun()
            panels.waiting(found, "asking the suspect")

        st.fragment(wait, run_every=panels.pace())()


def _cut(frame: Frame) -> list[int]:
    """The units that Prune's threshold and hand edits cut now; none of a suspect without scores."""
    try:
        studies = data.studies(frame.suspect.name, frame.seen)
    except ValueError:
        return []
    study = studies.get(frame.address.score)
    return [] if study is None else data.present(study, frame.address.thr, frame.address.edited).numbers


def _forget_others(picture: str) -> None:
    """Drop the answers to former pictures: each holds its picture."""
    kept = st.session_state.get("answers", {})
    for key, answer in list(kept.items()):
        if answer.question.get("picture", picture) != picture:
            del kept[key]


# --- the answer ------------------------------------------------------------------------------------------------------


def _answered(frame: Frame, value: Mapping[str, Any], pruned: int) -> None:
    classes = frame.suspect.classes
    clean, triggered = st.columns(2, gap="medium")
    with clean:
        panels.pictures([_card("As the model sees it", "acc", value, "clean", classes)])
        _top(value, "clean", classes, pruned)
    with triggered:
        if value.get("triggered"):
            panels.pictures([_card("With the trigger", "asr", value, "triggered", classes)])
            _top(value, "triggered", classes, pruned)
        elif frame.seen:
            why = "This model has no trigger."
            panels.pictures([Picture("With the trigger", None, f"With the trigger: {why}", SIDE, key="asr", why=why)])
        else:
            panels.pictures([panels.locked_picture("With the trigger", SIDE)])


def _card(name: str, key: str, value: Mapping[str, Any], kind: str, classes: list[str]) -> Picture:
    pixels, p = pictures.opened(value[kind]), np.asarray(value[f"p_{kind}"])
    said, before = int(p.argmax()), int(np.argmax(value["p_clean"]))
    size = f"{pixels.shape[1]} \u00d7 {pixels.shape[0]} pixels"
    alt = f"{name}: your picture at {size}, answered as {classes[said]} with {percent(float(p[said]))} confidence."
    why = size if kind == "clean" else "the same answer" if said == before else f"changed from {classes[before]}"
    return Picture(
        name, pictures.png(pixels, SIDE), alt, SIDE, key=key, answer=classes[said], confidence=float(p[said]),
        why=why, wrong=said != before,
    )  # fmt: skip


def _top(value: Mapping[str, Any], kind: str, classes: list[str], pruned: int) -> None:
    """The classes of the highest confidence, before or after the cut."""
    before, after = np.asarray(value[f"p_{kind}"]), value.get(f"p_{kind}_cut")
    highest = before if after is None else np.maximum(before, after)
    rows = []
    for k in np.argsort(-highest, kind="stable")[:MOST]:
        cells = [percent(float(before[k]))] + ([] if after is None else [percent(float(after[k]))])
        rows.append((classes[int(k)], *cells))
    panels.facts(("Answer", "Uncut", *([] if after is None else [f"{units(pruned)} cut"])), rows)
