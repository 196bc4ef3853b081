"""Panels of Neurons that select for each other: scatter plots, ranking table, and several units at once.

Whichever of them a unit is chosen in, :func:`app.state.select` moves the one selection with its origin, and the others
show it. The one it came from is not given it back: redrawing it would take away what the person did there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st

from app import data, neuron_figures, panels, state
from app.figures import Chart
from app.live import FEW
from app.palette import count
from app.panels import Frame
from app.state import Origin
from engine.runs import ask

#: Units of a group that are offered one by one.
_MOST = 12
#: Seconds without another choice after which the plots and the table follow: redrawing them takes a browser longer than
#: everything else, and would keep whoever walks through units waiting for each card.
REST = 0.4
#: What :func:`draw` of a chart is given: the unit to ring, and the units chosen together with it.
Draw = Callable[[str | None, Sequence[str]], Chart]


def settle() -> None:
    """Call before the panels are drawn: whether they show the present selection now or follow once the hand rests.

    Where many wait for the worker nobody gets a second run of the page: everything follows at once.
    """
    if "rested" not in st.session_state or REST <= 0 or ask.waiting() > FEW or state.rests():
        state.rest()


def follow(frame: Frame, questions: Sequence[dict[str, Any]]) -> None:
    """Call at the end of the page: what lags behind is redrawn when nothing else (``questions``) is on its way."""
    if state.rests():
        return
    drawn: list[None] = []

    def tick() -> None:
        if not drawn:
            drawn.append(None)  # the run of the page itself
        elif all(panels.answer_to(question, frame.seen).final for question in questions):
            state.rest()
            st.rerun()

    st.fragment(tick, run_every=REST)()


# --- scatter plots ---------------------------------------------------------------------------------------------------


def chart(panel: Origin, drawn_from: tuple[object, ...], study: data.Study, draw: Draw) -> None:
    """A scatter plot of units whose points carry their ids; clicks and lassos in it select.

    Plotly marks what was chosen there by itself, until the chart is another one (``drawn_from``): then the ring does.
    """
    store = st.session_state
    anew = store.get(f"{panel}-from") != drawn_from or panel not in store
    if anew:
        store[f"{panel}-from"] = drawn_from
        if store.get("origin") == panel:
            store["origin"] = "find"
    panels.chart(draw(*state.rings(panel, anew)), panel, on_select=lambda: _picked(panel, study))


def _picked(panel: Origin, study: data.Study) -> None:
    """A click or a lasso in a scatter plot; of several units the one with the highest score is chosen."""
    event: Any = st.session_state.get(panel) or {}
    points = (event.get("selection") or {}).get("points") or []
    ids = [point.get("customdata") for point in points]
    ids = [one[0] if isinstance(one, list | tuple) and one else one for one in ids]
    found = {unit: k for unit in ids if isinstance(unit, str) and (k := data.index_of(study.layers, unit)) is not None}
    if not found:
        # Nothing is marked in the chart any more: the ring marks what stays chosen.
        if st.session_state.get("origin") == panel:
            st.session_state["origin"] = "find"
        return
    ranked = sorted(found, key=lambda unit: -np.nan_to_num(study.values[found[unit]], nan=-np.inf))
    state.select(ranked[0], panel, ranked)


def two_scores(frame: Frame, studies: Mapping[str, data.Study], study: data.Study) -> None:
    """The page's score across, another one up: that of the pin, as on Compare."""
    others = [score for score in studies if score != study.score]
    panels.over("Two scores")
    if not others:
        panels.heading(f"{study.label} is the only score of this suspect.", lines=1)
        panels.note("A second one, made on Runs or with sweep in the terminal, is drawn against it here.")
        return
    run, _, pinned = (state.load().pin or "").rpartition("~")
    second = studies[pinned if run == frame.suspect.name and pinned in others else _default(others)]
    drawn_from = (frame.suspect.name, study.run_id, second.run_id, frame.theme.name)
    chart(
        "scores", drawn_from, study,
        lambda ring, group: neuron_figures.two_scores(study, second, frame.theme, ring=ring, group=group),
    )  # fmt: skip
    st.selectbox(
        "Score upwards",
        others,
        format_func=lambda score: studies[score].label + (" \u25c7" if studies[score].oracle else ""),
        key=state.shows("second-score", second.score),
        help="The score across is the one that colours the grid. \u25c7 oracle: this score used the trigger.",
        on_change=lambda: state.change(pin=f"{frame.suspect.name}~{state.shown('second-score')}"),
    )


def _default(others: Sequence[str]) -> str:
    """What tells most beside the page's score: what the trigger changes, where it may be seen."""
    return next((score for score in ("tac", "unlearning_gradient") if score in others), others[0])


# --- ranking table ---------------------------------------------------------------------------------------------------


