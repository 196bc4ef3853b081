"""The Compare page: its sections, what a defender does not get from it, its links, its file and its first action."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from streamlit.testing.v1 import AppTest

from app import compare_data, comparison, report_button, report_page
from engine.runs import ask, jobs
from tests.app import fake
from tests.app.browser import server, settle
from tests.app.test_views import FORBIDDEN, delivered, words
from tests.app.visit import MAIN, visit

DEMOS = {"badnets": fake.LOUD, "blend": fake.LOUD, "clean": fake.Figures(0.934, None, None)}
Open = Callable[..., AppTest]
Asked = list[dict[str, Any]]


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demos")
    fake.build(root, DEMOS, ("rnp", "activation", "tac"))
    fake.write_table(root / "defenses.json", DEMOS)
    return root


@pytest.fixture
def workspace(workspace: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(compare_data, "TABLE", shipped / "defenses.json")
    return workspace


@pytest.fixture
def asked(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """A worker that counts answers at once; the list holds what it was asked."""
    questions: Asked = []
    counted = [[9 if k == n else 1 for k in range(10)] for n in range(10)]
    stamped = [[73737 if k == 1 else 0 for k in range(10)] for _ in range(10)]

    def poll(session: str, kind: str) -> ask.Answer | None:
        if not questions:
            return None
        value: dict[str, Any] = {"classes": fake.CLASSES, "clean": {"before": counted, "after": counted}}
        if questions[-1]["triggered"]:
            value["triggered"] = {"before": stamped, "after": counted}
        return ask.Answer(questions[-1], "exact", value=value)

    monkeypatch.setattr(ask, "ask", lambda question, session: questions.append(json.loads(json.dumps(question))))
    monkeypatch.setattr(ask, "poll", poll)
    return questions


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the page offers as files: reports and tables in turn, a table last."""
    made: list[str] = []
    write, offer = comparison.as_csv, report_button.of_rows
    monkeypatch.setattr(report_page, "get_plotlyjs", lambda: "")

    def noted(rows: Any, curves: Any, key: str) -> None:
        made.insert(-1, report_button.rows_html(rows, curves))
        offer(rows, curves, key)

    monkeypatch.setattr(report_button, "of_rows", noted)
    monkeypatch.setattr(comparison, "as_csv", lambda table: made.append(write(table)) or made[-1])
    return made


@pytest.fixture
def open_page(asked: Asked) -> Open:
    return partial(visit, "compare", run="demo:badnets")


def matrix(at: AppTest) -> Any:
    return next(frame.value for frame in at.dataframe if "Attack" in frame.value)


def charts(at: AppTest) -> list[Any]:
    return [node.proto for node in at._tree if node.type == "plotly_chart"]


def everything(at: AppTest) -> str:
    """What was delivered, with the tables, which travel as bytes; a file made on demand has a new id always."""
    return re.sub(r"\b[0-9a-f]{32}\b", "", delivered(at)) + "\n".join(frame.value.to_csv() for frame in at.dataframe)


def test_every_question_of_the_page_has_its_section(open_page: Open) -> None:
    at = open_page(role="oracle", versus="demo:blend")
    assert at.title[0].value == "Which defense survives which attack?"
    assert [s.value for s in at.header] == [
        "BadNets, defense by defense",
        "How do the scores compare?",
        "Do two scores suspect the same units?",
        "Which answers does a defense change?",
        "Does the backdoor come back?",
    ]
    found = matrix(at)
    assert list(found["Attack"]) == ["BadNets", "Blend", "Clean twin"]
    assert list(found.columns)[1:] == ["RNP", "Fine-tuning", "TAC \u25c7"]  # what is only pending has no column
    assert found["RNP"].round(2).tolist()[:2] == [73.74, 73.74]
    text = words(at)
    assert "RNP leaves the lowest ASR" in text
    assert "3 of 14 runs are not measured yet" in text
    assert "Means of 1 to 2 seeds." in text
    drawn = charts(at)
    assert len(drawn) == 3  # ACC against ASR, curves, overlap
    assert all(len(chart.alt) > 40 for chart in drawn)
    assert "On Blend" in drawn[0].alt


def test_nothing_that_needs_the_trigger_reaches_a_defender(open_page: Open, asked: Asked, files: list[str]) -> None:
    params = {"role": "defender", "figure": "asr", "versus": "demo:blend", "score": "tac", "pin": "demo:badnets~tac"}
    at = open_page(**params, defense="score~tac", source="true")
    at.button(key="count-answers").click().run()
    assert not at.exception
    assert [question["triggered"] for question in asked] == [False]
    text = everything(at) + "".join(files)
    for number in (*FORBIDDEN, "73737", "TAC", "\u25c7", "RA after", "ASR after"):
        where = text.find(number)
        assert where < 0, text[max(0, where - 150) : where + 50]
    assert list(matrix(at).columns) == ["Attack", "Fine-tuning", "RNP"]
    assert "ACC against ASR: A defender has no trigger" in words(at)
    # The same link in the Oracle view does show them: the test can fail.
    seen = open_page(**{**params, "role": "oracle"})
    assert "73.7\u202f%" in everything(seen)
    assert "TAC \u25c7" in everything(seen)


