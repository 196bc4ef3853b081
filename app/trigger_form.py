"""The trigger of a model that is opened: a known attack with its settings, or somebody's picture at its place."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st

from app import forms, handed, panels, pictures
from engine.intake import uploads

_TRIGGERS = {"none": "None known", "attack": "A known attack", "picture": "A picture"}
#: Settings of an attack that say how a training set was poisoned, which an import has nothing to do with.
_POISONING = ("target", "rate", "rule", "source")
_PREVIEW = 168
TRANSPARENT = "What is transparent in it leaves the pictures as they are."


@dataclass(frozen=True)
class Pictures:
    """The data that the model is measured with, as the command line names them."""

    name: str
    classes: Sequence[str]
    shape: Sequence[int]


def trigger(choices: Mapping[str, Any], chosen: Pictures | None) -> list[str | bytes] | None:
    """Words for the command, with the trigger's picture as bytes where there is one; None while it is incomplete."""
    kind = st.segmented_control(
        "Trigger", list(_TRIGGERS), format_func=_TRIGGERS.__getitem__, default="none", required=True,
        key="import-trigger", help="If the model's maker published it. It makes ASR measurable, and decides nothing.",
    )  # fmt: skip
    if kind == "none":
        panels.note("That is the usual case: a defender has clean pictures and no trigger. ASR cannot be measured.")
        return []
    if chosen is None:
        panels.note("Choose the pictures first: a trigger depends on their size and classes.")
        return None
    columns = st.columns([1, 1, 1], gap="medium")
    with columns[0]:
        if kind == "attack":
            attacks = {row["name"]: row for row in choices["attacks"] if not row["learned"]}
            attack = str(st.selectbox("Attack", list(attacks), key="import-attack", help=_formulas(attacks)))
        names = list(chosen.classes)
        target = st.selectbox(
            "Target class", range(len(names)), format_func=lambda k: f"{k} \u00b7 {names[k][:60]}",
            key=f"import-target-{chosen.name}", help="The answer that the trigger forces.",
        )  # fmt: skip
        words: list[str | bytes] = ["--target", str(target)]
        if kind == "picture":
            opacity = st.slider(
                "Opacity", 0.05, 1.0, 1.0, 0.05, key="import-opacity", help="Weight of the picture where it covers."
            )
    if kind == "attack":
        settings = {k: v for k, v in attacks[attack]["settings"].items() if k not in _POISONING}
        return [*words, "--attack", attack, *_settings(attack, settings, columns[1:])]
    with columns[1]:
        handed.uploader("trigger", "Its picture", "PNG, JPEG, WEBP or BMP, at most 1,024 \u00d7 1,024 pixels.")
        look = handed.found("trigger")
    with columns[2]:
        look = handed.accepted(look, "trigger", TRANSPARENT, "Choose another picture.")
        if look is not None and look.value is not None:
            png = placed(look.value, (chosen.shape[1], chosen.shape[2]), opacity)
            return None if png is None else [*words, "--trigger", png, "--opacity", f"{opacity:g}"]
    return None


def _formulas(attacks: Mapping[str, Mapping[str, Any]]) -> str:
    return "  \n".join(f"{name}: {panels.plain(row['about'])}" for name, row in attacks.items())


def _settings(attack: str, settings: Mapping[str, Mapping[str, Any]], columns: Sequence[Any]) -> list[str]:
    """A widget for each number of an attack, from its specification."""
    words = []
    numbers = [one for one in forms.settings(settings).values() if one.kind in ("integer", "number")]
    for k, setting in enumerate(numbers):
        with columns[k % len(columns)]:
            value = forms.field(setting, setting.default, key=f"import-{attack}-{setting.name}")
        if value is not None:
            words += ["--set", f"{setting.name}={setting.words(value)}"]
    return words


def placed(
    trigger: Mapping[str, Any], shape: tuple[int, int], opacity: float, key: str = "import-place"
) -> bytes | None:
    """Asks where a picture that was handed in lies, and shows it there: the picture as a PNG of ``shape``."""
    whole = (trigger["height"], trigger["width"]) == shape
    place = st.selectbox(
        "Position", uploads.PLACES, index=uploads.PLACES.index("everywhere") if whole else 0,
        format_func=lambda p: p.capitalize() if p != "everywhere" else "Scaled to the whole picture",
        key=key,
    )  # fmt: skip
    margin = 0
    if place in uploads.CORNERS:
        margin = int(st.number_input("Margin", 0, 512, 0, 1, key=f"{key}-margin", help="Pixels from the corner."))
    try:
        png = uploads.placed(trigger["png"], shape, str(place), margin)
    except ValueError as refusal:
        panels.refuse(refusal, "Choose a smaller picture or another position.")
        return None
    shown = _on_grey(pictures.opened(base64.b64encode(png).decode(), alpha=True), opacity)
    alt = f"The trigger at its place, {place}, on a grey picture of {shape[1]} x {shape[0]} pixels."
    panels.pictures(
        [
            panels.Picture(
                handed.short(handed.current("trigger"), 20), pictures.png(shown, _PREVIEW), alt, _PREVIEW, key="asr"
            )
        ]
    )
    return png


def _on_grey(pixels: np.ndarray, opacity: float) -> np.ndarray:
    cover = pixels[..., 3:].astype(np.float32) / 255 * opacity
    return ((1 - cover) * 160 + cover * pixels[..., :3]).round().astype(np.uint8)
