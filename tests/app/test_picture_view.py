"""The Picture page: a picture with and without a trigger, units cut one after the other; what a defender gets of it."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from app import palette, picture_figures, shared
from app.pixels import encoded
from app.pixels import palette as colours
from engine.explain.methods import METHODS
from engine.runs import ask, jobs
from engine.runs.store import new_run
from tests.app import fake
from tests.app.test_open_view import uploaded
from tests.app.test_views import delivered, png, words
from tests.app.visit import visit

Asked = list[dict[str, Any]]
#: What comes of the suspect's own trigger, in every form in which it could be shown.
SECRET = ("0.57721", "57.7\u202f%", "0.577")
CELLS = [-1] * 783 + [0]
DRAWN = encoded(CELLS, 28, 28, colours(1))


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demos")
    fake.build(root, {"badnets": fake.Figures(), "clean": fake.Figures(0.934, None, None)}, ("rnp", "tac"))
    return root


def answer(question: dict[str, Any]) -> dict[str, Any]:
    stamped = question["suspect"] != "demo:clean"
    if question["kind"] == "pictures":
        item = {"clean": png(1), "p_clean": [0.1] * 10, "truth": 4, "triggered": None, "difference": None}
        return {"items": [{**item, "number": n, "p_triggered": None} for n in question["numbers"]]}
    found = fake.about_picture(question, png(2), stamped, 0.57721)
    assert found is not None
    return found


@pytest.fixture
def asked(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """A worker that answers at once; what it was asked."""
    return fake.worker(monkeypatch, answer)


def open_page(**params: str) -> AppTest:
    return visit("picture", **{"run": "demo:badnets", **params})


def draw(at: AppTest, run: str = "demo:badnets") -> AppTest:
    """What the editor's callback keeps."""
    at.session_state["trigger-way"] = "drawn"
    at.session_state["picture-drawings"] = {run: DRAWN}
    return at.run()


# --- figures ---------------------------------------------------------------------------------------------------------


def rows(*turns: int) -> list[dict[str, Any]]:
    return [
        {"said": [1 if k < turn else 0 for k in range(4)], "sure": [0.9] * 4, "truth": [0.1, 0.2, 0.8, 0.9],
         "first": [0.9, 0.8, 0.2, 0.1]}
        for turn in turns
    ]  # fmt: skip


def drawn(found: list[dict[str, Any]], truth: int = 0, step: int = 2) -> picture_figures.Chart:
    orders = [("units that change most", ["a:1", "a:2", "a:3"]), ("units that RNP ranks first", ["b:1", "b:2", "b:3"])]
    chart = picture_figures.one_after_the_other(
        orders, found, ["Shirt", "Bag"], truth, step, "your trigger", palette.LIGHT
    )
    go.Figure(chart.figure)  # every property is one that Plotly knows
    return chart


def test_the_curve_says_after_how_many_cuts_the_true_class_is_back() -> None:
    chart = drawn(rows(2, 99))
    assert chart.title == (
        "Cut one after the other until Bag becomes Shirt: with the units that change most it takes 2, with the units "
        "that RNP ranks first 3 are not enough."
    )
    assert "With 2 cut, units that change most: Shirt, 90.0\u202f%; units that RNP ranks first: Bag" in chart.alt
    assert chart.table["units that change most: unit"] == ["nothing", "a:1", "a:2", "a:3"]
    assert [trace["line"]["dash"] for trace in chart.figure["data"]] == ["dash", "dot"] * 2
    assert {shape["x0"] for shape in chart.figure["layout"]["shapes"]} == {2}


def test_a_trigger_that_changes_nothing_has_one_line() -> None:
    chart = drawn(rows(99, 99), truth=1)
    assert len(chart.figure["data"]) == 2
    assert chart.title == "With your trigger the answer is Bag all the same; it stays so in all cuts."
    assert drawn(rows(3, 99), truth=1).title.endswith("it is lost after 3 cuts.")


# --- the page --------------------------------------------------------------------------------------------------------


def test_an_oracle_sees_what_the_suspects_own_trigger_does(asked: Asked) -> None:
    at = open_page(role="oracle", picture="3", step="6", neuron="bn1:5")
    assert not at.exception
    said = words(at)
    assert "answered as Trouser with 57.7\u202f% confidence" in said
    assert "And 6 units cut" in said
    assert "it takes 5" in said
    (steps,) = [q for q in asked if q["kind"] == "steps"]
    assert (steps["number"], steps["source"], len(steps["orders"])) == (3, "own", 2)
    assert steps["orders"][0] == list(range(2399, 2369, -1))
    table = at.dataframe[0].value
    assert list(table.columns) == ["Unit", "Change", "Rank by RNP", "Cut", "Without", "With"]
    assert table["Unit"][0] == "layer4.1.bn2:255"
    assert at.slider[0].value == 6
    assert "bn1:5 is not among them" in said