def test_a_covered_suspect_is_covered_beside_revealed_ones(open_page: Open, workspace: Path, files: list[str]) -> None:
    own = workspace / "runs" / "mine"
    fake.write_suspect(own, "mine", fake.Figures(0.9, 0.31415, 0.31415, True), 9)
    before = fake.Figures(0.9, 0.31415, 0.31415, True)
    fake.write_defense(workspace / "runs" / "d1", str(own), fake.defense("rnp", "RNP", before))
    fake.write_defense(workspace / "runs" / "d2", str(own), fake.defense("tac", "TAC", before, oracle=True))
    at = open_page()
    found = matrix(at)
    assert len(found) == 4
    assert found["Attack"].tolist()[3].startswith("resnet18")
    assert found["RNP"].isna().tolist() == [False, False, True, True]
    assert not any(number in everything(at) + "".join(files) for number in ("31415", "31.41"))
    assert "covered suspects are left out" in words(at)
    at.session_state["defended"] = {str(own)}
    at.run()
    assert matrix(at)["RNP"].round(1).tolist()[3] == 31.4
    assert matrix(at)["TAC \u25c7"].round(1).tolist()[3] == 31.4


def test_a_run_of_the_workspace_joins_the_matrix(open_page: Open, workspace: Path) -> None:
    fake.write_defense(workspace / "runs" / "a", "demo:badnets", fake.defense("clp", "CLP", fake.Figures()))
    found = matrix(open_page(role="oracle"))
    # Its mean is the lowest, but of one suspect only.
    assert list(found.columns)[1:] == ["RNP", "Fine-tuning", "CLP", "TAC \u25c7"]
    assert found["CLP"].round(1).tolist()[0] == 10.0


def test_without_any_defense_the_page_offers_the_first_action(
    open_page: Open, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_data, "TABLE", workspace / "none.json")
    at = open_page(role="defender")
    assert "No defense has been measured yet." in words(at)
    assert not [frame for frame in at.dataframe if "Attack" in frame.value]
    at.button(key="first-defense").click().run()
    assert [job.argv for job in jobs.jobs()] == [("defend", "demo:badnets", "--defense", "rnp")]
    assert "It is under way" in words(at)


