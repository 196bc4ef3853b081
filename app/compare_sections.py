"""The lower panels of the Compare page: curves of scores, how two scores agree, and answers before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import streamlit as st

from app import agreement_figures, confusions, data, panels, score_figures, state
from app.comparison import Figure, Row
from app.palette import MEASURES, NAME, Measure
from app.panels import Frame
from engine.runs.store import BY_ID

#: Which figure of the matrix goes with which measure of the curves.
_OF: dict[Measure, Figure] = {"asr": "asr", "acc": "acc_drop", "ra": "ra"}
#: Before the name of a score whose default cut stands in place of a run.
_SCORE = "score~"


def _studies(name: str, seen: bool) -> dict[str, data.Study]:
    try:
        return data.studies(name, seen)
    except ValueError as error:
        panels.refuse(error, "Score this model again, or get a fresh copy of the demos.")
        return {}


# --- curves ----------------------------------------------------------------------------------------------------------


def lines(suspect: str) -> list[score_figures.Curve]:
    """The curves of a suspect that may be seen, the page's own score first among equals."""
    found = _studies(suspect, state.revealed(state.load(), suspect))
    return [
        score_figures.Curve(study.label, study.points, study.oracle, score == state.load().score)
        for score, study in found.items()
    ]


def curves(frame: Frame, beside: data.Suspect | None) -> None:
    st.header("How do the scores compare?")
    sides = []
    for suspect in filter(None, (frame.suspect, beside)):
        if drawn := lines(suspect.name):
            sides.append(score_figures.Curves(suspect.title, drawn))
        else:
            panels.note(f"{suspect.title} has no scores yet; Prune is where they are made.")
    if not sides:
        return
    there = [m for m in MEASURES if any(p.get(m) is not None for s in sides for c in s.curves for p in c.points)]
    wanted = next((m for m, figure in _OF.items() if figure == (state.load().figure or "asr")), there[-1])
    measure = wanted if wanted in there else there[0]
    if len(there) > 1:
        st.segmented_control(
            "Measure", there, format_func=NAME.__getitem__, key=state.shows("measure-choice", measure), required=True,
            label_visibility="collapsed",
            on_change=lambda: state.change(figure=_OF[cast(Measure, state.shown("measure-choice"))]),
        )  # fmt: skip
    panels.chart(score_figures.score_curves(sides, measure, frame.theme), "curves", lines=1)
    words = "Points are measured on test pictures; diamonds are scores that used the trigger."
    panels.note(words if frame.seen else "Points are measured on test pictures.")


# --- agreement -------------------------------------------------------------------------------------------------------


def agreement(frame: Frame) -> None:
    """Rank agreement and overlap of two scores of this suspect: the page's own and the pinned one."""
    found = _studies(frame.suspect.name, frame.seen)
    st.header("Do two scores suspect the same units?")
    if len(found) < 2:
        panels.note("This takes two scores of the suspect; Prune is where they are made.")
        return
    here = state.load().score if state.load().score in found else next(iter(found))
    others = [score for score in found if score != here]
    run, _, pinned = (state.load().pin or "").rpartition("~")
    there = pinned if run == frame.suspect.name and pinned in others else others[0]
    first, second = found[here], found[there]
    most = int((np.isfinite(first.values) & np.isfinite(second.values)).sum())
    # More than half of the units would agree whatever the scores.
    default = min(data.present(first, "default", {}).pruned or most // 20, most // 2)
    k = max(1, min(state.load().top or default, most))
    left, right = st.container(key="hero-agreement").columns([1, 2.4], gap="large")
    with left:
        for label, name, scores, chosen in (
            ("One score", "first", list(found), here),
            ("The other", "second", others, there),
        ):
            st.selectbox(
                label, scores,
                format_func=lambda score: found[score].label + (" \u25c7" if found[score].oracle else ""),
                key=state.shows(f"{name}-score", chosen), on_change=_choose, args=(name, frame.suspect.name),
            )  # fmt: skip
        st.number_input(
            "Most suspicious units of each", 1, max(1, most), key=state.shows("top-choice", k),
            help="At first as many as the default threshold of the one score cuts, at most half of those there are.",
            on_change=lambda: state.change(top=int(state.shown("top-choice"))),
        )  # fmt: skip
    with right:
        if most < 2:
            panels.note(f"{first.label} and {second.label} score no units in common.")
            return
        names = (first.label, second.label)
        panels.chart(agreement_figures.overlap(first.values, second.values, names, k, frame.theme), "overlap", lines=1)
        panels.note(
            "The Jaccard index is the share of units that both have among those that either has. Rank agreement is "
            "Spearman's, over all units: 1 is the same order, 0 none."
        )


def _choose(name: str, run: str) -> None:
    score = str(state.shown(f"{name}-score"))
    if name == "first":
        state.choose_score(score)
    else:
        state.go(pin=f"{run}~{score}")


# --- answers ---------------------------------------------------------------------------------------------------------


def answers(frame: Frame, rows: Sequence[Row]) -> None:
    """Confusion matrices before and after one defense."""
    st.header("Which answers does a defense change?")
    studies = _studies(frame.suspect.name, frame.seen)
    own = {row.folder: row for row in rows if row.folder and row.state == "done"}
    labels = {folder: label(row) for folder, row in own.items()}
    labels |= {
        f"{_SCORE}{score}": f"{study.label}, cut at its default threshold" + (" \u25c7" if study.oracle else "")
        for score, study in studies.items()
    }
    if not labels:
        panels.note("No defense of this suspect has left a model yet; one that runs here can be looked at.")
        return
    chosen = state.load().defense if state.load().defense in labels else next(iter(labels))
    assert chosen is not None
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        st.selectbox(
            "Defense", list(labels), format_func=lambda key: labels.get(key, key), width=420,
            key=state.shows("defense-choice", chosen),
            on_change=lambda: state.change(defense=state.shown("defense-choice")),
        )  # fmt: skip
        question = _question(frame, chosen, own, studies)
        asked = st.session_state.get("answers-asked") == question
        known = panels.kept(question, frame.seen) or (panels.answer_to(question, frame.seen) if asked else None)
        st.button(
            "Count the answers", key="count-answers", icon=":material/calculate:", disabled=known is not None,
            help="Asks the suspect and its repaired self about every test picture.", on_click=_ask, args=(question,),
        )  # fmt: skip
    if known is None:
        panels.note("Counted on all test pictures: rows are true classes, columns what the model answers.")
        return
    name = own[chosen].name if chosen in own else studies[chosen.removeprefix(_SCORE)].label
    confusions.section(frame, question, f"After {name}")


def label(row: Row) -> str:
    parts = [row.title, f"{row.samples} pictures" if row.samples else "", f"seed {row.seed}" if row.seed else ""]
    parts += [f"policy {row.policy}" if row.policy else ""]
    return ", ".join(part for part in parts if part) + (" \u25c7" if row.oracle else "")


def _question(frame: Frame, chosen: str, own: Mapping[str, Row], studies: Mapping[str, data.Study]) -> dict[str, Any]:
    question = {"kind": "confusion", "suspect": frame.suspect.name, "triggered": frame.seen}
    if chosen in own:
        return {**question, "run": f"{BY_ID}{own[chosen].run}"}
    study = studies[chosen.removeprefix(_SCORE)]
    cut = data.present(study, "default", {}).numbers
    return {**question, "cut": cut, "mode": study.result.get("mode", "scale")}


def _ask(question: dict[str, Any]) -> None:
    panels.forget(question)
    st.session_state["answers-asked"] = question