def test_the_url_restores_picture_unit_and_step(asked: Asked) -> None:
    params = {"run": "demo:badnets", "role": "oracle", "neuron": "layer4.1.bn2:255", "picture": "8", "step": "4"}
    at = open_page(**params)
    assert dict(at.query_params) == params
    at.number_input(key=fake.turned(at, "step-number")).set_value(7).run()
    assert at.query_params["step"] == "7"
    assert at.slider[0].value == 7
    at.number_input(key=fake.turned(at, "picture-number")).set_value(9).run()
    assert at.query_params["picture"] == "9"
    assert asked[-1]["number"] == 9


def test_the_selected_unit_is_named_with_its_place_in_the_list(asked: Asked) -> None:
    del asked
    assert "Click the mark before a row" in words(open_page(role="oracle"))
    at = open_page(role="oracle", neuron="layer4.1.bn2:253")
    assert "Selected: layer4.1.bn2:253 is number 3 here." in words(at)


def test_a_defender_draws_and_sees_what_the_drawing_does(asked: Asked) -> None:
    at = open_page(role="defender")
    assert [q["source"] for q in asked if q["kind"] == "twin"] == ["none"]
    assert "Draw something on the grid" in words(at)
    assert "own" not in at.segmented_control(key="trigger-way").options
    draw(at)
    assert not at.exception
    assert "With your trigger" in words(at)
    assert "answered as Trouser with 87.0\u202f% confidence" in words(at)
    (steps,) = [q for q in asked if q["kind"] == "steps"]
    assert (steps["source"], steps["drawn"]) == ("drawn", DRAWN)
    assert DRAWN not in str(dict(at.query_params))
    assert "A link does not carry the drawing" in words(at)


def test_nothing_of_the_suspects_own_trigger_reaches_a_defender(asked: Asked) -> None:
    at = open_page(role="oracle", step="2")
    at.selectbox(key="picture-method").set_value("layer_gradcam").run()
    assert [s for s in SECRET if s in delivered(at)]
    at.segmented_control(key=fake.turned(at, "role-choice")).set_value("defender").run()
    assert not at.exception
    since = len(asked)
    draw(at)
    assert not [s for s in SECRET if s in delivered(at)]
    assert not [q for q in asked[since:] if q.get("source") == "own"]
    at.session_state["trigger-way"] = "own"  # as a page that is behind would report it
    at.run()
    assert not [s for s in SECRET if s in delivered(at)]
    assert not [q for q in asked[since:] if q.get("source") == "own"]


def test_attributions_come_on_demand_and_follow_the_step(asked: Asked) -> None:
    at = open_page(role="oracle", step="3", neuron="bn1:5")
    assert not [q for q in asked if q["kind"] == "pixels"]
    at.selectbox(key="picture-method").set_value("neuron_gradient").run()
    (question,) = [q for q in asked if q["kind"] == "pixels"]
    assert (question["unit"], question["cut"]) == (5, [2399, 2398, 2397])
    alts = re.findall(r'<img[^>]*alt="([^"]*)"', words(at))
    assert sum(f"{METHODS['neuron_gradient']} (bn1:5)" in alt for alt in alts) == 3
    assert all(re.search(r"\d", alt) and len(alt) > 40 for alt in alts)
    at.segmented_control(key="step-order").set_value("score").run()
    assert asked[-1]["cut"] != question["cut"]
    assert len(asked[-1]["cut"]) == 3


def test_a_suspect_without_a_trigger_takes_a_drawing(asked: Asked) -> None:
    at = open_page(run="demo:clean", role="oracle")
    assert "own" not in at.segmented_control(key="trigger-way").options
    draw(at, "demo:clean")
    assert "With your trigger" in words(at)
    assert asked[-1]["suspect"] == "demo:clean"


# --- a recovered trigger ---------------------------------------------------------------------------------------------


