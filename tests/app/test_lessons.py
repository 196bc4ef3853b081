"""The files of the lessons: what is refused, what their links open, and that their prose is true of the demos."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app import glossary, lesson_facts, lessons, state
from app.palette import MEANING, MEASURES
from engine import demos
from engine.runs import ask
from tests.app.visit import visit

HEAD = '+++\ntitle = "T"\nminutes = 5\nlink = "/prune?run=demo:badnets&role=oracle"\n+++\n'
BODY = "## Predict\n\nWhat?\n\n- [ ] this\n- [x] that\n\n## Act\n\nDo it.\n\n## Reveal\n\nSo.\n\n## Takeaway\n\nAll.\n"
EVERY = lessons.lessons()


def everyone(run: str) -> bool:
    return True


def nobody(run: str) -> bool:
    return False


def words(lesson: lessons.Lesson) -> str:
    return "\n".join((lesson.predict.text, *lesson.predict.choices, lesson.act, lesson.reveal, lesson.takeaway))


# --- parser ----------------------------------------------------------------------------------------------------------


def test_a_lesson_is_read_from_its_text() -> None:
    found = lessons.lesson("t", HEAD + BODY)
    assert (found.page, found.query) == ("/prune", {"run": "demo:badnets", "role": "oracle"})
    assert found.params == {"run": "demo:badnets", "role": "oracle", "lesson": "t"}
    assert found.predict == lessons.Question("What?", ("this", "that"), 1)
    assert (found.act, found.reveal, found.takeaway, found.commit) == ("Do it.", "So.", "All.", False)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (HEAD, "", "front matter"),
        ('title = "T"\n', "", "expected title"),
        ("minutes = 5", 'minutes = "5"', "minutes to be of type int"),
        ("minutes = 5", "minutes = 5\ncolour = 1", "got colour"),
        ("minutes = 5", "minutes = ", "Invalid value"),
        ("/prune?", "/admin?", "link to one of"),
        ("/prune?", "https://elsewhere.example/prune?", "link to one of"),
        ("role=oracle", "role=king", "expected role"),
        ("&role=oracle", "", "expected role in the link"),
        ("role=oracle", "role=oracle&colour=red", "got 'colour'"),
        ("role=oracle", "role=oracle&thr=high", "expected thr"),
        ("minutes = 5", 'minutes = 5\nguess = "{badnets.asr}"', "either choices or a number"),
        ("minutes = 5", 'minutes = 5\nguess = "badnets"', "guess to be a figure"),
        ("- [ ] this", "- [x] this", "one of them checked"),
        ("- [ ] this\n", "", "two to four choices"),
        ("What?\n", "", "a question before the choices"),
        ("## Act\n\nDo it.\n", "", "expected the sections"),
        ("Do it.", "", "words under Act"),
        ("Do it.", "Reach {badnets.asr}.", "no figure under Act"),
        ("## Takeaway", "## Reveal", "each heading once"),
    ],
)
def test_a_malformed_lesson_is_refused_in_one_line(old: str, new: str, line: str) -> None:
    assert old in HEAD + BODY
    with pytest.raises(ValueError, match=re.escape(line)) as refused:
        lessons.lesson("t", (HEAD + BODY).replace(old, new))
    assert "\n" not in str(refused.value)


def test_a_malformed_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "1_bad.md").write_text(BODY)
    with pytest.raises(ValueError, match="expected 1_bad.md"):
        lessons.lessons(tmp_path)
    (tmp_path / "questions.md").write_text("## unit: Unit?\n\nWhat?\n\n- [x] a\n- [ ] b\n")
    with pytest.raises(ValueError, match=r"questions\.md.*reason"):
        lessons.questions(tmp_path)
    with pytest.raises(ValueError, match=r"glossary\.md"):
        lessons.glossary(tmp_path)


# --- the files that are shipped --------------------------------------------------------------------------------------


def test_there_are_seven_lessons_and_their_questions() -> None:
    assert list(EVERY) == ["stamp", "poison", "accuracy", "inside", "cut", "disagree", "fails"]
    assert sum(lesson.minutes for lesson in EVERY.values()) == 35
    assert len(lessons.questions()) >= 8
    assert [lesson.name for lesson in EVERY.values() if lesson.commit] == ["cut"]
    assert EVERY["cut"].query["role"] == "defender"


@pytest.mark.parametrize("lesson", EVERY.values(), ids=list(EVERY))
def test_every_figure_of_a_lesson_is_measured_and_hidden_where_it_needs_the_trigger(lesson: lessons.Lesson) -> None:
    shown = lessons.filled(words(lesson), lambda name: lesson_facts.fact(name, everyone))
    assert "{" not in shown
    assert lesson_facts.HIDDEN not in shown
    for name in lessons.figures(words(lesson)):
        needs = {"asr", "ra", "tamed", "loudest", "tac", "poisoned", "attack", "asr_before", "asr_after"}
        assert (lesson_facts.fact(name, nobody) == lesson_facts.HIDDEN) == bool(needs & set(name.split("."))), name


def test_no_question_and_no_prediction_holds_a_figure_that_needs_the_trigger() -> None:
    texts = [lesson.predict.text + "".join(lesson.predict.choices) for lesson in EVERY.values()]
    texts += [one.question.text + one.why for one in lessons.questions().values()]
    for name in lessons.figures("\n".join(texts)):
        assert lesson_facts.fact(name, nobody) != lesson_facts.HIDDEN


@pytest.mark.parametrize("name", ["nobody.acc", "badnets", "badnets.colour", "badnets.intervals", "badnets.rnp.best"])
def test_a_figure_that_there_is_not_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected a figure of the shipped demos") as refused:
        lesson_facts.fact(name, everyone)
    assert "\n" not in str(refused.value)


def test_the_prose_is_true_of_the_shipped_demos() -> None:
    def value(name: str) -> float:
        return float(lesson_facts.fact(name, everyone).replace("\u202f%", "").replace("\u2212", "-").replace(",", ""))

    assert (value("badnets.asr"), value("badnets.n.asr")) == (100.0, 9000)
    assert value("adaptive_blend.asr") > 99
    assert value("adaptive_blend.acc") > value("clean.acc")
    assert value("adaptive_blend.spec.attack.params.cover") == 0.01
    assert value("badnets.loudest.clean") < 0 < 1 < value("badnets.loudest.triggered")
    assert value("badnets.rnp.native") < value("badnets.gallery.threshold")
    assert 120 * 120 / 2400 < value("badnets.overlap.rnp.activation") < 45  # more than by chance
    assert max(value("badnets.rnp.chosen.asr"), value("badnets.activation.chosen.asr")) < 10
    assert abs(value("badnets.rnp.chosen.acc") - value("badnets.activation.chosen.acc")) < 1.5
    assert value("badnets.random.chosen.asr") > 90
    assert value("sig.activation.chosen.asr") > 70
    assert value("sig.activation.tamed.acc") < 85 < 90 < value("badnets.rnp.tamed.acc")
    shirt, shirt_top = 6, 0
    assert (value("sig.rnp.log.label.class"), value("sig.rnp.log.favourite")) == (shirt, shirt_top)
    assert value("sig.spec.attack.params.target") == shirt_top
    tried = demos.studies("demo:sig")["rnp"].result["log"]["rivals"]
    assert [one["label"] for one in tried][:2] == [shirt, shirt_top]
    assert tried[1]["units"] < 0.6 * tried[0]["units"]
    assert value("sig.rnp.chosen.asr") < 5


@pytest.mark.parametrize("lesson", EVERY.values(), ids=list(EVERY))
def test_the_link_of_a_lesson_opens_a_real_page_in_its_state(
    lesson: lessons.Lesson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path))
    monkeypatch.setattr(ask, "ask", lambda question, session: None)
    monkeypatch.setattr(ask, "poll", lambda session, kind: None)
    assert lesson.run.removeprefix("demo:") in demos.names()
    if score := lesson.query.get("score"):
        assert score in demos.studies(lesson.run)
    if pin := lesson.query.get("pin"):
        run, _, score = pin.partition("~")
        assert score in demos.studies(run)
    view = lessons.PAGES[lesson.page]
    at = visit("" if view == "home" else view, **lesson.params)
    assert not [line.value for line in at.warning if "link" in line.value]
    assert dict(at.query_params).items() >= state.parse(lesson.params)[0].params(lab=True).items()
    assert any(lesson.title in line.value for line in at.markdown)
    assert any(lesson.act == line.value for line in at.caption)
    at.button(key="lesson-leave").click().run()
    assert "lesson" not in at.query_params


# --- glossary --------------------------------------------------------------------------------------------------------


def test_a_term_is_explained_where_it_first_occurs() -> None:
    shown = glossary.explained("Units & ASR: a unit, <b>, no ra, masks")
    assert re.sub(r"<span[^>]*>|</span>", "", shown) == "Units &amp; ASR: a unit, &lt;b&gt;, no ra, masks"
    assert re.findall(r">(\w+)</span>", shown) == ["Units", "ASR", "masks"]
    assert shown.count('tabindex="0"') == shown.count("aria-label=") == 3


def test_the_glossary_says_what_the_figures_say() -> None:
    for measure in MEASURES:
        assert lessons.glossary()[measure].meaning == MEANING[measure]
    assert {"acc", "asr", "trigger", "unit", "mask"} <= set(lessons.glossary())


def test_a_link_for_a_class_is_a_whole_address() -> None:
    lesson = EVERY["accuracy"]
    link = lessons.url("http://host/unmask/", lesson.page, lesson.params)
    assert link.startswith("http://host/unmask/prune?run=demo:badnets&role=defender&")
    assert lessons.url("http://host", "/learn", {}) == "http://host/learn"
