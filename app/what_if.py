"""What if some units were cut, whatever the threshold: ACC, ASR and RA without them, an estimate and then exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import streamlit as st

from app import confusions, data, panels, readings, state
from app.live import live
from app.palette import MEASURES, NAME, count, percent, points, units
from app.panels import Frame
from app.readings import Chip


def of_group(frame: Frame, study: data.Study) -> None:
    """The figures without the units that are chosen together, and whether to count their answers."""
    cut = _group(study)
    if len(cut) < 2:
        return
    question = {"kind": "what_if", "suspect": frame.suspect.name, "cut": cut, "mode": state.load().mode}

    def draw() -> None:
        answer = panels.answer_to(question, frame.seen)
        if answer.error:
            panels.failed(question, answer, "again-what-if")
            return
        with st.container(key="what-if", gap="small"):
            if answer.value is not None:
                effect(frame, answer.value, f"Cutting these {units(len(cut))}", answer.state)
            if not answer.final:
                # How many pictures there are would tell a defender whether there is a trigger at all.
                panels.waiting(answer if frame.seen else replace(answer, what="cutting them"), "cutting them")

    live(draw, frame, question)
    st.toggle(
        "Which answers would change?", key="what-if-answers",
        help="Counts every answer without these units; the matrices stand below the grid.",
    )  # fmt: skip


def answers_of_group(frame: Frame, study: data.Study) -> None:
    """The confusion matrices without those units, if they are asked for."""
    cut = _group(study)
    if len(cut) < 2 or not st.session_state.get("what-if-answers"):
        return
    panels.over("Answers without the chosen units")
    confusions.section(frame, confusions.question(frame, cut, state.load().mode), f"Without these {units(len(cut))}")


def _group(study: data.Study) -> list[int]:
    found = (data.index_of(study.layers, unit) for unit in state.selected())
    return sorted(k for k in found if k is not None)


def effect(frame: Frame, value: Mapping[str, Any], what: str, known: str = "exact") -> None:
    """What a cut changes, as a sentence and a small table; ``known`` as the worker's answer says."""
    found = readings.from_check(value, frame.suspect.result, cast(Chip, known))
    rows, said = [], []
    for m in MEASURES if frame.seen else MEASURES[:1]:
        reading, n = found[m], (value.get(m) or {}).get("n")
        if reading.value is None or n is None:
            continue
        change = "\u2013" if reading.change is None else points(reading.change)
        interval = f"{100 * (reading.low or 0):.1f}\u2013{percent(reading.high)}"
        rows.append((NAME[m], percent(reading.value), interval, change, count(int(n))))
        said.append(f"{NAME[m]} {change} points")
    panels.heading(f"{what}: {', '.join(said)}.", lines=1)
    panels.facts(("", "Without", "95\u202f% interval", "Points", "Pictures"), rows)
    drop = value.get("drop")
    if drop is not None:
        panels.note(
            f"{'Exact' if known == 'exact' else 'An estimate'}, against the uncut suspect. 95\u202f% interval of the "
            f"change in ACC: {points(-drop['high'])} to {points(-drop['low'])} points, paired."
        )
