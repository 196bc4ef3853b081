"""A lesson from its prediction to the table of answers, and what a defender must not read in it."""

from __future__ import annotations

import csv
import io
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app import learning, lessons
from engine.runs import ask
from tests.app import fake
from tests.app.test_views import FORBIDDEN, delivered
from tests.app.visit import MAIN


@pytest.fixture(autouse=True)
def _no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path))
    monkeypatch.setattr(ask, "ask", lambda question, session: None)
    monkeypatch.setattr(ask, "poll", lambda session, kind: None)


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demos whose ASR and RA are unmistakable."""
    root = tmp_path_factory.mktemp("loud")
    loud = fake.Figures(0.93, 0.737373, 0.262626, constant=True)
    fake.build(root, {"badnets": loud, "clean": fake.Figures(0.934, None, None)})
    return root


def learn(**params: str) -> AppTest:
    """The page as the first one of a session, as a link to it opens it."""
    at = AppTest.from_file(MAIN, default_timeout=30)
    at.query_params.update(params)
    at.switch_page("views/learn.py").run()
    assert not at.exception
    return at


def keys(at: AppTest) -> set[str | None]:
    return {button.key for button in at.button}


def predict(at: AppTest, name: str, choice: int) -> None:
    at.radio(key=f"answer {name}").set_value(choice).run()
    at.button(key=f"give {name}").click().run()
    assert not at.exception


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the button for the answers offered, the newest last."""
    offered: list[str] = []
    made = learning.table

    def table(*args: Any) -> str:
        offered.append(made(*args))
        return offered[-1]

    monkeypatch.setattr(learning, "table", table)
    return offered


def rows(files: list[str]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(files[-1])))


def test_a_whole_lesson(files: list[str]) -> None:
    at = learn()
    at.button(key="start").click().run()
    assert dict(at.query_params) == {"run": "demo:badnets", "role": "oracle", "lesson": "stamp"}
    assert "show" not in keys(at)
    assert "9,000" not in delivered(at)  # a figure of the answer
    predict(at, "stamp", 0)
    assert "9,000" not in delivered(at)
    assert [(row["lesson"], row["right"]) for row in rows(files)] == [("stamp", "")]
    at.button(key="show").click().run()
    assert "9,000" in delivered(at)
    assert at.info[0].value.startswith("Not quite. The answer is: The attacker")
    assert any("um-takeaway" in line.value for line in at.html)
    (row,) = rows(files)
    assert tuple(row) == learning.COLUMNS
    assert row["question"] == "A stamp changes the answer"
    assert row["answer"].startswith("T-shirt")
    assert row["right"] == "no"
    assert datetime.fromisoformat(row["time"]).tzinfo is not None
    at.button(key="next-lesson").click().run()
    lesson = {"run": "demo:adaptive_blend", "role": "oracle", "lesson": "poison"}
    assert {key: value for key, value in at.query_params.items() if key != "answers"} == lesson
    at.number_input(key="answer poison").set_value(30.0).run()
    at.button(key="give poison").click().run()
    at.button(key="show").click().run()
    assert not at.exception
    assert [(row["answer"], row["right"]) for row in rows(files)][1] == ("30 %", "no")


def test_questions_are_judged_at_once(files: list[str]) -> None:
    at = learn(lesson="questions")
    right = lessons.questions()["unit"]
    assert right.why not in delivered(at)
    predict(at, "questions/unit", right.question.right or 0)
    assert at.success
    predict(at, "questions/asr", 0)
    assert [(row["lesson"], row["right"]) for row in rows(files)] == [("questions", "yes"), ("questions", "no")]
    assert "2 of" in at.button(key="open questions").label


def test_answers_are_there_again_after_a_reload(files: list[str]) -> None:
    at = learn(lesson="stamp", run="demo:badnets", role="oracle")
    assert "answers" not in at.query_params
    predict(at, "stamp", 0)
    at.button(key="show").click().run()
    at.button(key="next-lesson").click().run()
    at.number_input(key="answer poison").set_value(12.5).run()
    at.button(key="give poison").click().run()
    at.button(key="open questions").click().run()
    predict(at, "questions/asr", 1)
    before, address = rows(files), dict(at.query_params)
    # Another session, as after a reload: the same table, and what was predicted stays predicted.
    again = learn(**address)
    assert rows(files) == before
    assert [row["answer"] for row in before][1] == "12.5 %"
    assert again.query_params["answers"] == address["answers"]
    again.button(key="open stamp").click().run()
    assert "give stamp" not in keys(again)
    assert any("um-takeaway" in line.value for line in again.html)


