"""The Layers page: scores layer by layer, mean maps and projections; what a defender gets; a t-SNE made once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from playwright.sync_api import Page
from streamlit.testing.v1 import AppTest

from app import data, layer_card, layer_figures, palette, projecting, projection_figures, state
from engine import demos
from engine.runs import jobs
from engine.runs.store import new_run
from tests.app import fake
from tests.app.browser import server
from tests.app.test_views import delivered, words
from tests.app.visit import MAIN, visit

LAYERS = fake.layers()
LOUD = 2.7182
SECRET = ("27182", "2.7182", "2.718")
Open = Callable[..., AppTest]
Worker = list[dict[str, Any]]


# --- figures ---------------------------------------------------------------------------------------------------------


def study_of(values: np.ndarray, layers: list[dict[str, Any]] = LAYERS) -> data.Study:
    return data.Study("rnp", Path(), "rnp", {"title": "RNP", "oracle": False, "layers": layers}, values)


def test_every_unit_stands_in_the_row_of_its_layer() -> None:
    values = np.zeros(2400, np.float32)
    last = LAYERS[-1]["offset"]
    values[last : last + 9] = 0.8
    values[:32] = np.nan
    study = study_of(values)
    now = data.present(study, 0.5, {"layer4.1.bn2:0": "spare"})
    assert layer_figures.default_layer(study, now) == "layer4.1.bn2"
    drawn = layer_figures.strips(study, now, "layer4.1.bn1", palette.LIGHT)
    rows, kept, cut = drawn.figure["data"]
    assert drawn.title == "layer4.1.bn2 loses most: 8 of its 256 units, and no other layer loses any."
    assert "The threshold is 0.5; 8 units cut in 1 layers." in drawn.alt
    assert (len(kept["x"]), len(cut["x"])) == (2400 - 32 - 8, 8)
    assert {layer_figures.layer_of(one) for one in cut["customdata"]} == {"layer4.1.bn2"}
    assert {round(y) for y in cut["y"]} == {19}
    assert layer_figures.layer_of([rows["customdata"][3]]) == "layer1.1.bn1"
    notes = [note["text"] for note in drawn.figure["layout"]["annotations"]]
    assert notes[0] == "no score"
    assert notes[19] == "<b>8</b> of 256"
    assert drawn.table["Cut"][19] == 8
    again = layer_figures.strips(study, now, "layer4.1.bn1", palette.LIGHT)
    assert json.dumps(again.figure) == json.dumps(drawn.figure)
    go.Figure(drawn.figure)  # every property is one that Plotly knows


def test_a_large_network_is_thinned_but_keeps_what_is_suspicious() -> None:
    layers = [{"name": f"l{k}", "size": 4000, "offset": 4000 * k} for k in range(4)]
    values = np.random.default_rng(0).random(16_000)
    drawn = layer_figures.strips(study_of(values, layers), data.present(study_of(values, layers), 0.99, {}), "l0",
                                 palette.DARK)  # fmt: skip
    shown = [len(trace["x"]) for trace in drawn.figure["data"][1:]]
    assert sum(shown) <= layer_figures.MOST + 4 * 4
    assert shown[1] == int((values >= 0.99).sum())
    assert len(json.dumps(drawn.figure)) < 700_000


def found(cut: bool, stamped: bool) -> dict[str, Any]:
    asked = {"kind": "latent", "cut": [1, 2] if cut else [], "triggered": stamped}
    return fake.about_layer(asked, True, LOUD)


def test_the_sentence_of_a_projection_says_where_the_triggered_pictures_went() -> None:
    drawn = projection_figures.projection(found(True, True), fake.CLASSES, palette.LIGHT, pruned=2)
    assert drawn.title == (
        "100\u202f% of the triggered pictures lie nearest to the clean Bag pictures; with 2 units cut 100\u202f% lie "
        "nearest to their own class."
    )
    assert drawn.title in drawn.alt
    layout = drawn.figure["layout"]
    assert layout["xaxis2"]["range"] == layout["xaxis"]["range"]
    assert {trace["marker"]["symbol"] for trace in drawn.figure["data"]} == {"circle", "square-open"}
    assert len(drawn.table["x"]) == 80
    go.Figure(drawn.figure)
    blind = projection_figures.projection(found(False, False), fake.CLASSES, palette.DARK, pruned=0)
    assert blind.title.endswith("nearest to the centre of their own class; nothing is cut.")
    assert "triggered" not in json.dumps([blind.title, blind.alt, blind.figure, blind.table])


def test_names_of_classes_do_not_lie_on_each_other() -> None:
    lifts = projection_figures._apart(np.array([[10.0, 50.0], [14.0, 52.0], [300.0, 50.0]]), [60, 60, 60])
    tops = np.array([50.0, 52.0, 50.0]) + lifts
    assert tops[1] - tops[0] >= 16
    assert lifts[2] == 0


def test_classes_have_colours_of_their_own() -> None:
    for theme in (palette.LIGHT, palette.DARK):
        hues = palette.CLASSES[theme.name]
        assert len(set(hues)) == 10
        assert not set(hues) & set(theme.line.values())


def test_maps_in_a_sentence() -> None:
    maps = {"clean": np.zeros((2, 2)), "triggered": np.array([[0.0, 0.5], [0.0, 0.0]])}
    assert layer_card.sentence(maps, "bn1", 0) == (
        "The trigger moves the mean map of bn1 by up to 0.500, most at row 1, column 2."
    )
    maps |= {"clean_cut": np.zeros((2, 2)), "triggered_cut": np.full((2, 2), 0.25)}
    assert layer_card.sentence(maps, "bn1", 3).endswith("; with 3 units cut by up to 0.250.")


def test_units_are_named_in_runs() -> None:
    assert projecting.runs([0, 3, 5, 6, 7, 12]) == "0,3,5-7,12"
    assert projecting.runs([]) == ""


def test_the_address_keeps_what_the_page_is_set_to() -> None:
    address, wrong = state.parse({"layer": "layer4.1.bn2", "features": "layer", "projection": "tsne"})
    assert not wrong
    assert address.params() == {"layer": "layer4.1.bn2", "features": "layer", "projection": "tsne"}
    address, wrong = state.parse({"layer": "<b>", "features": "all", "projection": "pca"})
    assert address == state.Address()
    assert len(wrong) == 2


# --- the page --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demos")
    fake.build(root, {"badnets": fake.Figures(), "clean": fake.Figures(0.934, None, None)}, ("rnp", "tac"))
    return root


@pytest.fixture
def worker(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """A worker that answers at once; the list holds what it was asked."""
    return fake.worker(monkeypatch, lambda q: fake.about_layer(q, q["suspect"] != "demo:clean", LOUD))


@pytest.fixture
def open_page(worker: Worker) -> Open:
    return partial(visit, "layers", run="demo:badnets")


def test_the_url_restores_the_layer_and_a_person_chooses_another(open_page: Open, worker: Worker) -> None:
    params = {"run": "demo:badnets", "role": "oracle", "layer": "layer3.0.bn1", "thr": "0.25", "features": "layer"}
    at = open_page(**params)
    assert dict(at.query_params) == params
    assert at.selectbox(key=fake.turned(at, "layer-choice")).value == "layer3.0.bn1"
    assert [q["layer"] for q in worker if q["kind"] in ("layer", "latent")] == ["layer3.0.bn1"] * 2
    assert "100\u202f% of the triggered pictures lie nearest to the clean Bag pictures" in words(at)
    at.selectbox(key=fake.turned(at, "layer-choice")).set_value("bn1").run()
    assert at.query_params["layer"] == "bn1"
    at.selectbox(key=fake.turned(at, "suspect-choice")).set_value("demo:clean").run()
    assert "layer" not in at.query_params, "another network may have no such layer"


def test_a_layer_that_is_not_there_is_said_and_another_shown(open_page: Open) -> None:
    at = open_page(layer="layer9.bn1")
    assert "no layer layer9.bn1" in at.warning[0].value
    assert "layer4" in str(at.selectbox(key=fake.turned(at, "layer-choice")).value)


@pytest.mark.parametrize("projection", [{}, {"projection": "tsne"}])
def test_a_defender_gets_clean_pictures_and_the_unlearned_model(
    open_page: Open, worker: Worker, projection: dict[str, str]
) -> None:
    at = open_page(role="defender", **projection)
    assert {q["triggered"] for q in worker if "triggered" in q} == {False}
    assert "unlearned_layer" in [q["kind"] for q in worker]
    text, sent = words(at), delivered(at)
    assert "Unlearned" in text
    assert "Forgetting clean pictures moves the mean map" in text
    for number in SECRET:
        assert number not in sent
    assert "TAC" not in text
    seen = open_page(role="oracle")
    assert any(number in delivered(seen) for number in SECRET)
    assert "Unlearned" not in words(seen)


def test_a_suspect_without_a_trigger_has_no_blank_panel(open_page: Open) -> None:
    at = open_page(run="demo:clean", role="oracle")
    assert 'class="um-blank"' not in words(at)
    assert "Unlearned" in words(at)
    assert "nearest to the centre of their own class" in words(at)


def test_every_picture_has_its_words(open_page: Open) -> None:
    at = open_page(role="oracle", thr="0.5")
    charts = [node.proto for node in at._tree if node.type == "plotly_chart"]
    assert len(charts) == 2
    assert all(len(proto.alt) > 80 for proto in charts)
    images = re.findall(r"<img[^>]*>", words(at))
    assert len(images) == 6
    for tag in images:
        assert re.search(r'alt="Mean map of layer[^"]{40,}"', tag)


# --- t-SNE -----------------------------------------------------------------------------------------------------------


def projected(home: Path, at: AppTest, spec: dict[str, Any]) -> None:
    """A finished ``project`` run of what the button asks for."""
    digest = demos.open_suspect(spec["suspect"]).manifest["files"]["model.safetensors"]["sha256"]
    made = fake.about_layer({"kind": "latent", "cut": spec["cut"], "triggered": spec["trigger"] == "true"}, True, 1.5)
    arrays = {k: np.array(made.pop(k)) for k in list(made) if isinstance(made[k], list) and k != "shares"}
    with new_run(spec, {"suspect": digest}, home / "runs" / "made") as run:
        run.arrays("projection", arrays)
        del made["shares"]
        run.result = {"title": "t-SNE", "oracle": spec["trigger"] == "true", **made}


def test_a_tsne_is_a_job_and_then_the_same_figure(
    open_page: Open, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    def submit(argv: list[str], *, label: str) -> jobs.Job:
        started.append(argv)
        return jobs.Job("x", workspace, label, tuple(argv), 0.0)

    monkeypatch.setattr(jobs, "submit", submit)
    at = open_page(role="oracle", projection="tsne", thr="0.9", edits="bn1:3!,bn1:4!")
    at.button(key="tsne-go").click().run()
    (argv,) = started
    assert argv[:6] == ["project", "demo:badnets", "--method", "tsne", "--trigger", "true"]
    study = data.studies("demo:badnets", True)["rnp"]
    now = data.present(study, 0.9, {"bn1:3": "cut", "bn1:4": "cut"})
    assert argv[argv.index("--cut") + 1].startswith("3-4,")
    spec = {"kind": "project", "suspect": "demo:badnets", "method": "tsne", "layer": None, "cut": now.numbers,
            "mode": "scale", "trigger": "true", "samples": 250, "perplexity": 10.0, "steps": 750,
            "seed": 0}  # fmt: skip
    projected(workspace, at, spec)
    at.run()
    assert "Both panels use the plane" not in words(at)
    assert not [button for button in at.button if button.key == "tsne-go"], "what is there is not made again"
    assert "one t-SNE of all the points" in words(at)
    assert f"with {now.pruned} units cut" in words(at)
    # Another cut is another picture, and a defender gets neither it nor a job that uses the trigger.
    blind = open_page(role="defender", projection="tsne", thr="0.9", edits="bn1:3!,bn1:4!")
    blind.button(key="tsne-go").click().run()
    assert started[-1][5] == "none"
    assert "1.5" not in [part for part in delivered(blind).split() if part == "1.5"]


# --- the browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def app(shipped: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    env = {"UNMASK_DEMOS": str(shipped / "demos"), "UNMASK_HOME": str(tmp_path_factory.mktemp("home"))}
    with server(MAIN, env) as url:
        yield url


def test_a_click_chooses_the_row_of_a_layer(app: str, new_page: Callable[..., Page]) -> None:
    page = new_page(f"{app}/layers?run=demo:badnets&role=oracle&layer=bn1")
    plot = page.locator("[data-testid=stPlotlyChart] .nsewdrag").first
    plot.wait_for(timeout=20_000)
    box = plot.bounding_box()
    assert box is not None
    rows = len(LAYERS)
    page.mouse.click(box["x"] + 0.6 * box["width"], box["y"] + box["height"] * 4.5 / rows)
    page.wait_for_url(re.compile(f"layer={LAYERS[4]['name']}"), timeout=20_000)
