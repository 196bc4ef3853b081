"""The test pictures of a suspect: a row to choose one from, and what they are like."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import panels, pictures, state
from app.panels import Frame, article
from app.picture_strip import SIDE as THUMB
from app.picture_strip import picture_strip

Shape = tuple[int, int, int]
#: Pictures in the row that one is chosen from.
ROW = 6


def tests_of(frame: Frame) -> int:
    return int((frame.suspect.result.get("n") or {}).get("acc") or 10_000)


def row_question(frame: Frame, at: int) -> dict[str, Any]:
    """The test pictures of the row in which number ``at`` is."""
    first = at - at % ROW
    numbers = list(range(first, min(first + ROW, tests_of(frame))))
    return {"kind": "pictures", "suspect": frame.suspect.name, "cut": [], "mode": "scale", "numbers": numbers}


def chooser(frame: Frame) -> int:
    """A row of test pictures, and the number of the chosen one."""
    total = tests_of(frame)
    at = min(state.load().picture, total - 1)
    if at != state.load().picture:
        state.go(picture=at)
    question = row_question(frame, at)
    answer = panels.answer_to(question, frame.seen)
    found = {item["number"]: item for item in (answer.value or {}).get("items", [])}
    classes = frame.suspect.classes
    items = []
    for n in question["numbers"]:
        item = found.get(n)
        src = "" if item is None else pictures.png(pictures.opened(item["clean"]), THUMB).partition(",")[2]
        name = f"Test picture {n}" if item is None else f"Test picture {n}: {article(classes[item['truth']])}"
        items.append({"number": n, "name": name, "src": src})
    picture_strip(items, at, label="Test pictures to look at", key="strip", on_pick=lambda n: state.change(picture=n))
    return at


def shape_of(frame: Frame, at: int) -> Shape | None:
    """What a picture of the data is like, (C, H, W): told by the test pictures that the worker has sent."""
    known: dict[str, Shape] = st.session_state.setdefault("picture-shapes", {})
    items = (panels.answer_to(row_question(frame, at), frame.seen).value or {}).get("items") or []
    if items:
        found = pictures.opened(items[0]["clean"])
        known[frame.suspect.name] = (1 if found.ndim == 2 else 3, found.shape[0], found.shape[1])
    return known.get(frame.suspect.name)
