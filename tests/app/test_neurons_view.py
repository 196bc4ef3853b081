"""The Neurons page: figures and words, what a defender gets, and the pictures that select for each other."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from playwright.sync_api import Page, expect
from streamlit.testing.v1 import AppTest

from app import data, linked, neuron_figures, palette, readings, unit_card
from engine import demos
from engine.runs import ask
from tests.app import fake
from tests.app.browser import server, settle
from tests.app.test_views import delivered, png, words
from tests.app.visit import MAIN, visit

#: What the fake worker says of triggered pictures, in every form in which it could be shown.
SECRET = ("27182", "2.7182", "2.718", "57.7\u202f%", "0.5772", "1.6449", "1.645")
LAYERS = fake.layers()
Open = Callable[..., AppTest]
Worker = list[dict[str, Any]]


# --- figures ---------------------------------------------------------------------------------------------------------


def test_numbers_in_captions() -> None:
    shown = {0.98421: "0.984", 12.345: "12.3", -0.0896: "\u22120.090", 1234.5: "1234", 0.0: "0", float("nan"): "none"}
    assert {value: neuron_figures.short(value) for value in shown} == shown


def test_where_the_suspicious_units_are() -> None:
    values = np.zeros(2400)
    values[LAYERS[-1]["offset"] : LAYERS[-1]["offset"] + 30] = 1.0
    sentence = neuron_figures.where(values, LAYERS, "RNP")
    assert sentence.startswith("Of the 30 units that RNP scores highest, 30 are in layer4.1.bn2, which has 11")
    assert neuron_figures.where(np.zeros(2400), LAYERS, "RNP") == "RNP gives every unit the same score."
    assert neuron_figures.where(np.full(2400, np.nan), LAYERS, "RNP") == "RNP gives every unit the same score."


def test_the_scatter_is_the_same_to_the_byte_and_takes_clicks() -> None:
    draw = np.random.default_rng(0)
    clean, stamped, scores = draw.random((3, 2400))
    scores[:5] = np.nan

    def drawn() -> str:
        made = neuron_figures.scatter(
            clean, stamped, scores, LAYERS, palette.LIGHT, meaning="score", ring="bn1:3", height=300
        )
        return json.dumps(made.figure, sort_keys=True)

    assert drawn() == drawn()
    layout = json.loads(drawn())["layout"]
    # Streamlit drops clicks while a lasso or a box is the drag mode.
    assert (layout["clickmode"], layout["dragmode"]) == ("event+select", "pan")


def study_of(score: str, values: np.ndarray) -> data.Study:
    return data.Study(score, Path(), score, {"title": score, "oracle": score == "tac", "layers": LAYERS}, values)


def test_two_scores_keep_units_apart_that_only_one_of_them_knows() -> None:
    draw = np.random.default_rng(0)
    first, second = draw.random((2, 2400)).astype(np.float32)
    first[:3], second[2:5] = np.nan, np.nan  # unit 2 has neither
    chart = neuron_figures.two_scores(
        study_of("rnp", first), study_of("tac", second), palette.LIGHT, ring="bn1:0", group=["bn1:0", "bn1:2", "bn1:9"]
    )
    both, apart, group, ring = chart.figure["data"]
    assert len(both["customdata"]) == 2400 - 5
    assert apart["customdata"] == ["bn1:0", "bn1:1", "bn1:3", "bn1:4"]
    assert apart["x"][0] < float(np.nanmin(first))
    assert apart["y"][0] == pytest.approx(float(second[0]), abs=1e-4)
    assert apart["y"][2] < float(np.nanmin(second))
    assert len(group["x"]) == 2, "the unit without either score has no place"
    assert set(ring["customdata"]) == {"bn1:0"}
    assert [note["text"] for note in chart.figure["layout"]["annotations"]] == ["no RNP", "no TAC"]
    assert "4 units have only one of the two scores" in chart.alt
    assert chart.table["RNP"][0] is None
    go.Figure(chart.figure)  # every property is one that Plotly knows


def test_ranks_share_places_and_leave_out_what_has_no_score() -> None:
    values = np.array([0.9, 0.5, 0.5, np.nan, 0.1], np.float32)
    assert [None if np.isnan(r) else int(r) for r in linked.ranks(values)] == [1, 2, 2, None, 4]
    assert linked.by_score(values).tolist() == [0, 1, 2, 4, 3]


def test_the_curve_goes_through_the_policys_point() -> None:
    points = [{"pruned": 0, "acc": 0.9}, {"pruned": 100, "acc": 0.8}]
    chosen = {"pruned": 40, "acc": 0.89}
    assert [p["pruned"] for p in readings.along(points, chosen)] == [0, 40, 100]
    assert readings.along(points, {"pruned": 100, "acc": 0.7}) == points
    found = readings.from_curve(points, chosen, 20, n=100, all_images=1000, follows=True)
    assert found["acc"].value == pytest.approx(0.895)


@pytest.mark.parametrize(
    ("typed", "unit"),
    [
        ("layer4.1.bn2:87", "layer4.1.bn2:87"), ("layer4.1:87", "layer4.1.bn2:87"), ("l4.1 87", "layer4.1.bn2:87"),
        ("L3.0.bn1 5", "layer3.0.bn1:5"), ("2,399", "layer4.1.bn2:255"), ("bn1:7", "bn1:7"),
    ],
)  # fmt: skip
def test_a_unit_is_found_by_short_forms_of_its_id(typed: str, unit: str) -> None:
    assert data.find_unit(LAYERS, typed) == unit


def test_responses_label_both_curves_and_say_the_means() -> None:
    hist = {"edges": [0.0, 1.0, 2.0], "clean": [500, 0], "triggered": [100, 400]}
    chart = neuron_figures.responses(hist, palette.DARK)
    assert chart.title == "Mean output 0.500 on clean, 1.30 on triggered pictures."
    assert chart.title in chart.alt
    assert "500 clean (blue bars)" in chart.alt
    assert [note["text"] for note in chart.figure["layout"]["annotations"]] == ["<b>clean</b>", "<b>triggered</b>"]
    alone = neuron_figures.responses({"edges": [0.0, 1.0], "clean": [5], "triggered": None}, palette.LIGHT)
    assert "triggered" not in json.dumps([alone.title, alone.alt, alone.figure, alone.table]).lower()


def test_maps_run_along_cividis_on_one_scale() -> None:
    pixels = neuron_figures.cividis(np.array([[-1.0, 0.0], [1.0, np.inf]]), -1.0, 1.0)
    assert tuple(pixels[0, 0]) == palette.rgb(palette.CIVIDIS[0])
    assert tuple(pixels[1, 0]) == palette.rgb(palette.CIVIDIS[-1])
    assert pixels.shape == (2, 2, 3)
    # Whole multiples of 28, 32 and 7 pixels; a large picture is made smaller.
    assert [neuron_figures.fitted(size, 112) for size in (28, 32, 7, 224)] == [112, 96, 112, 112]
    alt = neuron_figures.describe(np.array([[0.0, 2.0], [1.0, 0.5]]), "Feature map of a:1 on the clean picture")
    assert alt.endswith("2 by 2 positions: from 0 to 2, highest at row 1, column 2.")


def test_ranks_and_verdicts() -> None:
    values = np.array([0.9, 0.5, 0.5, np.nan, 0.1], np.float32)
    assert [linked.rank(values, k) for k in range(5)] == ["1", "=2", "=2", "\u2013", "4"]
    layers = [{"name": "a", "size": 5, "offset": 0}]
    study = data.Study("rnp", Path(), "", {"title": "RNP", "oracle": False, "layers": layers}, values)

    def verdict(k: int, thr: float | None, edits: dict[str, str] | None = None) -> tuple[bool, str]:
        return unit_card.verdict(study, data.present(study, thr, edits or {}), f"a:{k}", k)

    assert verdict(0, 0.5) == (True, ": 0.9 reaches the threshold 0.5.")
    assert verdict(4, 0.5) == (False, ": 0.1 is below the threshold 0.5.")
    assert verdict(0, None) == (False, ": nothing is cut by score.")
    assert verdict(0, 0.5, {"a:0": "spare"}) == (False, " by hand, whatever its score.")
    assert verdict(3, 0.5)[1] == ": RNP gives it no score, so it is never cut."


# --- the page --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demos")
    fake.build(root, {"badnets": fake.Figures(), "clean": fake.Figures(0.934, None, None)})
    return root


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """What the warm worker would say, with unmistakable figures of triggered pictures."""
    kind, stamped = question["kind"], question.get("triggered", True) and question["suspect"] != "demo:clean"
    if kind == "pictures":
        items = [
            {
                "number": n, "truth": n % 10, "clean": png(n), "p_clean": (np.eye(10)[n % 10] * 0.91).tolist(),
                "triggered": png(100 + n) if stamped else None, "difference": png(200 + n) if stamped else None,
                "p_triggered": (np.eye(10)[8] * 0.57721).tolist() if stamped else None,
            }
            for n in question["numbers"]
        ]  # fmt: skip
        return {"items": items}
    if kind == "unit":
        hist: dict[str, Any] = {"edges": [0.0, 0.25, 0.5], "clean": [400, 100], "triggered": None}
        if stamped:
            hist = {"edges": [0.0, 0.25, 2.7182], "clean": [400, 100], "triggered": [0, 500]}
        maps = {"map_clean": np.eye(4).tolist(), "map_triggered": np.full((4, 4), 2.7182).tolist() if stamped else None}
        return {"id": "x", "layer": "y", "hist": hist, **maps}
    if kind == "confusion":
        return fake.about_answers(question, bool(stamped), 5772)
    if kind in ("check", "what_if"):
        low = {"value": 0.9, "n": 10_000, "low": 0.89, "high": 0.91}
        asr = {"value": 0.57721, "n": 9000, "low": 0.57, "high": 0.58} if stamped else None
        return {"pruned": 1, "acc": low, "asr": asr, "ra": asr, "drop": {"value": 0.02, "low": 0.01, "high": 0.03}}
    if (found := fake.about_unit(question, png(7), bool(stamped), 2.7182)) is not None:
        return found
    raise AssertionError(kind)


@pytest.fixture
def worker(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """A worker that answers at once; the list holds what it was asked."""
    return fake.worker(monkeypatch, answer)


@pytest.fixture
def open_page(worker: Worker) -> Open:
    return partial(visit, "neurons", run="demo:badnets")


@pytest.mark.parametrize("role", ["oracle", "defender"])
def test_the_url_restores_the_page(open_page: Open, role: str) -> None:
    params = {
        "run": "demo:badnets", "role": role, "neuron": "layer4.0.bn1:12", "score": "activation", "thr": "0.25",
        "picture": "8",
    }  # fmt: skip
    at = open_page(**params)
    assert dict(at.query_params) == params
    card = words(at)
    assert "layer4.0.bn1:12" in card
    assert "number 1,132 of 2,400" in card
    assert "the threshold 0.25." in card
    assert at.number_input(key=fake.turned(at, "picture-choice")).value == 8
    assert at.segmented_control(key=fake.turned(at, "score-choice")).value == "activation"
    at.button(key="walk Lower").click().run()
    assert at.query_params["neuron"] != "layer4.0.bn1:12"
    at.number_input(key=fake.turned(at, "picture-choice")).set_value(3).run()
    assert at.query_params["picture"] == "3"


def test_the_most_suspicious_unit_is_shown_until_another_is_chosen(open_page: Open, shipped: Path) -> None:
    at = open_page()
    values = data.studies("demo:badnets", True)["rnp"].values
    top = data.id_of(LAYERS, int(np.argmax(values)))
    assert at.query_params["neuron"] == top
    assert at.button(key="walk Higher").disabled
    at.button(key="walk Lower").click().run()
    assert at.query_params["neuron"] == data.id_of(LAYERS, int(np.argsort(-values, kind="stable")[1]))


def test_undo_pin_and_the_second_score_live_in_the_address(open_page: Open) -> None:
    at = open_page(role="oracle", neuron="bn1:5")
    at.button(key="card-edit").click().run()
    assert "edits" in at.query_params
    at.button(key="undo").click().run()
    assert "edits" not in at.query_params
    at.button(key="redo").click().run()
    assert "edits" in at.query_params
    choice = at.selectbox(key=fake.turned(at, "second-score"))
    assert choice.value == "tac"
    choice.set_value("random").run()
    assert at.query_params["pin"] == "demo:badnets~random"
    assert at.selectbox(key=fake.turned(at, "second-score")).value == "random"


def test_the_table_has_every_score_that_may_be_seen_and_its_rank(open_page: Open) -> None:
    at = open_page(role="defender", neuron="bn1:5")
    table = at.dataframe[0].value
    assert len(table) == 2400
    assert table["Unit"].iloc[0] == "bn1:5"
    assert [c for c in table.columns if not c.endswith(", rank")] == ["Unit", "Cut", "RNP", "Activation", "Random"]
    rest = table["RNP"].iloc[1:].to_numpy()
    assert (np.diff(rest) <= 0).all()
    at.segmented_control(key=fake.turned(at, "role-choice")).set_value("oracle").run()
    assert "TAC \u25c7, rank" in at.dataframe[0].value.columns


def test_a_link_to_a_unit_that_is_not_there_says_so(open_page: Open) -> None:
    at = open_page(neuron="layer7.0.bn1:3")
    assert "no unit layer7.0.bn1:3" in at.warning[0].value
    assert at.query_params["neuron"] != "layer7.0.bn1:3"


@pytest.mark.parametrize("role", ["oracle", "defender"])
@pytest.mark.parametrize("run", ["demo:badnets", "demo:clean"])
def test_every_picture_is_described_by_its_data(open_page: Open, run: str, role: str) -> None:
    at = open_page(run=run, role=role, neuron="layer4.1.bn2:9")
    at.selectbox(key="method").set_value("layer_gradcam").run()
    assert not at.exception
    alts = re.findall(r'<img[^>]*alt="([^"]*)"', words(at))
    both = run == "demo:badnets" and role == "oracle"
    assert len(alts) == (6 if both else 8), "no panel is blank"
    assert all(len(alt) > 40 and re.search(r"\d", alt) for alt in alts)
    assert any("Feature map of layer4.1.bn2:9 on the clean picture, 4 by 4" in alt for alt in alts)
    assert 'class="um-blank"' not in words(at)
    assert any("unlearned model" in alt for alt in alts) is not both
    charts = [node.proto for node in at._tree if node.type == "plotly_chart"]
    assert len(charts) == 3
    assert all(len(chart.alt) > 60 and re.search(r"\d", chart.alt) for chart in charts)
    assert len([b for b in at.get("popover") if "View as table" in str(b.proto)]) >= len(charts)


@pytest.mark.parametrize(("run", "role"), [("demo:clean", "oracle"), ("demo:badnets", "defender")])
def test_who_knows_no_trigger_can_put_a_drawn_one_beside_the_clean_picture(
    open_page: Open, worker: Worker, run: str, role: str
) -> None:
    at = open_page(run=run, role=role, neuron="layer4.1.bn2:9")
    assert "Unlearned" in words(at)
    at.segmented_control(key="beside").set_value("drawn").run()
    assert "Nothing is drawn yet, so the unlearned model is shown." in words(at)
    at.session_state["picture-drawings"] = {run: png(5)}
    at.run()
    at.selectbox(key="method").set_value("layer_gradcam").run()
    text = words(at)
    assert not at.exception
    assert 'class="um-blank"' not in text
    assert "Mean output 0.175 on clean pictures, 0.350 with your trigger." in text
    assert "not the suspect's own" in text.replace("&#x27;", "'")
    alts = re.findall(r'<img[^>]*alt="([^"]*)"', text)
    assert any("Feature map of layer4.1.bn2:9 on the picture with your trigger, 4 by 4" in alt for alt in alts)
    assert any("marked picture, answered" in alt for alt in alts)
    newest = {q["kind"]: q for q in worker}
    assert newest["marked_unit"]["drawn"] == newest["attribution"]["drawn"] == png(5)
    assert all(q["triggered"] is False for q in worker if q["kind"] in ("unit", "attribution") and role == "defender")
    assert role == "oracle" or not [secret for secret in SECRET if secret in delivered(at)]
    at.segmented_control(key="beside").set_value("unlearned").run()
    assert "unlearned model" in words(at)


def test_a_known_trigger_needs_no_guess(open_page: Open) -> None:
    at = open_page(role="oracle")
    assert not [c for c in at.segmented_control if c.key == "beside"]


def test_the_card_knows_every_score_and_whether_the_cut_takes_the_unit(open_page: Open) -> None:
    at = open_page(role="oracle")
    text = words(at)
    for label in ("RNP", "Activation", "Gradient \u25c7", "TAC \u25c7", "Random"):
        assert f"<td>{label}</td>" in text
    assert "<b>Cut</b>" in text
    at.button(key="card-edit").click().run()
    assert "<b>Kept</b> by hand" in words(at)
    assert at.query_params["edits"].endswith("~")
    at.button(key="card-edit").click().run()
    assert "edits" not in at.query_params


def more(at: AppTest, part: str) -> AppTest:
    return at.segmented_control(key="more").set_value(part).run()


def test_connections_are_links_that_select(open_page: Open) -> None:
    at = open_page(role="oracle", neuron="layer2.0.bn1:5")
    assert "residual sum" in words(at)
    assert "class Bag, 100\u202f%" in words(at)
    at.button(key="link incoming bn1:4").click().run()
    assert at.query_params["neuron"] == "bn1:4"


def test_only_the_part_that_is_chosen_is_asked_for(open_page: Open, worker: Worker) -> None:
    at = open_page(role="oracle", neuron="bn1:5")
    assert not {"top", "by_class", "check"} & {q["kind"] for q in worker}
    more(at, "top")
    assert "2 of the 3 clean test pictures that bn1:5 answers most show a bag." in words(at)
    assert len(re.findall('class="um-sheet"', words(at))) == 1
    more(at, "check")
    assert [q["cut"] for q in worker if q["kind"] == "check"] == [[5]]
    assert "Cutting bn1:5 alone: ACC \u22122.0 points, ASR" in words(at)
    assert "10,000" in words(at)
    more(at, "by_class")
    assert "answers triggered" in words(at)


@pytest.mark.parametrize("part", ["wiring", "top", "by_class", "check"])
def test_no_part_of_the_card_tells_a_defender_of_the_trigger(open_page: Open, worker: Worker, part: str) -> None:
    at = more(open_page(role="defender", neuron="bn1:5"), part)
    assert not at.exception
    assert not [secret for secret in SECRET if secret in delivered(at)]
    assert all(q["triggered"] is False for q in worker if "triggered" in q)


@pytest.mark.parametrize("role", ["oracle", "defender"])
def test_what_if_the_units_that_are_chosen_together_were_cut(open_page: Open, worker: Worker, role: str) -> None:
    at = open_page(role=role)
    assert "what_if" not in [q["kind"] for q in worker]
    assert "what-if-answers" not in [toggle.key for toggle in at.toggle]
    at.number_input(key="top-units").set_value(5).run()
    at.button(key="choose-top").click().run()
    assert not at.exception
    values = data.studies("demo:badnets", True)["rnp"].values
    top = sorted(int(k) for k in np.argsort(-values, kind="stable")[:5])
    assert [q["cut"] for q in worker if q["kind"] == "what_if"] == [top]
    assert "Cutting these 5 units: ACC \u22122.0 points" in words(at)
    assert ("ASR" in words(at).split("Cutting these 5 units")[1][:60]) is (role == "oracle")
    assert "confusion" not in [q["kind"] for q in worker], "only on demand"
    at.toggle(key="what-if-answers").set_value(True).run()
    (question,) = [q for q in worker if q["kind"] == "confusion"]
    assert (question["cut"], question["triggered"]) == (top, role == "oracle")
    assert "Without these 5 units, 41 of 1,000 pictures of Shirt are called T-shirt, 0 before" in words(at)
    assert ("5772" in delivered(at)) is (role == "oracle")
    if role == "defender":
        assert not [secret for secret in SECRET if secret in delivered(at)]
        assert "revealed when you commit" in words(at)


def test_first_figures_of_a_group_are_called_an_estimate(
    open_page: Open, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = open_page(role="oracle")
    poll = ask.poll

    def slowly(session: str, kind: str) -> ask.Answer | None:
        found = poll(session, kind)
        if found is None or kind not in ("what_if", "confusion"):
            return found
        return ask.Answer(found.question, "estimate", "checking all images", 0.42, found.value)

    monkeypatch.setattr(ask, "poll", slowly)
    at.button(key="choose-top").click().run()
    assert "An estimate, against the uncut suspect." in words(at)
    at.toggle(key="what-if-answers").set_value(True).run()
    assert "An estimate from the first 10,000 clean pictures." in words(at)
    assert [bar.value for bar in at.progress] == [42, 42]


def test_an_attribution_is_computed_on_demand(open_page: Open, worker: Worker) -> None:
    at = open_page(role="oracle", picture="4", neuron="bn1:5")
    assert not [q for q in worker if q["kind"] == "attribution"]
    at.selectbox(key="method").set_value("neuron_gradient").run()
    (question,) = [q for q in worker if q["kind"] == "attribution"]
    assert (question["unit"], question["number"], question["method"]) == (5, 4, "neuron_gradient")
    assert (question["states"], question["cut"]) == (["suspect"], [])
    assert "Orange pixels raise the output of bn1:5" in words(at)


@pytest.mark.parametrize("role", ["oracle", "defender"])
def test_all_states_stand_side_by_side(open_page: Open, worker: Worker, role: str) -> None:
    at = open_page(role=role, picture="4", neuron="bn1:5", thr="0.3")
    at.selectbox(key="method").set_value("occlusion").run()
    at.segmented_control(key=f"weights-{role == 'oracle'}").set_value("all").run()
    question = worker[-1]
    study = data.studies("demo:badnets", False)["rnp"]
    assert question["study"] == study.run_id
    assert question["cut"] == data.present(study, 0.3, {}).numbers
    assert question["states"] == ["suspect", "unlearned", "recovered", "pruned"]
    strip = re.findall(r'alt="(Model: occlusion, [^"]*)"', words(at))
    assert len(strip) == (8 if role == "oracle" else 4)
    assert sum("triggered picture, answered Bag with 58" in alt for alt in strip) == (4 if role == "oracle" else 0)
    assert ("triggered picture is hidden" in words(at)) is (role == "defender")
    assert "11 passes" in words(at)
    assert f"{len(question['cut'])} units cut" in words(at)


def test_without_rnps_masks_the_card_says_how_to_get_them(
    open_page: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.build(tmp_path, {"badnets": fake.Figures()}, ("activation",))
    monkeypatch.setattr(demos, "DEMOS", tmp_path / "demos")
    at = open_page(role="oracle", neuron="bn1:5")
    at.selectbox(key="method").set_value("gradcam").run()
    at.segmented_control(key="weights-True").set_value("all").run()
    assert not at.exception
    assert "Recovered is missing: it needs the masks of RNP. Score this model" in words(at)
    assert len(re.findall('alt="Model: Grad-CAM', words(at))) == 6


def test_nothing_that_needs_the_trigger_reaches_a_defender(open_page: Open, worker: Worker) -> None:
    at = open_page(role="defender", score="tac", neuron="layer4.1.bn2:9", thr="none")
    at.selectbox(key="method").set_value("layer_gradcam").run()
    assert at.segmented_control(key=fake.turned(at, "score-choice")).options == ["RNP", "Activation", "Random"]
    text = delivered(at)
    assert not [secret for secret in SECRET if secret in text]
    assert png(100)[:80] not in text
    for score in ("tac", "unlearning_gradient"):
        assert fake.SCORES[score][0] not in text
    triggered = data.studies("demo:badnets", True)["rnp"].triggered
    assert triggered is not None
    assert not any(f"{float(value):.4f}" in text for value in np.sort(triggered)[-5:])
    assert all(q["triggered"] is False for q in worker if q["kind"] in ("unit", "attribution"))
    # The same page shows it all to the oracle.
    at.segmented_control(key=fake.turned(at, "role-choice")).set_value("oracle").run()
    assert [secret for secret in SECRET if secret in delivered(at)]
    assert "TAC \u25c7" in at.segmented_control(key=fake.turned(at, "score-choice")).options


def test_a_selection_made_in_the_scatter_is_ringed_once_the_chart_is_another_one(open_page: Open) -> None:
    at = open_page(role="oracle", neuron="bn1:0")

    def rings() -> bool:
        chart = next(n.proto for n in at._tree if n.type == "plotly_chart" and "triggered pictures" in n.proto.alt)
        return '"bn1:9"' in chart.spec.split("circle-open")[0].rpartition("customdata")[2]

    at.session_state["scatter"] = {"selection": {"points": [{"customdata": "bn1:9"}]}}
    at.session_state["origin"] = "scatter"
    at.session_state["address"] = unit_card.state.replace(at.session_state["address"], neuron="bn1:9")
    at.run()
    assert not rings(), "the chart that was clicked must stay as it is"
    at.segmented_control(key=fake.turned(at, "score-choice")).set_value("activation").run()
    assert rings()


def test_the_plots_and_the_table_follow_once_the_hand_rests(open_page: Open) -> None:
    at = open_page(role="oracle", neuron="bn1:0")

    def shown() -> tuple[bool, bool, str]:
        """What the two plots and the table are about, and the card's unit."""
        plots = [n.proto for n in at._tree if n.type == "plotly_chart" and '"bn1:0"' in n.proto.spec]
        ringed = ['"customdata":["bn1:0","bn1:0"]' in proto.spec for proto in plots]
        assert len(ringed) == 2
        assert len(set(ringed)) == 1
        html = [h.proto.body for h in at.get("html")]
        heading, head = (next(body for body in html if part in body) for part in ("is number", "um-unithead"))
        return ringed[0], "bn1:0 " in heading, head

    at.session_state["origin"] = "find"
    at.session_state["address"] = unit_card.state.replace(at.session_state["address"], neuron="bn1:9")
    at.run()
    ringed, tabled, card = shown()
    assert "bn1:9" in card
    assert ringed
    assert tabled
    # What the browser does when nobody chooses anything for a while.
    at.session_state["rested"] = (at.session_state["address"].run, "bn1:9", ())
    at.run()
    assert shown()[:2] == (False, False)


