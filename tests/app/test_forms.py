"""The form builder: settings from a schema, their words in links and commands, and the widgets they become."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from streamlit.testing.v1 import AppTest

from app import forms, pixels
from app.forms import Setting
from engine import catalogue
from engine.spec import Spec, param


class Example(Spec):
    target: int = param(0, label="Target class", help="A class.", ge=0, step=1)
    rate: float = param(0.1, label="Rate", help="A share.", gt=0, le=1, step=0.01)
    count: int = param(5, label="Count", help="A number.", gt=0, lt=10)
    source: int | None = param(None, label="Source", help="Another class.", ge=0)
    decay: float | None = param(None, label="Decay", help="Or none.", gt=0, lt=1)
    flip: bool = param(False, label="Flip", help="Yes or no.")
    rule: Literal["all_to_one", "source"] = param("all_to_one", label="Rule", help="One of two.")
    note: str = param("", label="Note", help="Any text.")


SETTINGS = forms.settings(Example.model_json_schema()["properties"])


def test_a_schema_says_everything_about_its_settings() -> None:
    kinds = {name: one.kind for name, one in SETTINGS.items()}
    assert kinds == {
        "target": "integer", "rate": "number", "count": "integer", "source": "integer", "decay": "number",
        "flip": "boolean", "rule": "choice", "note": "text",
    }  # fmt: skip
    rate, decay = SETTINGS["rate"], SETTINGS["decay"]
    assert (rate.title, rate.help, rate.default, rate.step) == ("Rate", "A share.", 0.1, 0.01)
    assert (rate.least, rate.most, rate.excluded) == (0, 1, (True, False))
    assert (decay.optional, decay.least, decay.most, decay.excluded) == (True, 0, 1, (True, True))
    assert SETTINGS["rule"].choices == ("all_to_one", "source")


@pytest.mark.parametrize("row", catalogue.rows("attacks"), ids=lambda row: row["name"])
def test_every_setting_of_every_attack_and_preset_survives_a_link(row: dict[str, Any]) -> None:
    for name, setting in forms.settings(row["settings"]).items():
        assert setting.title != name
        assert setting.help.endswith(".")
        for preset in row["presets"].values():
            value = setting.cast(preset["settings"].get(name, setting.default))
            assert setting.read(setting.words(value)) == value


@pytest.mark.parametrize(
    ("name", "words", "line"),
    [
        ("rate", "0", "expected rate to be a number above 0 to 1, got '0'"),
        ("rate", "nan", "a number above 0 to 1"),
        ("rate", "lots", "got 'lots'"),
        ("count", "10", "expected count to be a whole number above 0 below 10"),
        ("count", "2.5", "a whole number"),
        ("target", "-1", "a whole number from 0"),
        ("target", "none", "a whole number from 0"),
        ("flip", "maybe", "expected flip to be true or false"),
        ("rule", "no_such", "expected rule to be all_to_one or source"),
    ],
)
def test_words_that_mean_nothing_are_one_line(name: str, words: str, line: str) -> None:
    with pytest.raises(ValueError, match="expected") as refusal:
        SETTINGS[name].read(words)
    assert line in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_packing_survives_commas_and_signs() -> None:
    values = {"rate": "0.003", "note": "a,b=c d/+%", "source": "none"}
    assert forms.unpacked(forms.packed(values)) == values
    assert forms.unpacked("nonsense,=1,rate=0.5") == {"rate": "0.5"}


def _page() -> None:
    import streamlit as st

    from app import forms
    from tests.app.test_forms import SETTINGS

    values = {name: one.default for name, one in SETTINGS.items()} | {"source": 7, "rate": 0.003}
    for name, one in SETTINGS.items():
        st.session_state[f"said-{name}"] = forms.field(one, values[name], key=name, classes=("row", "column"))


def test_each_setting_becomes_its_widget() -> None:
    at = AppTest.from_function(_page).run()
    assert not at.exception
    rate = at.number_input(key="rate")
    assert rate.value == 0.003
    assert (rate.min, rate.max, rate.step) == (0, 1, 0.01)
    assert (at.number_input(key="count").min, at.number_input(key="count").max) == (1, 9)
    assert at.number_input(key="decay").value is None
    assert at.selectbox(key="target").options == ["0 \u00b7 row", "1 \u00b7 column"]
    assert at.selectbox(key="source").options[-1] == "7 \u00b7 no such class"
    assert at.selectbox(key="source").options[0] == "None"
    assert at.selectbox(key="rule").options == ["All to one", "Source"]
    assert at.toggle(key="flip").value is False
    at.number_input(key="decay").set_value(0.5)
    at.selectbox(key="source").select_index(1)
    at.toggle(key="flip").set_value(True).run()
    said = {name: at.session_state[f"said-{name}"] for name in SETTINGS}
    assert (said["decay"], said["source"], said["flip"], said["rate"]) == (0.5, 0, True, 0.003)
    assert {type(said[name]) for name in ("rate", "decay")} == {float}


def test_a_drawing_becomes_a_picture_and_comes_back() -> None:
    for channels in (1, 3):
        colours = pixels.palette(channels)
        cells = [-1] * 30
        cells[7], cells[29] = 0, len(colours) - 1
        png = pixels.encoded(cells, 6, 5, colours)
        assert pixels.decoded(png, 6, 5, colours) == cells
        assert pixels.decoded(png, 5, 6, colours) == [-1] * 30
    assert pixels.encoded([-1] * 30, 6, 5, colours) == ""
    assert pixels.decoded("no picture", 6, 5, colours) == [-1] * 30


@pytest.mark.parametrize(
    "report",
    [
        None, [], {"width": 2, "height": 1, "cells": [0]}, {"width": 2, "height": 1, "cells": "00"},
        {"width": 1, "height": 2, "cells": [0, 0]}, {"width": 2, "height": 1, "cells": [0, 4]},
        {"width": 2, "height": 1, "cells": [0, "1"]}, {"width": 2, "height": 1, "cells": [0, -2]},
    ],
)  # fmt: skip
def test_a_malformed_report_of_the_editor_changes_nothing(report: object) -> None:
    assert pixels.checked(report, 2, 1, 4) is None
    assert pixels.checked({"width": 2, "height": 1, "cells": [3, -1.0]}, 2, 1, 4) == [3, -1]


def test_a_setting_without_a_schema_type_is_text() -> None:
    assert Setting.of("x", {"title": "X"}).kind == "text"
