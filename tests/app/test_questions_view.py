"""The page of the open questions: its answers come from the figures, and what is covered stays so."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from plotly import graph_objects
from streamlit.testing.v1 import AppTest

from app import question_data, question_figures, questions
from app.palette import LIGHT
from app.questions import QUESTIONS, Entry, Question
from engine import demos
from engine.runs import ask, jobs
from engine.runs.store import open_run
from tests.app import fake
from tests.app.browser import ROOT
from tests.app.test_views import FORBIDDEN, delivered, words
from tests.benchmarks import questions as program

MAIN = str(ROOT / "app" / "main.py")
BEFORE = {"acc_before": 0.93, "asr_before": 0.999, "ra_before": 0.001}


def raw(label: str, asr: float | None, lost: float = 0.01, group: str = "RNP", **more: Any) -> dict[str, Any]:
    """A row of the table; pending without an ASR."""
    found = {
        "question": "asymmetry", "group": group, "label": label, "suspect": "demo:badnets", "attack": "badnets",
        "defense": "rnp", "title": "RNP", "trigger": "none", "seed": 0, "state": "pending",
        "command": f"python -m engine defend demo:badnets # {label}",
    }  # fmt: skip
    if asr is not None:
        acc = 0.93 - lost
        intervals = {"acc": [acc - 0.005, acc + 0.005], "asr": [max(0.0, asr - 0.01), min(1.0, asr + 0.01)]}
        found |= {
            **BEFORE, "acc_after": acc, "asr_after": asr, "ra_after": 0.9 * (1 - asr), "acc_drop": lost,
            "acc_drop_interval": [lost - 0.003, lost + 0.003], "intervals_after": intervals, "pruned": 40,
            "units": 2400, "threshold": 0.5, "n_after": {"acc": 10_000, "asr": 9_000}, "seconds": 90.0,
            "oracle": False, "state": "done", "run": "ab" * 8,
        }  # fmt: skip
    return {**found, **more}


def entries(*rows: dict[str, Any], seen: bool = True) -> list[Entry]:
    made = [questions.entry(row, "BadNets", seen, True) for row in rows]
    return [one for one in made if one is not None]


BEST, FIRST = Question("T", "Title?", "Known."), Question("T", "Title?", "Known.", "first")


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            [raw("a", 0.02), raw("b", 0.4), raw("c", None)],
            "“a” leaves ASR 2.0\u202f% with 1.0 point of accuracy lost, “b” 40.0\u202f%.",
        ),
        (
            [raw("a", 0.3), raw("b", 0.01, lost=0.08), raw("c", 0.9)],
            "“a” leaves ASR 30.0\u202f% with 1.0 point of accuracy lost, “c” 90.0\u202f%; “b” "
            "reaches 1.0\u202f%, but with 8.0 points of accuracy lost.",
        ),
        (
            [raw("a", 0.3, lost=0.05), raw("b", 0.9, lost=-0.03, group="Other"), raw("c", 0.6, lost=0.06)],
            "RNP: “a” leaves ASR 30.0\u202f% with 5.0 points of accuracy lost, and none costs less than 2 "
            "points, “c” 60.0\u202f%.",
        ),
        (
            [raw("a", 0.3), raw("b", 0.01, oracle=True), raw("c", 0.9)],
            "“a” leaves ASR 30.0\u202f% with 1.0 point of accuracy lost, “c” 90.0\u202f%; “b” (an oracle) "
            "reaches 1.0\u202f%, but with 1.0 point of accuracy lost.",
        ),
        ([raw("a", 0.050), raw("b", 0.055)], "No variant differs from another beyond its interval."),
        ([raw("a", 0.05), raw("b", None)], "One of 2 variants is measured yet: there is no answer."),
        ([raw("a", None), raw("b", None)], "Nothing of 2 variants is measured yet: there is no answer."),
    ],
)
def test_the_best_variant_is_said_with_its_price(rows: Sequence[dict[str, Any]], expected: str) -> None:
    assert questions.answer(BEST, entries(*rows)) == expected


def test_later_variants_are_told_against_the_first_and_only_beyond_their_intervals() -> None:
    rows = [
        raw("plain", 0.5, group="A"), raw("new", 0.1, 0.02, group="A"),
        raw("plain", 0.5, group="B"), raw("new", 0.505, group="B"),
        raw("plain", 0.5, group="C"), raw("new", 0.9, group="C"),
        raw("plain", 0.5, group="D"), raw("new", None, group="D"),
    ]  # fmt: skip
    assert questions.answer(FIRST, entries(*rows)) == (
        "“new” against “plain”: less of the backdoor is left for 1 of 3 defenses, more for 1; the median "
        "changes are +0.5 points of ASR and 0.0 of accuracy."
    )


def test_more_than_two_variants_are_told_briefly() -> None:
    shares = {"plain": (0.1, 0.2), "a": (0.9, 0.8), "b": (0.1, 0.05), "c": (0.2, 0.3)}
    rows = [raw(label, share, group=g) for label, pair in shares.items() for g, share in zip("AB", pair, strict=True)]
    assert questions.answer(FIRST, entries(*rows)) == (
        "Median changes of ASR over the defenses, against “plain”. “a”: +70.0 points, more is left for 2 of 2 and less "
        "for 0; “b”: −7.5 points, more is left for 0 of 2 and less for 1; “c”: +10.0 points, more is left for 2 of 2 "
        "and less for 0."
    )


def test_a_control_is_told_apart_from_what_is_compared() -> None:
    rows = [
        raw("plain", 0.1, group="A"), raw("new", 0.9, group="A"),
        raw("plain", 0.02, group="None"), raw("new", 0.01, group="None"),
    ]  # fmt: skip
    question = Question("T", "Title?", "Known.", "first", control="None")
    assert questions.answer(question, entries(*rows)) == (
        "“new” against “plain”: less of the backdoor is left for 0 of 1 defenses, more for 1; the median "
        "changes are +80.0 points of ASR and 0.0 of accuracy. The control, None, goes from 2.0\u202f% to 1.0\u202f%."
    )
    rows.append(raw("newer", 0.03, group="None"))
    assert questions.answer(question, entries(*rows)).endswith("None, goes from 2.0\u202f% to 3.0\u202f% at most.")
    measured = {one.group for name in QUESTIONS for one in program.QUESTIONS[name]}
    assert {one.control for one in QUESTIONS.values() if one.control} <= measured


def test_without_asr_the_answer_speaks_of_accuracy_only() -> None:
    covered = entries(raw("a", 0.737373), raw("b", 0.1, lost=0.002), raw("c", 0.1, oracle=True), seen=False)
    assert [one.label for one in covered] == ["a", "b"]
    text = questions.answer(BEST, covered)
    assert text == (
        "Accuracy suffers least with “b”: 0.2 points of accuracy lost. What is left of the backdoor is hidden."
    )
    drawn = question_figures.dots(covered, text, LIGHT)
    assert "ASR" not in json.dumps(drawn.figure)
    assert not any("ASR" in name or "RA" in name for name in drawn.table)


def test_how_far_an_answer_goes() -> None:
    rows = entries(
        raw("a", 0.1, forgot=False), raw("b", 0.2, oracle=True), raw("c", None, reason="no command"),
        raw("d", None, state="failed", reason="out of memory"),
    )  # fmt: skip
    text = questions.limits(rows)
    assert "of 10,000 clean and 9,000 triggered test pictures" in text
    assert "One attack seed and one defense seed" in text
    assert "\u25c7 marks oracles" in text
    assert "still too accurate in: a." in text
    assert questions.waiting(rows) == "Pending: c (no command). Failed: d (out of memory)."
    left = {"upper_left": {"asr": 0.9, "interval": [0.8, 0.95]}, "blend": {"asr": 0.1, "interval": [0.0, 0.2]}}
    several = entries(raw("a", 0.1, triggers_after=left))
    assert questions.worst_triggers(several) == "The worst single trigger afterwards: RNP 90.0\u202f% (upper left)."
    assert not entries(raw("a", 0.1, triggers_after=left), seen=False)[0].triggers


# --- the chart -------------------------------------------------------------------------------------------------------


def test_the_chart_has_dots_with_intervals_and_marks_oracles() -> None:
    rows = entries(raw("a", 0.1), raw("b", 0.2, oracle=True), raw("c", 0.3, group="Other"), raw("d", None))
    drawn = question_figures.dots(rows, "A sentence.", LIGHT)
    graph_objects.Figure(drawn.figure)
    traces = {(t["name"], t["marker"]["symbol"]): t for t in drawn.figure["data"]}
    assert {name for name, _ in traces} == {"ACC", "ASR", "ACC before", "ASR before"}
    assert traces["ASR", "square"]["x"] == [0.1, 0.3]
    assert traces["ASR", "square"]["error_x"]["array"] == pytest.approx([0.01, 0.01])
    assert traces["ASR", "square-open"]["x"] == [0.2]
    assert drawn.figure["layout"]["yaxis"]["ticktext"] == ["<b>RNP</b>", "a", "b \u25c7 oracle", "<b>Other</b>", "c"]
    assert not any(t["type"] == "bar" for t in drawn.figure["data"])
    assert drawn.alt.endswith("A sentence.")
    assert drawn.table["Variant"] == ["a", "b", "c", "d"]
    assert drawn.table["ASR"] == [0.1, 0.2, 0.3, None]
    assert drawn.table["ASR from"][0] == pytest.approx(0.09)


def test_page_and_program_have_the_same_questions() -> None:
    assert list(QUESTIONS) == list(program.QUESTIONS)
    assert all(question.title.endswith("?") for question in QUESTIONS.values())
    assert len({question.tab for question in QUESTIONS.values()}) == len(QUESTIONS)


# --- the page --------------------------------------------------------------------------------------------------------

LOUD = fake.Figures(0.93, 0.737373, 0.262626, constant=True)


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demos")
    fake.build(root, {"badnets": LOUD, "clean": fake.Figures(0.934, None, None)}, ("rnp",))
    return root


@pytest.fixture
def open_page(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., AppTest]:
    monkeypatch.setattr(demos, "DEMOS", shipped / "demos")
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path))
    monkeypatch.setattr(jobs, "wake", lambda: None)
    monkeypatch.setattr(ask, "ask", lambda question, session: None)
    rows = [
        raw("usual", 0.737373), raw("other", 0.1), raw("best there is", 0.01, oracle=True),
        raw("two", None, question="few"), raw("stranger", 0.31415, question="triggers", suspect="run:0000", attack="x"),
        raw("more", 0.5, question="triggers", suspect="run:0000"),
    ]  # fmt: skip
    table = tmp_path / "questions.json"
    table.write_text(json.dumps({"rows": rows}))
    monkeypatch.setattr(question_data, "TABLE", table)

    def start(**params: str) -> AppTest:
        at = AppTest.from_file(MAIN, default_timeout=30)
        at.query_params.update({"run": "demo:badnets", **params})
        at.run()
        at.switch_page("views/questions.py").run()
        assert not at.exception
        return at

    return start


def everything(at: AppTest) -> str:
    return delivered(at) + "\n".join(frame.value.to_csv() for frame in at.dataframe)


def test_a_question_has_its_answer_chart_limits_and_command(open_page: Callable[..., AppTest]) -> None:
    at = open_page(role="oracle")
    assert at.title[0].value == "What is still open?"
    assert [header.value for header in at.header] == [QUESTIONS["asymmetry"].title]
    assert "“other” leaves ASR 10.0\u202f% with 1.0 point of accuracy lost, “usual” 73.7\u202f%; “best" in words(at)
    assert len([node for node in at._tree if node.type == "plotly_chart"]) == 1
    assert at.code[0].value == "python -m tests.benchmarks.questions asymmetry"
    key = fake.turned(at, "question-choice")
    at.segmented_control(key=key).set_value("few").run()
    assert at.query_params["question"] == "few"
    assert "Pending: two." in words(at)
    assert [header.value for header in open_page(question="few").header] == [QUESTIONS["few"].title]
    assert [header.value for header in open_page(question="cats").header] == [QUESTIONS["asymmetry"].title]


@pytest.mark.parametrize("question", list(QUESTIONS))
def test_nothing_that_needs_the_trigger_reaches_a_defender(open_page: Callable[..., AppTest], question: str) -> None:
    text = everything(open_page(role="defender", question=question))
    for number in (*FORBIDDEN, "best there is", "\u25c7", "31.4", "run:0000"):
        where = text.find(number)
        assert where < 0, text[max(0, where - 150) : where + 50]


def test_a_model_under_examination_stays_covered_in_the_oracle_view_of_another(
    open_page: Callable[..., AppTest], tmp_path: Path
) -> None:
    assert "31.4\u202f%" in everything(open_page(question="triggers"))
    own = tmp_path / "runs" / "mine"
    fake.write_suspect(own, "mine", fake.Figures(0.9, 0.31415, 0.31415, True), 9)
    rows = json.loads(question_data.TABLE.read_text())["rows"]
    for row in rows:
        row["suspect"] = row["suspect"].replace("run:0000", f"run:{open_run(own).id}")
    question_data.TABLE.write_text(json.dumps({"rows": rows}))
    covered = everything(open_page(question="triggers"))
    assert "31.4" not in covered
    assert "ASR and RA of covered suspects are left out." in covered


@pytest.mark.parametrize("content", ["{", "[]", '{"rows": [{"suspect": 1, "defense": 2}]}'])
def test_a_table_that_does_not_read_is_one_line(open_page: Callable[..., AppTest], content: str) -> None:
    question_data.TABLE.write_text(content)
    at = open_page()
    assert len(at.error) == 1
    assert "\n" not in at.error[0].value