@pytest.mark.parametrize("content", ["{", "[]", '{"rows": [{"suspect": 1}]}'])
def test_a_table_that_does_not_read_is_one_line(
    open_page: Open, workspace: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    (workspace / "bad.json").write_text(content)
    monkeypatch.setattr(compare_data, "TABLE", workspace / "bad.json")
    fake.write_defense(workspace / "runs" / "a", "demo:badnets", fake.defense("clp", "CLP", fake.Figures()))
    at = open_page(role="oracle")
    assert len(at.error) == 1
    assert "\n" not in at.error[0].value
    assert list(matrix(at).columns) == ["Attack", "CLP"]


def test_the_file_holds_what_the_matrix_is_made_of(open_page: Open, files: list[str]) -> None:
    open_page(role="oracle")
    lines = list(csv.DictReader(io.StringIO(files[-1])))
    assert len(lines) == 14
    first = lines[0]
    assert (first["attack"], first["defense"], first["seed"], first["asr_after"]) == ("BadNets", "rnp", "0", "0.737373")
    assert float(first["asr_after_low"]) < 0.737373 < float(first["asr_after_high"])
    assert [line["oracle"] for line in lines if line["defense"] == "tac"] == ["True", "True"]
    assert sum(line["state"] == "pending" for line in lines) == 3


def test_the_page_is_restored_by_its_url(open_page: Open) -> None:
    params = {
        "run": "demo:blend", "role": "oracle", "score": "tac", "pin": "demo:blend~activation", "versus": "demo:badnets",
        "figure": "ra", "samples": "500", "source": "true", "top": "40", "defense": "score~activation",
    }  # fmt: skip
    at = open_page(**params)
    assert dict(at.query_params) == params
    assert list(matrix(at).columns) == ["Attack", "TAC \u25c7"]
    assert "TAC and Activation share" in words(at)
    assert "of their 40 most suspicious units" in words(at)
    assert everything(open_page(**dict(at.query_params))) == everything(at)


def test_widgets_change_the_address(open_page: Open) -> None:
    at = open_page(role="oracle")
    at.segmented_control(key=fake.turned(at, "figure-choice")).set_value("acc_drop").run()
    assert at.query_params["figure"] == "acc_drop"
    assert "costs the least accuracy" in words(at)
    assert "can cut most before accuracy loses 2 points" in words(at)  # the curves follow
    at.selectbox(key=fake.turned(at, "second-score")).set_value("tac").run()
    assert at.query_params["pin"] == "demo:badnets~tac"
    at.number_input(key=fake.turned(at, "top-choice")).set_value(7).run()
    assert "of their 7 most suspicious units" in words(at)


def test_a_chosen_cell_is_said_in_words_and_can_be_run_here(open_page: Open) -> None:
    at = open_page(role="oracle")
    at.session_state["matrix-cells"] = {"selection": {"rows": [], "columns": [], "cells": [(1, "RNP")]}}
    at.run()
    assert "Blend, RNP: ACC after 92." in words(at)
    assert "ASR after 73.7\u202f% (72.8 to 74.6)" in words(at)
    assert "2 seeds, widest intervals" in words(at)
    assert "Published" not in words(at)
    at.button(key="run-cell").click().run()
    assert [job.argv for job in jobs.jobs()] == [("defend", "demo:blend", "--defense", "rnp", "--samples", "500")]
    at.session_state["matrix-cells"] = {"selection": {"rows": [], "columns": [], "cells": [(2, "TAC \u25c7")]}}
    at.run()
    assert "Clean twin, TAC \u25c7: not measured yet." in words(at)


def test_what_others_published_stands_beside_a_chosen_cell_once_the_attack_may_be_known(open_page: Open) -> None:
    cell = {"selection": {"rows": [], "columns": [], "cells": [(0, "RNP")]}}
    line = "Published: ACC 93.4\u202f% \u2192 90.9\u202f%, ASR 100.0\u202f% \u2192 1.1\u202f%"
    for role, shown in (("oracle", True), ("defender", False)):
        at = open_page(role=role)
        at.session_state["matrix-cells"] = cell
        at.run()
        assert (line in words(at)) == shown


def test_answers_are_counted_on_demand_for_a_run_and_for_a_default_cut(
    open_page: Open, workspace: Path, asked: Asked
) -> None:
    fake.write_defense(workspace / "runs" / "a", "demo:badnets", fake.defense("clp", "CLP", fake.Figures()))
    at = open_page(role="oracle")
    assert not asked
    at.button(key="count-answers").click().run()
    assert asked[-1]["run"].startswith("run:")
    assert asked[-1]["triggered"]
    assert "of the triggered pictures are called Trouser, 100.0\u202f% before" in words(at)
    assert len(charts(at)) == 5
    at.selectbox(key=fake.turned(at, "defense-choice")).set_value("score~rnp").run()
    assert len(charts(at)) == 3
    at.button(key="count-answers").click().run()
    assert len(asked[-1]["cut"]) > 10
    assert "run" not in asked[-1]
    assert at.query_params["defense"] == "score~rnp"


def test_progress_is_shown_while_answers_are_counted(open_page: Open, asked: Asked, monkeypatch) -> None:
    at = open_page(role="oracle")
    monkeypatch.setattr(ask, "poll", lambda s, k: ask.Answer(asked[-1], "working", "asking", 0.42) if asked else None)
    at.button(key="count-answers").click().run()
    assert [bar.value for bar in at.progress] == [42]
    assert at.button(key="count-answers").disabled


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture
def served(shipped: Path, tmp_path: Path) -> Iterator[str]:
    env = {"UNMASK_DEMOS": str(shipped / "demos"), "UNMASK_HOME": str(tmp_path)}
    with server(MAIN, {**env, "UNMASK_TABLE": str(shipped / "defenses.json")}) as url:
        yield url


def test_a_cell_is_chosen_in_the_page_and_the_panels_follow(served: str, new_page: Callable[..., Page]) -> None:
    page = new_page(f"{served}/compare?run=demo:badnets")
    table = page.locator("[data-testid=stDataFrame]").first
    # The browser fetches the table's program only now, which may take a while on a busy machine.
    expect(table.locator("canvas").first).to_be_visible(timeout=20_000)
    settle(page)
    box = table.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 0.45, box["y"] + 38 + 35 * 1.5)  # the second line
    page.wait_for_url(re.compile("run=demo(:|%3A)blend"))
    settle(page)
    expect(page.get_by_text("Blend, defense by defense")).to_be_visible()
    page.keyboard.press("ArrowDown")
    page.wait_for_url(re.compile("run=demo(:|%3A)clean"))
    over = page.evaluate(
        "() => { const m = document.querySelector('[data-testid=stMain]'); return m.scrollWidth - m.clientWidth }"
    )
    assert over <= 1
