"""*Learn*: seven lessons of five minutes on the real pages, and questions with checked answers.

A lesson is predict, act, reveal, takeaway. Its link opens a page in a prepared state; the answer is shown after a
prediction, and where the learner is a defender, only after a commitment.
"""

from __future__ import annotations

from dataclasses import fields
from urllib.parse import urlsplit

import streamlit as st

from app import glossary, learning, lesson_facts, lessons, palette, panels, state
from app.lessons import Asked, Lesson, Question
from app.state import QUESTIONS


def render() -> None:
    try:
        every, asked = lessons.lessons(), lessons.questions()
    except ValueError as error:
        panels.frame(lesson=False)
        st.title("What is a backdoor, and can it be cut?")
        panels.refuse(error, "Restore the file and reload the page.")
        return
    address = state.load()
    if address.run is None and address.lesson in every:
        _enter(every[address.lesson])
    if panels.frame(lesson=False) is None:
        return
    st.title("What is a backdoor, and can it be cut?")
    panels.lead("Predict, try it on the real page, then see the answer. Nothing here counts against you.")
    chosen = state.load().lesson
    if chosen is not None and chosen not in every and chosen != QUESTIONS:
        st.warning(f"Expected a lesson of this page in the link, got {panels.plain(chosen[:60])}.",
                   icon=":material/link_off:")  # fmt: skip
        chosen = None
    left, right = st.container(key="hero").columns([1, 2.5], gap="large")
    try:
        with left:
            _contents(every, asked, chosen)
        with right:
            if chosen == QUESTIONS:
                _questions(asked)
            elif chosen is None:
                _start(every)
            else:
                _lesson(every, every[chosen])
    except ValueError as error:
        panels.refuse(error, "Get a fresh copy of the demo models.")
    _instructor(every)


def _enter(lesson: Lesson | None) -> None:
    """Take the suspect and the role of a lesson, or (None) go to the questions."""
    if lesson is None:
        state.go(lesson=QUESTIONS)
        return
    wanted, _ = state.parse(lesson.params)
    state.go(**{field.name: getattr(wanted, field.name) for field in fields(wanted) if field.name != "lab"})


def _contents(every: dict[str, Lesson], asked: dict[str, Asked], chosen: str | None) -> None:
    done = [name for name in every if name in learning.opened()]
    panels.over("Lessons")
    with st.container(gap=None, key="contents-lessons"):
        for number, lesson in enumerate(every.values(), 1):
            icon = ":material/check_circle:" if lesson.name in done else ":material/radio_button_unchecked:"
            words = f"{number}. {lesson.title}"
            st.button(
                f"**{words}**" if lesson.name == chosen else words, key=f"open {lesson.name}", type="tertiary",
                icon=icon, on_click=_enter, args=(lesson,),
            )  # fmt: skip
        answered = sum(f"{QUESTIONS}/{name}" in learning.given() for name in asked)
        words = f"Questions, {answered} of {len(asked)} answered"
        st.button(
            f"**{words}**" if chosen == QUESTIONS else words, key="open questions", type="tertiary",
            icon=":material/quiz:", on_click=_enter, args=(None,),
        )  # fmt: skip
    st.progress(len(done) / max(1, len(every)), text=f"{len(done)} of {len(every)} lessons done")
    st.download_button(
        "My answers (CSV)", learning.table(every, asked), "unmask-answers.csv", "text/csv", key="download-answers",
        icon=":material/download:", disabled=not learning.given(), on_click="ignore",
        help="Lesson, question, your answer, whether it was right, and when. The address of the page keeps them "
        "over a reload; to hand on a lesson, take a link from below.",
    )  # fmt: skip


def _start(every: dict[str, Lesson]) -> None:
    first = next((one for one in every.values() if one.name not in learning.opened()), None)
    minutes = sum(one.minutes for one in every.values())
    _head(f"{len(every)} lessons", "How a lesson goes")
    with st.container(border=True, gap="xsmall"):
        for number, (title, words) in enumerate((
            ("Predict", "Say what you expect. There is no answer without a guess."),
            ("Act", "One link opens a real page of the dashboard, set up for the lesson. Try it there."),
            ("Reveal", "Come back and see what was measured on the model, and why."),
            ("Takeaway", "One sentence to keep."),
        ), 1):  # fmt: skip
            st.html(f'<div class="um-step"><i>{number}</i><b>{title}</b></div>')
            panels.note(words)
    if first is not None:
        st.button(f"Start: {first.title}", type="primary", key="start", icon=":material/play_arrow:",
                  on_click=_enter, args=(first,))  # fmt: skip
    panels.note(f"{minutes} minutes in all. Some lessons make you a defender: ASR is hidden until you commit to a cut.")


# --- one lesson ------------------------------------------------------------------------------------------------------