def test_pages_without_a_lesson_do_not_carry_the_answers() -> None:
    at = learn(lesson="stamp", run="demo:badnets", role="oracle")
    predict(at, "stamp", 0)
    at.switch_page("views/prune.py").run()
    assert "answers" in at.query_params
    at.button(key="lesson-leave").click().run()
    assert "answers" not in at.query_params


@pytest.mark.parametrize(
    "words", ["stamp", "stamp:9:0", "stamp:-1:0", "nothing:1:0", "poison:nan:0", "poison:101:0", "stamp:1:!!", ",:,",
              "stamp:1:zzzzzzzzzzzzz", "q.stamp:1:0"],
)  # fmt: skip
def test_answers_that_nobody_can_have_given_are_passed_over(words: str) -> None:
    assert learning.unpacked(words) == ({}, set())


def test_a_lesson_as_a_defender_shows_nothing_of_the_trigger_before_the_commitment(
    workspace: Path, files: list[str]
) -> None:
    at = learn(lesson="cut")
    assert dict(at.query_params).items() >= {"run": "demo:badnets", "role": "defender", "lesson": "cut"}.items()
    predict(at, "cut", 1)
    assert "show" not in keys(at)
    assert "as-oracle" not in keys(at)
    text = delivered(at) + files[-1]
    assert not [number for number in FORBIDDEN if number in text]
    assert rows(files)[0]["right"] == ""
    at.switch_page("views/prune.py").run()
    at.button(key="commit").click().run()
    at.switch_page("views/learn.py").run()
    at.button(key="show").click().run()
    assert not at.exception
    assert "73.7" in delivered(at)
    assert "You cut" in delivered(at)
    assert rows(files)[0]["right"] == "yes"
    # Covered again, the page hides it again.
    at.switch_page("views/prune.py").run()
    at.button(key="cover").click().run()
    at.switch_page("views/learn.py").run()
    text = delivered(at) + files[-1]
    assert not [number for number in FORBIDDEN if number in text]
    assert rows(files)[0]["right"] == ""


def test_a_defender_may_look_as_the_oracle_where_the_lesson_asks_for_no_commitment(workspace: Path) -> None:
    at = learn(lesson="stamp", run="demo:badnets", role="defender")
    predict(at, "stamp", 2)
    assert "show" not in keys(at)
    assert not [number for number in FORBIDDEN if number in delivered(at)]
    at.button(key="as-oracle").click().run()
    at.button(key="show").click().run()
    assert "73.7" in delivered(at)


def test_without_the_demo_of_a_lesson_the_page_says_so(workspace: Path) -> None:
    at = learn(lesson="fails")
    predict(at, "fails", 1)
    at.button(key="show").click().run()
    assert not at.exception
    assert "sig" in at.error[0].value
    assert "\n" not in at.error[0].value


def test_a_malformed_file_is_a_message_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise ValueError("expected 1_stamp.md to be a page of lessons, got: nothing")

    monkeypatch.setattr(lessons, "lessons", refused)
    at = learn()
    assert "1_stamp.md" in at.error[0].value


def test_an_unknown_lesson_in_a_link_is_one_line_and_the_list_stays() -> None:
    at = learn(lesson="nothing")
    assert "nothing" in at.warning[0].value
    assert "start" in keys(at)


def test_an_instructor_gets_links_to_the_lesson_and_to_the_page() -> None:
    at = learn()
    at.selectbox(key="class-lesson").select("cut").run()
    lesson, page = (line.value for line in at.code)
    assert lesson.endswith("/learn?lesson=cut")
    assert page.endswith("/prune?run=demo:badnets&role=defender&score=rnp&thr=none&lesson=cut")