def test_a_trigger_is_looked_for_and_used_once_it_is_found(asked: Asked, workspace: Path) -> None:
    at = open_page(role="defender")
    at.segmented_control(key="trigger-way").set_value("recovered").run()
    assert "Nobody has looked for a trigger" in words(at)
    at.button(key="recover").click().run()
    assert [job.argv for job in jobs.jobs()] == [("detect", "demo:badnets", "--detector", "neural_cleanse")]
    spec = {"kind": "detect", "suspect": "demo:badnets", "detector": "neural_cleanse"}
    with new_run(spec, {}, workspace / "runs" / "found") as run:
        run.arrays("detection", {"norms": np.zeros(3, np.float32)})
        run.result = {"title": "Neural Cleanse", "oracle": False}
    at = open_page(role="defender")
    at.segmented_control(key="trigger-way").set_value("recovered").run()
    assert at.selectbox(key="picture-recovered").options == ["Neural Cleanse"]
    assert asked[-1]["source"] == "recovered"
    assert asked[-1]["run"].startswith("run:")


# --- one's own picture -----------------------------------------------------------------------------------------------


def file(*shape: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_picture_of_ones_own_travels_at_the_datas_size(asked: Asked) -> None:
    at = draw(open_page(role="defender"))
    at.segmented_control(key="picture-way").set_value("own").run()
    assert "Hand in a picture to begin." in words(at)
    uploaded(at, "Picture", "mine.png", file(300, 200, 3))
    assert not at.error
    twin = [q for q in asked if q["kind"] == "twin"][-1]
    assert "number" not in twin
    with Image.open(io.BytesIO(base64.b64decode(twin["picture"]))) as image:
        assert (image.size, image.mode) == ((28, 28), "L")
    assert "your picture, answered as Pullover" in words(at) or "your picture, answered as Coat" in words(at)
    at.button(key="picture-away").click().run()
    assert "Hand in a picture to begin." in words(at)


@pytest.mark.parametrize("content", [b"no picture at all", file(28, 28)[:60], b"GIF89a"])
def test_a_hostile_upload_is_one_line_and_nobody_is_asked_about_it(content: bytes, asked: Asked) -> None:
    at = open_page(role="defender")
    at.segmented_control(key="picture-way").set_value("own").run()
    since = len(asked)
    uploaded(at, "Picture", "<b>evil</b>.png", content)
    (line,) = [e.value for e in at.error]
    assert "xpected a complete PNG, JPEG, WEBP or BMP picture, got something else" in line
    assert "\n" not in line
    assert [q for q in asked[since:] if q["kind"] == "twin"] == []


def test_uploads_are_off_in_a_shared_dashboard(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    del asked
    monkeypatch.setenv(shared.SETTING, "1")
    at = draw(open_page(role="defender"))
    assert "picture-way" not in [c.key for c in at.segmented_control]
    assert "Uploads are off in a shared dashboard" in words(at)
    assert "With your trigger" in words(at), "drawing is not"


# --- waiting and failing ---------------------------------------------------------------------------------------------


def test_an_error_of_the_worker_is_a_line_with_a_way_on(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    poll: Callable[..., Any] = ask.poll
    monkeypatch.setattr(
        ask, "poll", lambda s, k: ask.Answer(asked[-1], "error", error="expected luck") if k == "twin" else poll(s, k)
    )
    at = open_page(role="oracle")
    assert "Expected luck." in [e.value for e in at.error]
    assert at.button(key="again-twin")


def test_progress_is_shown_until_the_first_answer(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ask, "poll", lambda _s, k: ask.Answer([q for q in asked if q["kind"] == k][-1], "working", "asking", 0.42)
        if any(q["kind"] == k for q in asked) else None,
    )  # fmt: skip
    at = open_page(role="oracle")
    assert [bar.value for bar in at.progress] == [42]
    assert not at.exception


def test_an_answer_that_overtakes_the_page_is_shown(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker is quick: at the first look it works, at the next one it is done, before the page is whole."""
    looked: dict[str, int] = {}

    def poll(_session: str, kind: str) -> ask.Answer | None:
        newest = next((q for q in reversed(asked) if q["kind"] == kind), None)
        if newest is None:
            return None
        looked[repr(newest)] = looked.get(repr(newest), 0) + 1
        if looked[repr(newest)] < 4:
            return ask.Answer(newest, "working", "asking", 0.42)
        return ask.Answer(newest, "exact", value=answer(newest))

    monkeypatch.setattr(ask, "poll", poll)
    at = open_page(role="oracle")
    assert not at.exception
    assert not at.progress
    assert "Cut one after the other until" in words(at)
