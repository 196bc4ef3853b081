"""What a learner has answered, what of it may be judged yet, and the table of it.

Answers live in the session. On the Learn page, and on whatever page a lesson is done, the address has a copy, so that a
reload keeps them: ``answers=cut:1:t3k2c0!,q.unit:2:t3k2d5`` is a lesson or question, the choice or percentage, the
second (UTC, base 36), and ``!`` once the answer was looked at. What no learner can have answered is passed over.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
import streamlit as st

from app import lesson_facts, lessons, state
from app.lessons import Asked, Lesson, Question

#: The parameter of the address, and how the questions outside of lessons begin there.
PARAM, _ASKED = "answers", "q."
COLUMNS = ("lesson", "question", "answer", "right", "time")


@dataclass(frozen=True)
class Given:
    """The first answer to a question: the number of the choice, or a number in percent; ``time`` is UTC."""

    answer: int | float
    time: str


def given() -> dict[str, Given]:
    """The answers by ``lesson`` or ``questions/name``."""
    return cast("dict[str, Given]", st.session_state.setdefault("learned", {}))


def give(key: str, answer: Any) -> None:
    """Keep the first answer: what was predicted stays predicted."""
    if answer is not None:
        given().setdefault(key, Given(answer, datetime.now(UTC).isoformat(timespec="seconds")))


def opened() -> set[str]:
    """The lessons whose answer was looked at."""
    return cast("set[str]", st.session_state.setdefault("lessons-opened", set()))


def seen(run: str) -> bool:
    """Whether figures that need the trigger of a suspect may be seen now."""
    return state.revealed(state.load(), run)


def closed(lesson: Lesson) -> str | None:
    """Why the answer cannot be shown yet, in a sentence; None when it can."""
    if lesson.name not in given():
        return "Predict first: the answer is worth more after a guess."
    if lesson.commit and lesson.run not in state.commits():
        return "Commit to a cut on the page first."
    if not seen(lesson.run):
        return "You are a defender here, and the answer needs the trigger: commit to a cut, or look as the oracle."
    return None


def right(question: Question, answer: int | float) -> bool | None:
    """Whether an answer is right; None where that must not be known yet.

    Raises:
        ValueError: in one line, if the figure that was guessed is not at hand.
    """
    if question.guess is None:
        return answer == question.right
    value = lesson_facts.share(question.guess.strip("{}"), seen)
    return None if value is None else abs(answer - 100 * value) <= question.within


def answer_of(question: Question, answer: int | float) -> str:
    return f"{answer:g} %" if question.guess else question.choices[int(answer)]


def table(every: dict[str, Lesson], asked: dict[str, Asked]) -> str:
    """What was answered as CSV; a prediction is judged once its answer was looked at and may still be seen."""
    rows: list[tuple[str, str, str, str, str]] = []
    for name, lesson in every.items():
        if found := given().get(name):
            judged = right(lesson.predict, found.answer) if name in opened() and closed(lesson) is None else None
            rows.append((name, lesson.title, answer_of(lesson.predict, found.answer), _word(judged), found.time))
    for name, one in asked.items():
        if found := given().get(f"{state.QUESTIONS}/{name}"):
            judged = right(one.question, found.answer)
            said = answer_of(one.question, found.answer)
            rows.append((state.QUESTIONS, one.title, said, _word(judged), found.time))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([COLUMNS, *rows])
    return text.getvalue()


def _word(judged: bool | None) -> str:
    return "" if judged is None else "yes" if judged else "no"


# --- over a reload ---------------------------------------------------------------------------------------------------


def restore() -> None:
    """Call before a page is drawn: a session that begins takes the answers of its address."""
    if "learned" in st.session_state:
        return
    found, looked_at = unpacked(st.query_params.get(PARAM, ""))
    st.session_state["learned"], st.session_state["lessons-opened"] = found, looked_at


def keep(learn: bool) -> None:
    """Call after a page was drawn: bring the address in step; ``learn``: whether it is the Learn page."""
    if state.went_back():
        return  # a new entry in the browser's history would take the way back away
    words = packed(given(), opened()) if learn or state.load().lesson else ""
    if st.query_params.get(PARAM, "") == words:
        return
    if words:
        st.query_params[PARAM] = words
    else:
        del st.query_params[PARAM]


def packed(answers: dict[str, Given], looked_at: set[str]) -> str:
    parts = []
    for key, one in answers.items():
        name = key.replace(f"{state.QUESTIONS}/", _ASKED)
        second = np.base_repr(int(datetime.fromisoformat(one.time).timestamp()), 36).lower()
        parts.append(f"{name}:{one.answer:g}:{second}{'!' * (key in looked_at)}")
    return ",".join(parts)


def unpacked(words: str) -> tuple[dict[str, Given], set[str]]:
    """What :func:`packed` wrote."""
    asked: dict[str, Question] = {}
    with contextlib.suppress(ValueError):  # the Learn page says which file is malformed
        asked = {name: lesson.predict for name, lesson in lessons.lessons().items()}
        asked |= {f"{state.QUESTIONS}/{name}": one.question for name, one in lessons.questions().items()}
    found: dict[str, Given] = {}
    looked_at: set[str] = set()
    for part in words[:4000].split(","):
        with contextlib.suppress(ValueError, KeyError, OverflowError, OSError):
            name, answer, time = part.removesuffix("!").split(":")
            key = f"{state.QUESTIONS}/{name.removeprefix(_ASKED)}" if name.startswith(_ASKED) else name
            value = float(answer) if asked[key].guess else int(answer)
            if not math.isfinite(value) or not 0 <= value <= (100 if asked[key].guess else len(asked[key].choices) - 1):
                continue
            found[key] = Given(value, datetime.fromtimestamp(int(time, 36), UTC).isoformat(timespec="seconds"))
            if part.endswith("!") and name == key:
                looked_at.add(key)
    return found, looked_at