def _lesson(every: dict[str, Lesson], lesson: Lesson) -> None:
    names = list(every)
    at = names.index(lesson.name)
    as_whom = "as a defender" if lesson.query["role"] == "defender" else "as the oracle"
    _head(f"Lesson {at + 1} of {len(names)} · {lesson.minutes} minutes · {as_whom}", lesson.title)
    with st.container(border=True, key="predict"):
        _step(1, "Predict")
        _text(lesson.predict.text)
        _answer(lesson.name, lesson.predict, "Predict")
    with st.container(border=True, key="act"):
        _step(2, "Act")
        _text(lesson.act)
        st.page_link(lesson.view, label="Open the page", icon=":material/arrow_forward:", query_params=lesson.params)
    with st.container(border=True, key="reveal"):
        _step(3, "Reveal")
        _reveal(lesson)
    if lesson.name in learning.opened() and learning.closed(lesson) is None:
        with st.container(border=True, key="takeaway"):
            _step(4, "Takeaway")
            st.html(f'<p class="um-takeaway">{glossary.explained(lesson.takeaway)}</p>')
            following = every[names[at + 1]] if at + 1 < len(names) else None
            st.button(
                f"Next: {following.title if following else 'the questions'}", key="next-lesson", type="primary",
                icon=":material/arrow_forward:", on_click=_enter, args=(following,),
            )  # fmt: skip


def _reveal(lesson: Lesson) -> None:
    closed = learning.closed(lesson)
    if closed is not None:
        panels.locked(closed)
        if lesson.name in learning.given() and not lesson.commit:
            st.button(
                "Look as the oracle", key="as-oracle", icon=":material/visibility:", on_click=state.change,
                kwargs={"role": "oracle"},
            )  # fmt: skip
        return
    if lesson.name not in learning.opened():
        st.button(
            "Show me", key="show", type="primary", icon=":material/visibility:", on_click=learning.opened().add,
            args=(lesson.name,),
        )  # fmt: skip
        return
    state.note_seen(lesson.run, True)
    _verdict(lesson.predict, learning.given()[lesson.name].answer)
    if lesson.commit:
        record = state.commits()[lesson.run]
        at = "" if record["threshold"] is None else f", at or above {palette.number(record['threshold'])}"
        _text(f"You cut {palette.units(len(record['cut']))}{at}. Prune shows what that did.")
    _text(lesson.reveal)


def _answer(key: str, question: Question, label: str) -> None:
    """The choices or the number, until something is answered; then what it was."""
    found = learning.given().get(key)
    if found is not None:
        panels.note(f"Your answer: {learning.answer_of(question, found.answer)}")
        return
    widget = f"answer {key}"
    if question.guess is None:
        st.radio(
            "Your answer", range(len(question.choices)), format_func=question.choices.__getitem__, index=None,
            key=widget, label_visibility="collapsed",
        )  # fmt: skip
    else:
        st.number_input("Your guess in percent", 0.0, 100.0, None, 1.0, key=widget, format="%g", width=220)
    empty = st.session_state.get(widget) is None
    st.button(
        label, key=f"give {key}", icon=":material/done:", disabled=empty,
        on_click=lambda: learning.give(key, st.session_state.get(widget)),
    )  # fmt: skip


def _verdict(question: Question, answer: int | float) -> None:
    judged = learning.right(question, answer)
    if judged:
        st.success("That is right.", icon=":material/check:")
    elif judged is not None:
        meant = "" if question.right is None else f" The answer is: {panels.plain(question.choices[question.right])}"
        st.info(f"Not quite.{meant}", icon=":material/lightbulb:")


def _questions(asked: dict[str, Asked]) -> None:
    _head("Questions", "What sets one thing apart from another?")
    for number, one in enumerate(asked.values(), 1):
        key = f"{QUESTIONS}/{one.name}"
        with st.container(border=True, key=f"question-{one.name}"):
            _step(number, one.title)
            _text(one.question.text)
            _answer(key, one.question, "Answer")
            if found := learning.given().get(key):
                _verdict(one.question, found.answer)
                _text(one.why)


def _head(over: str, title: str) -> None:
    words = f'<p class="um-unit" role="heading" aria-level="2">{panels.esc(title)}</p>'
    st.html(f'<p class="um-over">{panels.esc(over)}</p>{words}')


def _step(number: int, title: str) -> None:
    st.html(f'<div class="um-step"><i>{number}</i><b>{panels.esc(title)}</b></div>')


def _text(text: str) -> None:
    """Markdown of our own files, with figures that may be seen and the glossary on hover."""
    filled = lessons.filled(text, lambda name: lesson_facts.fact(name, learning.seen))
    st.markdown(glossary.explained(filled), unsafe_allow_html=True)


# --- for instructors -------------------------------------------------------------------------------------------------


def _instructor(every: dict[str, Lesson]) -> None:
    with st.expander("For instructors: links for a class", icon=":material/link:"):
        name = st.selectbox(
            "Lesson", [*every, QUESTIONS], key="class-lesson",
            format_func=lambda key: every[key].title if key in every else "Questions",
        )  # fmt: skip
        here = urlsplit(st.context.url or "")
        base = here._replace(path=here.path.removesuffix("/learn"), query="", fragment="").geturl()
        panels.note("The lesson, from its prediction on:")
        st.code(lessons.url(base, "/learn", {"lesson": name}), None)
        if name in every:
            panels.note("The page in its prepared state, with what to do beside it:")
            st.code(lessons.url(base, every[name].page, every[name].params), None)
        panels.note(
            "The address bar of every page holds its state: set a page up as you like and hand on its address. Each "
            "learner downloads the answers above."
        )


render()
state.write()
