"""Retuning on the pages: a button, a chart, signs of failed defenses; nothing of it before a defender commits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from streamlit.testing.v1 import AppTest

from app import palette, retune_figures
from engine import demos
from engine.runs import jobs
from engine.runs.store import open_run
from tests.app import fake
from tests.app.browser import ROOT
from tests.app.test_views import FORBIDDEN, delivered, words

MAIN = str(ROOT / "app" / "main.py")
LOUD = fake.Figures(0.93, 0.737373, 0.262626, constant=True)
BACK, TWIN = (0.05, 0.2, 0.616161, 0.616161), (0.0, 0.01, 0.02, 0.04)
Open = Callable[..., AppTest]


# --- the figure ------------------------------------------------------------------------------------------------------


def test_the_sentence_says_what_returned_and_what_a_twin_learned() -> None:
    drawn = retune_figures.retuning(fake.retuned(LOUD, BACK, TWIN), palette.LIGHT)
    assert drawn.title == (
        "5 poisoned pictures bring ASR back from 5.0\u202f% to 61.6\u202f%; a clean twin that never knew the trigger "
        "comes to 4.0\u202f%."
    )
    assert drawn.title in drawn.alt
    go.Figure(drawn.figure)
    named = [trace["name"] for trace in drawn.figure["data"]]
    assert {"ACC", "ASR", "ACC, clean twin", "ASR, clean twin", "ASR interval", "ASR, suspect"} <= set(named)
    table = drawn.table
    assert table["Model"] == ["suspect", *["repaired"] * 4, *["clean twin"] * 4]
    assert table["ASR"][1:5] == [round(v, 4) for v in BACK]
    low, value, high = (table[f"ASR{end}"][3] for end in (" from", "", " to"))
    assert low < value < high


@pytest.mark.parametrize(
    ("asrs", "start"),
    [
        ((0.05, 0.05), "5 poisoned pictures leave ASR at 5.0\u202f%."),
        ((0.05, 0.01), "5 poisoned pictures take ASR further down from 5.0\u202f% to 1.0\u202f%."),
    ],
)
def test_without_a_return_or_a_twin_it_says_so(asrs: tuple[float, ...], start: str) -> None:
    drawn = retune_figures.retuning(fake.retuned(LOUD, asrs), palette.DARK)
    assert drawn.title == start
    assert not [trace for trace in drawn.figure["data"] if "twin" in trace["name"]]


@pytest.mark.parametrize(
    ("more", "says", "axis"),
    [
        ({"images": 0}, "1,000 clean pictures alone bring ASR back", "Epochs on 1,000 clean pictures"),
        (
            {"images": 0, "statistics": "kept"},
            "1,000 clean pictures alone, with the normalisation's statistics kept,",
            "Ep",
        ),
        (
            {"statistics": "kept"},
            "5 poisoned pictures, with the normalisation's statistics kept, bring ASR",
            "5 poisoned",
        ),
    ],
)
def test_the_sentence_says_what_it_was_tuned_on(more: dict[str, Any], says: str, axis: str) -> None:
    drawn = retune_figures.retuning({**fake.retuned(LOUD, BACK), **more}, palette.LIGHT)
    assert drawn.title.startswith(says)
    assert axis in drawn.figure["layout"]["xaxis"]["title"]["text"]


def test_what_retuning_costs_is_said() -> None:
    found: dict[str, Any] = fake.retuned(LOUD, BACK)
    found["epochs"][-1]["acc"] = 0.5
    assert "Accuracy falls by 42.0 points." in retune_figures.sentence(found)


# --- the pages -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demos")
    fake.build(root, {"badnets": LOUD, "clean": fake.Figures(0.934, None, None)}, ("rnp",))
    return root


@pytest.fixture
def home(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with one defense that failed: accuracy fell by 10 points and ASR is where it was."""
    monkeypatch.setattr(demos, "DEMOS", shipped / "demos")
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path))
    monkeypatch.setattr(jobs, "wake", lambda: None)
    found = {**fake.defense("rnp", "RNP", LOUD), "acc_after": 0.83, "score": "rnp"}
    fake.write_defense(tmp_path / "runs" / "cut", "demo:badnets", found)
    return tmp_path


@pytest.fixture
def open_page(home: Path) -> Open:
    def start(view: str, **params: str) -> AppTest:
        at = AppTest.from_file(MAIN, default_timeout=30)
        at.query_params.update({"run": "demo:badnets", **params})
        at.run()
        at.switch_page(f"views/{view}.py").run()
        assert not at.exception
        return at

    return start