def test_an_error_of_the_worker_is_a_line_with_a_way_on(open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def poll(_session: str, kind: str) -> ask.Answer:
        question = {"kind": kind, "suspect": "demo:badnets", "cut": [], "mode": "scale"}
        more = {"unit": 5, "number": 0, "triggered": True} if kind == "unit" else {"numbers": list(range(6))}
        return ask.Answer({**question, **more}, "error", error="expected a readable checkpoint, got model.safetensors")

    monkeypatch.setattr(ask, "poll", poll)
    at = open_page(neuron="bn1:5")
    assert "expected a readable checkpoint" in at.error[0].value.lower()
    assert "not computed" in words(at)
    assert at.button(key="again-pictures")


def test_an_unscored_suspect_offers_to_score_it(
    open_page: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.write_suspect(tmp_path / "demos" / "bare", "bare", fake.Figures(), 0)
    monkeypatch.setattr(demos, "DEMOS", tmp_path / "demos")
    at = open_page(run="demo:bare")
    assert any(button.label == "Score this model" for button in at.button)


# --- in the browser --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def url(shipped: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("home")
    with server(MAIN, {"UNMASK_DEMOS": str(shipped / "demos"), "UNMASK_HOME": str(home)}) as address:
        yield address
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNMASK_HOME", str(home))
        ask.stop()


def selected(page: Page) -> str:
    found: str = page.locator(".neuron-grid").evaluate("root => root.neuronGrid.ids[root.neuronGrid.selected] ?? null")
    return found


def until(page: Page, unit: str) -> None:
    """Wait until card, grid and address agree on a unit."""
    expect(page.locator(".um-unit")).to_have_text(unit, timeout=15_000)
    settle(page)
    deadline = time.monotonic() + 10
    while selected(page) != unit and time.monotonic() < deadline:
        page.wait_for_timeout(100)
    assert selected(page) == unit
    page.wait_for_url(lambda address: f"neuron={unit}" in address.replace("%3A", ":"))


@pytest.mark.browser
def test_grid_scatter_table_and_card_select_for_each_other(
    url: str, new_page: Callable[..., Page], shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demos, "DEMOS", shipped / "demos")
    page = new_page(f"{url}/neurons?run=demo:badnets&neuron=bn1:7")
    cells = page.locator(".neuron-grid .cells")
    expect(cells).to_be_visible(timeout=20_000)
    until(page, "bn1:7")

    def click_cell(unit: str) -> None:
        cells.scroll_into_view_if_needed()
        x, y = cells.evaluate(
            "(canvas, unit) => { const g = canvas.closest('.neuron-grid').neuronGrid;"
            " const r = g.rectOf(g.ids.indexOf(unit)), c = canvas.getBoundingClientRect();"
            " return [c.x + r.x + r.w / 2, c.y + r.y + r.h / 2] }",
            unit,
        )
        page.mouse.click(x, y)

    click_cell("layer2.0.bn1:20")
    until(page, "layer2.0.bn1:20")
    # A second click on the same cell does not leave the card with a unit that the grid does not show.
    click_cell("layer2.0.bn1:20")
    page.wait_for_timeout(800)
    until(page, "layer2.0.bn1:20")

    def ringed(unit: str) -> None:
        """Wait for the plots, which follow once the hand rests."""
        page.wait_for_function(
            "unit => document.querySelector('.st-key-scatter .js-plotly-plot')?.data?.at(-1).customdata?.[0] === unit",
            arg=unit,
            timeout=15_000,
        )
        settle(page)

    ringed("layer2.0.bn1:20")
    # The unit that stands out most in the scatter plot, so that nothing covers it.
    where = (
        "([plot, wanted]) => { const l = plot._fullLayout, t = plot.data.find(t => t.customdata && t.x.length > 1);"
        " let k = wanted === null ? 0 : t.customdata.indexOf(wanted);"
        " if (wanted === null) t.y.forEach((y, i) => { if (y > t.y[k]) k = i });"
        " const b = plot.getBoundingClientRect();"
        " return [t.customdata[k], b.x + l._size.l + l.xaxis.l2p(t.x[k]), b.y + l._size.t + l.yaxis.l2p(t.y[k])] }"
    )
    plot = page.locator(".st-key-scatter .js-plotly-plot")
    page.get_by_test_id("stMain").evaluate("main => main.scrollTo(0, 0)")
    page.wait_for_timeout(300)
    unit, x, y = page.evaluate(where, [plot.element_handle(), None])
    page.mouse.move(x - 8, y - 8)
    page.mouse.move(x, y)
    page.wait_for_timeout(300)
    page.mouse.click(x, y)
    until(page, unit)
    # The chart that was clicked keeps its own mark: its specification did not change.
    marked = plot.evaluate("plot => plot.data.some(t => t.selectedpoints && t.selectedpoints.length === 1)")
    assert marked

    # And back: the find box moves all of them, the ring included.
    page.get_by_label("Find a unit").fill("layer3.0.bn2:4")
    page.keyboard.press("Enter")
    until(page, "layer3.0.bn2:4")
    ringed("layer3.0.bn2:4")

    expect(page.get_by_text(re.compile("layer3.0.bn2:4 (is number|has no score)"))).to_be_visible(timeout=15_000)
    settle(page)
    # The table shows it first; a row below selects its own unit, and the table stays as it was sorted.
    table = page.get_by_test_id("stDataFrame").last
    table.scroll_into_view_if_needed()
    settle(page)
    values = data.studies("demo:badnets", True)["rnp"].values
    best = data.id_of(LAYERS, int(np.argmax(values)))
    box = table.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 22, box["y"] + 35 * 2 + 17)
    until(page, best)


@pytest.mark.browser
def test_a_box_in_the_grid_is_a_group_in_the_other_panels(url: str, new_page: Callable[..., Page]) -> None:
    page = new_page(f"{url}/neurons?run=demo:badnets&neuron=bn1:7")
    cells = page.locator(".neuron-grid .cells")
    expect(cells).to_be_visible(timeout=20_000)
    until(page, "bn1:7")
    cells.focus()
    for _ in range(3):
        page.keyboard.press("Shift+ArrowRight")
    expect(page.get_by_text("4 units chosen together")).to_be_visible(timeout=15_000)
    settle(page)
    rings = (
        "chart => document.querySelector(`.st-key-${chart} .js-plotly-plot`)?.data?."
        "find(t => t.marker && t.marker.size === 10)?.x.length === 4"
    )
    for chart in ("scatter", "scores"):
        page.wait_for_function(rings, arg=chart, timeout=15_000)
