"""*Neurons*: which neurons carry the backdoor, and what do they respond to?

The grid shows every unit of the suspect, coloured by one score. Beside it each unit is a point, its mean output on
clean against triggered pictures, and the card of the chosen unit says what is known of it. Below, two scores stand
against each other, and a table ranks all units. A unit chosen in any of them, or by its id in the grid's find box, is
chosen in all of them, and the address keeps it. In the Defender view nothing on the page needs the trigger.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import streamlit as st

from app import data, linked, neuron_figures, panels, state, unit_card, what_if
from app.grid import GridEvent, neuron_grid
from app.palette import count, number, units
from app.panels import Frame
from app.scoring import score_choice, scored


def render() -> None:
    frame = panels.frame(compare=True, steps=True)
    if frame is None:
        return
    st.title("Which neurons carry the backdoor, and what do they respond to?")
    panels.lead("Each square is a unit, coloured by its score: how suspicious it is of carrying the backdoor.")
    found = scored(frame, "Once its units are scored, each of them can be looked at here.")
    if found is None:
        return
    studies, study = found
    now = data.present(study, state.load().thr, state.load().edited)
    k = _chosen(study)
    questions = unit_card.ask_ahead(frame, studies, k)
    linked.settle()
    _controls(studies, study)
    left, right = st.container(key="hero").columns([1.13, 1], gap="small")
    with left:
        panels.heading(neuron_figures.where(study.values, study.layers, study.label))
        _grid(study, now, k)
        linked.two_scores(frame, studies, study)
    with right:
        _scatter(frame, study)
        unit_card.unit_card(frame, studies, study, now, k)
    what_if.answers_of_group(frame, study)
    linked.ranking(studies, study, now, k)
    linked.follow(frame, questions)
    if st.session_state.pop("grid-let-go", False):
        st.rerun()


def _chosen(study: data.Study) -> int:
    """The number of the chosen unit: the one with the highest score until a person chooses another."""
    chosen = state.load().neuron
    k = None if chosen is None else data.index_of(study.layers, chosen)
    if k is None:
        if chosen is not None:
            known = f"This network has no unit {chosen}"
            st.warning(f"{known}; the one with the highest score is shown.", icon=":material/help:")
        k = int(np.argmax(np.where(np.isfinite(study.values), study.values, -np.inf)))
        state.select(data.id_of(study.layers, k), "url")
    return k


# --- controls --------------------------------------------------------------------------------------------------------


def _controls(studies: Mapping[str, data.Study], study: data.Study) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium", key="controls"):
        score_choice(studies, study, "Coloured by")
        st.toggle(
            "Strike out the cut",
            key="strike",
            help="Hatches the units that the present threshold and hand edits cut; Prune is where they are chosen.",
        )


# --- grid and scatter ------------------------------------------------------------------------------------------------


def _grid(study: data.Study, now: data.Present, k: int) -> None:
    def changed(event: GridEvent) -> None:
        if event.origin == "group" or (event.origin == "select" and event.selected is not None):
            state.select(event.selected or unit, "grid", event.group)
        elif event.origin == "select":
            # A second click lets go, but the card always has a unit: the grid is given it anew.
            st.session_state["grid-let-go"] = True
        elif event.origin == "edit":
            state.recut(state.load().thr, event.edits)

    strike, let_go = bool(st.session_state.get("strike")), st.session_state.get("grid-let-go", False)
    unit = data.id_of(study.layers, k)
    alt = (
        f"{study.label} scores of {count(len(study.values))} units in {len(study.layers)} layers. "
        f"{neuron_figures.where(study.values, study.layers, study.label)} "
        f"Selected: {unit}, score {number(float(study.values[k]))}."
    )
    if strike:
        alt += f" {units(now.pruned)} cut."
    neuron_grid(
        study.values,
        study.layers,
        threshold=now.threshold if strike else None,
        edits=now.edits,
        selected=None if let_go else unit,
        group=state.selected(),
        score_label=study.meaning,
        show_histogram=False,
        show_threshold=False,
        height=960,
        key=f"units {state.load().run} {study.score}",
        alt=alt,
        on_change=changed,
    )


def _scatter(frame: Frame, study: data.Study) -> None:
    measured = _activations(frame, study)
    if measured is None:
        return
    clean, triggered = measured
    with st.container(gap="xxsmall"):
        linked.chart(
            "scatter",
            (frame.suspect.name, study.run_id, frame.seen, frame.theme.name),
            study,
            lambda ring, group: neuron_figures.scatter(
                clean, triggered, study.values, study.layers, frame.theme, meaning=study.meaning, ring=ring, group=group
            ),
        )
        if frame.seen:
            panels.note("Click a point to see its unit; the lasso in the chart's toolbar takes several.")
        else:
            panels.locked(f"The output on triggered pictures is hidden. {panels.WHY_LOCKED}")
    linked.several(study)
    what_if.of_group(frame, study)


def _activations(frame: Frame, study: data.Study) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Mean outputs on clean and on triggered pictures: the study's, else asked of the worker (None: on its way)."""
    if study.clean is not None:
        return study.clean, study.triggered
    question = {"kind": "activations", "suspect": frame.suspect.name}
    answer = panels.answer_to(question, frame.seen)
    if answer.value is not None:
        triggered = answer.value.get("triggered")
        return np.array(answer.value["clean"]), None if triggered is None else np.array(triggered)

    def wait() -> None:
        found = panels.answer_to(question, frame.seen)
        if found.error:
            st.error(f"{found.error}. Reload the page to ask again.", icon=":material/error:")
            return
        with st.container(height=360, border=False):
            panels.waiting(found, "measuring what the units put out")
        if found.final:
            st.rerun()

    st.fragment(wait, run_every=None if answer.final else panels.pace())()
    return None


render()
state.write()