def everything(at: AppTest) -> str:
    return delivered(at) + "\n".join(frame.value.to_csv() for frame in at.dataframe)


def test_the_button_starts_a_job_and_the_chart_shows_what_came(open_page: Open, home: Path) -> None:
    run = open_run(home / "runs" / "cut").id
    at = open_page("compare", role="oracle", defense="cut")
    at.button(key=f"retune-{run}-go").click().run()
    assert [job.argv for job in jobs.jobs()] == [("retune", f"run:{run}")]
    again = at.button(key=f"retune-{run}-go")
    assert again.disabled
    assert again.label == "Under way"
    fake.write_retuning(home / "runs" / "again", "demo:badnets", run, fake.retuned(LOUD, BACK, TWIN))
    at.run()
    assert "5 poisoned pictures bring ASR back from 5.0\u202f% to 61.6\u202f%" in words(at)
    assert not [button for button in at.button if button.key == f"retune-{run}-go"]


def test_each_way_to_retune_has_its_own_job_and_its_own_result(open_page: Open, home: Path) -> None:
    run = open_run(home / "runs" / "cut").id
    fake.write_retuning(home / "runs" / "again", "demo:badnets", run, fake.retuned(LOUD, BACK, TWIN))
    at = open_page("compare", role="oracle", defense="cut")
    assert "5 poisoned pictures bring ASR back" in words(at)
    at.segmented_control(key=f"retune-{run}-way").set_value("on clean images alone").run()
    at.button(key=f"retune-{run}-go").click().run()
    assert [job.argv for job in jobs.jobs()] == [("retune", f"run:{run}", "--images", "0")]
    alone = {**fake.retuned(LOUD, BACK, TWIN), "images": 0}
    fake.write_retuning(home / "runs" / "alone", "demo:badnets", run, alone)
    at.run()
    assert "1,000 clean pictures alone bring ASR back" in words(at)
    at.segmented_control(key=f"retune-{run}-way").set_value("on 5, statistics kept").run()
    assert at.button(key=f"retune-{run}-go").label == "Retune it"


def test_a_model_without_a_trigger_has_nothing_to_retune_on(open_page: Open, home: Path) -> None:
    fake.write_defense(home / "runs" / "none", "demo:clean", fake.defense("rnp", "RNP", fake.Figures(0.9, None, None)))
    at = open_page("compare", run="demo:clean", role="oracle")
    assert "no trigger to tune a model on" in words(at)


def test_nothing_of_it_reaches_a_defender(open_page: Open, home: Path) -> None:
    run = open_run(home / "runs" / "cut").id
    fake.write_retuning(home / "runs" / "again", "demo:badnets", run, fake.retuned(LOUD, BACK, TWIN))
    jobs.submit(["retune", f"run:{run}"], label="Retuning RNP, 61.6")
    for view in ("compare", "runs"):
        at = open_page(view, role="defender", defense="cut", job="again")
        text = everything(at)
        for number in (*FORBIDDEN, "61.6", "616161", "poisoned pictures", "Retuning after"):
            where = text.find(number)
            assert where < 0, (view, text[max(0, where - 150) : where + 50])
        assert not [button for button in at.button if str(button.key).startswith("retune-")]
        seen = open_page(view, role="oracle", defense="cut", job="again")
        assert "61.6" in everything(seen)  # the test can fail


@pytest.mark.parametrize(("view", "params"), [("compare", {"defense": "cut"}), ("runs", {"job": "cut"})])
def test_signs_of_failure_stand_beside_a_defense(open_page: Open, view: str, params: dict[str, str]) -> None:
    def signs(role: str) -> str:
        at = open_page(view, role=role, **params)
        return "\n".join(m.value for m in at.markdown if ":material/warning:" in m.value)

    seen, covered = signs("oracle"), signs("defender")
    assert "Accuracy falls by 10.0 points" in seen
    assert "ASR is still 73.7" in seen
    assert "\u25c7" in seen
    assert "ASR" not in covered
    if view == "runs":
        assert "Accuracy falls by 10.0 points" in covered


def test_prune_warns_of_the_present_cut(open_page: Open) -> None:
    def signs(**params: str) -> str:
        at = open_page("prune", **params)
        return "\n".join(m.value for m in at.markdown if ":material/warning:" in m.value)

    assert "Nothing is cut" in signs(role="defender", thr="none")
    low = signs(role="defender", thr="0.0")
    assert "of 2,400 units are cut" in low
    assert "Accuracy falls by" in low
    assert "ASR" not in low
    assert "ASR is still" in signs(role="oracle")
