"""A trigger of one's own for the Attack lab: drawn on a grid, or a picture that was uploaded and put at its place.

The one place that knows how such an attack takes it: its setting ``picture``, a PNG in base64 as large as the data's
pictures, transparent where they stay as they are.
"""

from __future__ import annotations

import base64

import streamlit as st

from app import handed, lab, panels, pixels, shared, trigger_form
from app.lab import Bench, Side

_WAYS = {"draw": "Draw it", "upload": "Upload it"}


def missing(side: Side) -> str | None:
    """What an attack of one's own waits for; None if it has its trigger, or is no such attack."""
    if lab.PICTURE not in side.settings or side.values[lab.PICTURE]:
        return None
    return "Draw a trigger on the grid, or upload one."


def section(bench: Bench, side: Side, first: bool) -> None:
    """Where the trigger comes from; ``first``: of the columns that have one, the one that uploads go to."""
    if lab.PICTURE not in side.settings:
        return
    ways = [way for way in _WAYS if way == "draw" or (first and shared.allowed("uploads"))]
    way = "draw"
    if len(ways) > 1:
        way = st.segmented_control(
            "Trigger", ways, format_func=_WAYS.__getitem__, default="draw", required=True, key=f"lab-way{side.suffix}"
        )
    elif refusal := shared.why_not("uploads"):
        panels.note(refusal)

    def take(png: str) -> None:
        lab.change(side, lab.PICTURE, png)

    channels, height, width = bench.shape
    if way == "draw":
        label = f"Trigger on a grid of {width} by {height} pixels. Arrows move, space paints, the colours stand above."
        png, key = side.values[lab.PICTURE], f"lab-pixels{side.suffix}"
        pixels.pixels(png, width, height, channels, key=key, label=label, on_draw=take)
        panels.note("Drag to paint; arrows and space do the same. What is empty leaves the pictures as they are.")
        return
    handed.uploader("trigger", "Its picture", "PNG, JPEG, WEBP or BMP, at most 1,024 \u00d7 1,024 pixels.")
    look = handed.accepted(
        handed.found("trigger"), "trigger", trigger_form.TRANSPARENT, "Choose another picture."
    )  # fmt: skip
    if look is None or look.value is None:
        return
    if "place" in side.settings:  # the attack puts it at its place
        if look.value["png"] != side.values[lab.PICTURE]:
            take(look.value["png"])
            st.rerun()
    else:
        png = trigger_form.placed(look.value, (height, width), float(side.values.get("opacity") or 1), "lab-place")
        words = "" if png is None else base64.b64encode(png).decode()
        if words and words != side.values[lab.PICTURE]:
            take(words)
            st.rerun()