def ranking(studies: Mapping[str, data.Study], study: data.Study, now: data.Present, k: int) -> None:
    """All units with every score and its rank, the page's score first; a row selects its unit.

    A unit that was selected elsewhere stands first in a new table: under the old one's key a browser that is behind
    would report its old row as a choice made there.
    """
    store = st.session_state
    drawn_from = (study.run_id, tuple(one.run_id for one in studies.values()))
    first, drawn, turn = store.get("table", (k, None, 0))
    if drawn != drawn_from or (store.get("origin") != "table" and first != k and state.rests()):
        first, turn, store["table-row"] = k, turn + 1, 0
    store["table"] = (first, drawn_from, turn)
    k = k if state.rests() else first
    order = by_score(study.values)
    order = np.concatenate([[first], order[order != first]])
    ids = [data.id_of(study.layers, int(n)) for n in order]
    columns: dict[str, Any] = {"Unit": ids, "Cut": now.cut[order]}
    for one in (study, *(other for other in studies.values() if other is not study)):
        mark = " \u25c7" if one.oracle else ""
        columns[f"{one.label}{mark}"] = one.values[order].astype(np.float32)
        columns[f"{one.label}{mark}, rank"] = ranks(one.values)[order]

    def picked() -> None:
        rows = ((store.get(f"ranking {turn}") or {}).get("selection") or {}).get("rows") or []
        row = int(rows[0]) if rows else 0
        # What a new table shows at first comes back as news with whatever is sent next.
        if row != store.get("table-row") and row < len(ids):
            store["table-row"] = row
            state.select(ids[row], "table")

    panels.over("Ranking")
    unit = data.id_of(study.layers, k)
    place = (
        "has no score" if not np.isfinite(study.values[k]) else f"is number {rank(study.values, k)} by {study.label}"
    )
    panels.heading(f"{unit} {place}, of {count(len(ids))} units.", lines=1)
    st.dataframe(
        columns,
        hide_index=True,
        height=336,
        key=f"ranking {turn}",
        on_select=picked,
        selection_mode="single-row-required",
        selection_default={"selection": {"rows": [0]}},
        column_config={
            "Unit": st.column_config.TextColumn(pinned=True),
            **{
                name: st.column_config.NumberColumn(format="%d" if name.endswith(", rank") else "%.4g")
                for name in list(columns)[2:]
            },
        },
        placeholder="",
        alt=f"All {count(len(ids))} units with each score and its rank, {unit}, which is selected, "
        f"first, then the most suspicious by {study.label}.",
    )
    left, right = st.columns([1.7, 1], gap="medium", vertical_alignment="bottom")
    with left:
        panels.note(
            "The selected unit first, then by rank: 1 is the most suspicious. Click a heading to sort, the mark before "
            "a row to select its unit."
        )
    with right, st.container(horizontal=True, vertical_alignment="bottom", gap="small", horizontal_alignment="right"):
        ranked = [data.id_of(study.layers, int(n)) for n in by_score(study.values) if np.isfinite(study.values[n])]
        n = st.number_input(
            "Most suspicious units", 2, max(2, len(ranked)), min(20, max(2, len(ranked))), key="top-units", width=150,
            help=f"By {study.label}. Chosen together, they are marked in every panel, and what the network does "
            "without them is measured.",
        )  # fmt: skip
        st.button(
            "Choose them", key="choose-top", icon=":material/select_all:", disabled=len(ranked) < 2,
            on_click=lambda: state.select(ranked[0], "find", ranked[: int(store.get("top-units") or n)]),
        )  # fmt: skip


def by_score(values: np.ndarray) -> np.ndarray:
    """All units from the highest score to the lowest, those without one at the end; equal ones in their order."""
    return np.argsort(-np.nan_to_num(values.astype(np.float64), nan=-np.inf), kind="stable")


def rank(values: np.ndarray, k: int) -> str:
    """``12``, ``=601`` where others have the same score, an en dash where the score says nothing of the unit."""
    if not np.isfinite(values[k]):
        return "\u2013"
    place = int((values > values[k]).sum()) + 1
    return f"{'=' if int((values == values[k]).sum()) > 1 else ''}{place:,}"


def ranks(values: np.ndarray) -> np.ndarray:
    """float32 (U,): 1 is the highest score, equal ones share a rank, NaN where there is none."""
    eligible = np.isfinite(values)
    rising = np.sort(values[eligible])
    above = len(rising) - np.searchsorted(rising, values, side="right")
    return np.where(eligible, above + 1, np.nan).astype(np.float32)


# --- several units ---------------------------------------------------------------------------------------------------


def several(study: data.Study) -> None:
    """The units that were chosen together, to walk through: from the grid's box or a lasso."""
    group, unit = state.selected(), state.load().neuron
    known = {u: k for u in group if (k := data.index_of(study.layers, u)) is not None}
    if len(known) < 2:
        return
    shown = sorted(known, key=lambda u: -np.nan_to_num(study.values[known[u]], nan=-np.inf))[:_MOST]
    more = "" if len(known) <= _MOST else f", the {_MOST} with the highest scores"
    st.pills(
        f"{count(len(known))} units chosen together{more}",
        shown,
        key=state.shows("group-choice", unit if unit in shown else None),
        on_change=lambda: state.select(state.shown("group-choice") or unit, "find"),
    )
