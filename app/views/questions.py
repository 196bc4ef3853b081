"""*Open questions*: what is not settled about backdoor defenses, and what was measured here.

One question at a time: what is known, a chart of the variants that were compared, the answer that the figures give and
how far it goes, and the command that repeats it.
"""

from __future__ import annotations

import streamlit as st

from app import data, panels, question_data, question_figures, questions, state
from app.questions import QUESTIONS


def render() -> None:
    frame = panels.frame()
    if frame is None:
        return
    st.title("What is still open?")
    panels.lead("Questions of the field, what Unmask measured for each, and the command that measures it again.")
    address = state.load()
    found = question_data.read(
        data.suspects(), lambda name: state.revealed(state.load(), name), state.role(address) == "oracle"
    )
    if found.trouble:
        panels.refuse(ValueError(found.trouble), "Measure it again with the command below.")
    name = address.question if address.question in QUESTIONS else next(iter(QUESTIONS))
    assert name is not None
    st.segmented_control(
        "Question",
        list(QUESTIONS),
        format_func=lambda key: QUESTIONS[key].tab,
        key=state.shows("question-choice", name),
        required=True,
        label_visibility="collapsed",
        on_change=lambda: state.change(question=state.shown("question-choice")),
    )
    question, entries = QUESTIONS[name], found.entries.get(name, [])
    st.header(question.title)
    panels.lead(question.known)
    for suspect in {one.row.suspect for one in entries if one.row.seen and one.has("asr")}:
        state.note_seen(suspect, True)
    done = [one for one in entries if one.done]
    if done:
        title = questions.answer(question, entries)
        panels.chart(question_figures.dots(entries, title, frame.theme), f"dots-{name}", lines=1)
        panels.note(questions.limits(entries))
    elif entries:
        panels.note("No variant is measured yet.")
    for line in (questions.worst_triggers(done), questions.waiting(entries)):
        if line:
            panels.note(line)
    covered = found.hidden.get(name, 0)
    if covered or any(not one.row.seen for one in entries):
        left = f" {covered} variants needed the trigger and are left out." if covered else ""
        panels.locked(f"ASR and RA of covered suspects are left out.{left} {panels.WHY_LOCKED}")
    trained = dict.fromkeys(one.trained_by for one in entries if one.trained_by)
    panels.over("Measure it again")
    lines = [f"python -m tests.benchmarks.questions {name}", *(f"# trains first: {command}" for command in trained)]
    st.code("\n".join(lines), None)
    table = " The table above has the command of each variant." if done else ""
    panels.note(f"What is measured stays; --again measures anew.{table}")


render()
state.write()
