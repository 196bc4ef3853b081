"""*Picture*: what does a trigger change in one picture, and what as the units that it moves are cut?

A test picture or one's own stands beside the same with a trigger: what is answered, which pixels speak, and which units
change most. Those are cut one after the other, next to the ones that the present score suspects most. What a person
draws is the person's own, so a defender may see what it does; the suspect's own is offered where it may be seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st

from app import any_trigger, data, own_picture, panels, picture_figures, pictures, state
from app.linked import by_score, rank
from app.live import live, overtaken
from app.palette import percent, units
from app.panels import Frame, Picture
from app.picture_row import row_question, tests_of
from app.scoring import scored
from engine.explain.methods import ANSWER, METHODS, WHOLE
from engine.runs import ask

SIDE = 140  # five times the 28 pixels of a demo's picture
#: Classes that are listed, and units that are cut in an order.
MOST, STEPS = 4, 30
_ORDERS = ("changed", "score")


def render() -> None:
    frame = panels.frame(compare=True, steps=True)
    if frame is None:
        return
    st.title("What does a trigger change in one picture?")
    panels.lead(
        "Put a trigger on a picture: the units that it moves most are candidates. Cut them one after the other and "
        "watch the answer."
    )
    found = scored(frame, "Once its units are scored, one picture can be followed through cuts here.")
    if found is None:
        return
    _, study = found
    now = data.present(study, state.load().thr, state.load().edited)
    row = row_question(frame, min(state.load().picture, tests_of(frame) - 1))
    waits: list[dict[str, Any]] = [] if panels.answer_to(row, frame.seen).final else [row]
    base, _ = own_picture.section(frame)
    if "number" in base or base.get("picture"):
        waits += _looked_at(frame, study, now, base)
    else:
        panels.note("Hand in a picture to begin.")
    live(lambda: _waiting(frame, waits), frame, *waits)
    overtaken(frame, *waits)


def _waiting(frame: Frame, waits: Sequence[dict[str, Any]]) -> None:
    for question in waits:
        answer = panels.answer_to(question, frame.seen)
        if not answer.final:
            panels.waiting(answer, "asking the suspect")
            return


def _of(answer: ask.Answer) -> Any:
    """The part about the picture with the trigger, whichever it is; None where there is none or it may not be seen."""
    value = answer.value or {}
    return value.get("marked") or value.get("triggered")


def _looked_at(frame: Frame, study: data.Study, now: data.Present, base: dict[str, Any]) -> list[dict[str, Any]]:
    """Everything about the chosen picture; the questions whose answers it waits for."""
    question = {"kind": "twin", **base}
    twin = panels.answer_to(question, frame.seen)
    if twin.error:
        panels.failed(question, twin, "again-twin")
        return []
    if twin.value is None:
        return [question]
    marked = _of(twin)
    waits: list[dict[str, Any]] = []
    cutting = _cutting(frame, study, base, marked) if marked else None
    steps = None if cutting is None else panels.answer_to(cutting, frame.seen)
    step = _step(cutting)
    left, right = st.container(key="hero").columns([1.18, 1], gap="large")
    with left:
        _pictures(frame, twin.value, marked, steps, step, base["source"])
        if marked:
            waits += _attribution(frame, base, cutting, step, marked)
    with right:
        if marked:
            _units(frame, study, now, marked)
        elif base["source"] == "own":
            panels.heading("This suspect's trigger cannot be put on other pictures.", lines=1)
            panels.note("Its triggered test pictures are known, but not the rule that made them. Draw one instead.")
        else:
            panels.heading("Draw something on the grid: what changes is listed here.", lines=1)
            panels.note("A bright square in a corner is a good start.")
    if cutting is not None and steps is not None:
        _one_after_the_other(frame, study, cutting, steps, step, base["source"])
    return waits


# --- pictures and answers --------------------------------------------------------------------------------------------


def _names(source: str, step: int) -> tuple[str, str, str]:
    what = "your trigger" if source == "drawn" else "the trigger"
    return "Without", f"With {what}", f"And {units(step)} cut"


def _pictures(
    frame: Frame,
    value: Mapping[str, Any],
    marked: Mapping[str, Any] | None,
    steps: ask.Answer | None,
    step: int,
    source: str,
) -> None:
    classes, truth = frame.suspect.classes, value["truth"]
    names = _names(source, step)
    what = "your picture" if truth is None else f"test picture, {panels.article(classes[truth])}"
    without = value["without"]
    cards = [
        _card(names[0], "acc", without["png"], int(np.argmax(without["p"])), max(without["p"]), what, frame, truth)
    ]
    rows = [("p", without["p"])]
    if marked:
        p = marked["p"]
        cards.append(_card(names[1], "asr", marked["png"], int(np.argmax(p)), max(p), what, frame, truth))
        rows.append(("p", p))
        row = _at(steps, state_order(), step)
        if row is not None and step:
            said, sure = row
            cards.append(_card(names[2], "cut", marked["png"], said, sure, what, frame, truth))
        elif step:
            cards.append(Picture(names[2], None, f"{names[2]}: on its way.", SIDE, key="cut", why="on its way"))
    panels.pictures(cards, tight=True)
    highest = np.max([p for _, p in rows], axis=0)
    table = [
        (classes[int(c)], *(percent(float(p[c])) for _, p in rows))
        for c in np.argsort(-highest, kind="stable")[: min(MOST, len(classes))]
    ]
    panels.facts(("Answer", *names[: len(rows)]), table)


def _card(name: str, key: str, png: str, said: int, sure: float, what: str, frame: Frame, truth: int | None) -> Picture:
    classes = frame.suspect.classes
    wrong = truth is not None and said != truth
    why = "" if truth is None else "correct" if not wrong else f"wrong: {panels.article(classes[truth])}"
    alt = f"{name}: {what}, answered as {classes[said]} with {percent(float(sure))} confidence."
    src = pictures.png(pictures.opened(png), SIDE)
    return Picture(name, src, alt, SIDE, key, classes[said], float(sure), why, wrong)


def state_order() -> int:
    """Which order the stepper follows: 0, the most changed units; 1, the most suspicious ones."""
    return _ORDERS.index(st.session_state.get("step-order") or _ORDERS[0])


def _at(steps: ask.Answer | None, order: int, step: int) -> tuple[int, float] | None:
    """What the picture with the trigger is answered at a step, and how surely."""
    part = None if steps is None else _of(steps)
    if not part or order >= len(part):
        return None
    k = min(step, len(part[order]["said"]) - 1)
    return int(part[order]["said"][k]), float(part[order]["sure"][k])


# --- which pixels speak ----------------------------------------------------------------------------------------------


def _attribution(
    frame: Frame, base: dict[str, Any], cutting: dict[str, Any] | None, step: int, marked: Mapping[str, Any]
) -> list[dict[str, Any]]:
    method = st.selectbox(
        "Which pixels speak?", list(METHODS), index=None, format_func=METHODS.__getitem__,
        key="picture-method", placeholder="Choose an attribution",
        help="Computed by Captum for the chosen unit, or for the answer as that unit's layer sees it.",
    )  # fmt: skip
    if method is None:
        return []
    layers = data.studies(frame.suspect.name, frame.seen)[state.load().score].layers
    chosen = state.load().neuron
    k = None if chosen is None else data.index_of(layers, chosen)
    unit = int(marked["units"][0]) if k is None else k
    order = [] if cutting is None else list(cutting["orders"][state_order()])
    question = {
        "kind": "pixels", **base, "unit": unit, "method": method, "cut": order[:step], "mode": state.load().mode,
    }  # fmt: skip
    answer = panels.answer_to(question, frame.seen)
    if answer.error:
        panels.failed(question, answer, "again-pixels")
        return []
    part, name = _of(answer), data.id_of(layers, unit)
    maps = {
        "Without": (answer.value or {}).get("without"),
        _names(base["source"], step)[1]: part,
        **({_names(base["source"], step)[2]: part and part.get("cut")} if step else {}),
    }
    arrays = {key: np.asarray(found["pixels"], float) for key, found in maps.items() if found}
    reach = max((float(np.abs(a).max()) for a in arrays.values()), default=1.0) or 1.0
    what = METHODS[method] + ("" if method in WHOLE else f" ({name})")
    cards = []
    for key in maps:
        if key not in arrays:
            cards.append(Picture(key, None, f"{key}: on its way.", SIDE, why="on its way"))
            continue
        row, column = np.unravel_index(int(np.abs(arrays[key]).argmax()), arrays[key].shape)
        alt = (
            f"{what}, {key.lower()}: strongest at row {row + 1}, column {column + 1}, "
            f"the sum is {float(arrays[key].sum()):.3g}."
        )
        cards.append(Picture(key, pictures.png(pictures.diverging(arrays[key], reach, frame.theme), SIDE), alt, SIDE))
    panels.pictures(cards, tight=True)
    panels.note(
        f"Orange pixels speak for {'the answer' if method in ANSWER else name}, blue ones against it; one "
        f"scale for all. The unit is {name}{'' if k is not None else ', which changes most'}."
    )
    return [] if answer.final else [question]


# --- the units that change most --------------------------------------------------------------------------------------


def _units(frame: Frame, study: data.Study, now: data.Present, marked: Mapping[str, Any]) -> None:
    store = st.session_state
    numbers = [int(k) for k in marked["units"] if int(k) < len(study.values)]
    ids = [data.id_of(study.layers, k) for k in numbers]
    taken = int(now.cut[numbers].sum())
    panels.heading(f"The present cut takes {taken} of the {len(ids)} units that change most.", lines=1)
    columns = {
        "Unit": ids,
        "Change": np.asarray(marked["changes"][: len(ids)], np.float32),
        f"Rank by {study.label}": [rank(study.values, k) for k in numbers],
        "Cut": now.cut[numbers],
        "Without": np.asarray(marked["outputs"][0][: len(ids)], np.float32),
        "With": np.asarray(marked["outputs"][1][: len(ids)], np.float32),
    }
    # Another picture or trigger is another table: the old one's row would be reported as a choice made there.
    table = str(hash((tuple(ids), frame.suspect.name)))
    key = f"changed {table}"

    def picked() -> None:
        rows = ((store.get(key) or {}).get("selection") or {}).get("rows") or []
        if rows and int(rows[0]) < len(ids):
            state.select(ids[int(rows[0])], "find")

    st.dataframe(
        columns, hide_index=True, height=390, key=key, on_select=picked, selection_mode="single-row",
        column_config={
            "Unit": st.column_config.TextColumn(pinned=True),
            "Change": st.column_config.NumberColumn(format="%.1f", help="Of the unit's map, in spreads of its output."),
            "Without": st.column_config.NumberColumn(format="%.3f", help="Mean output without the trigger."),
            "With": st.column_config.NumberColumn(format="%.3f", help="Mean output with the trigger."),
        },
        alt=f"The {len(ids)} units whose map the trigger changes most, {ids[0]} first with "
        f"{float(marked['changes'][0]):.1f} spreads; the present cut takes {taken}.",
    )  # fmt: skip
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        unit = state.load().neuron
        words = "Click the mark before a row to select its unit everywhere."
        if unit is not None:
            where = f"{unit} is number {ids.index(unit) + 1} here" if unit in ids else f"{unit} is not among them"
            words = f"Selected: {where}."
        panels.note(words)
        st.page_link("views/neurons.py", label="See it on Neurons", icon=":material/grain:")
    panels.note("Change: how far the trigger moves the unit's map, in standard deviations over clean pictures.")


# --- one after the other ---------------------------------------------------------------------------------------------


def _cutting(frame: Frame, study: data.Study, base: dict[str, Any], marked: Mapping[str, Any]) -> dict[str, Any]:
    """Ask for both orders at once: the units that change most, and those that the score suspects most."""
    ranked = [int(k) for k in by_score(study.values) if np.isfinite(study.values[k])]
    orders = [list(marked["units"][:STEPS]), ranked[:STEPS]]
    del frame
    return {"kind": "steps", **base, "orders": orders, "mode": state.load().mode}


def _step(cutting: Mapping[str, Any] | None) -> int:
    if cutting is None:
        return 0
    return min(state.load().step, len(cutting["orders"][state_order()]))


def _one_after_the_other(
    frame: Frame, study: data.Study, cutting: dict[str, Any], steps: ask.Answer, step: int, source: str
) -> None:
    panels.over("Cut one after the other")
    if steps.error:
        panels.failed(cutting, steps, "again-steps")
        return
    names = ("units that change most", f"units that {study.label} ranks first")
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium", key="stepper"):
        st.segmented_control(
            "Step through the", list(_ORDERS), format_func=dict(zip(_ORDERS, names, strict=True)).__getitem__,
            default=_ORDERS[0], required=True, key="step-order",
        )  # fmt: skip
        most = len(cutting["orders"][state_order()])
        st.slider(
            "Units cut", 0, max(1, most), key=state.shows("step-slider", step), width="stretch",
            on_change=lambda: state.change(step=int(state.shown("step-slider"))),
        )  # fmt: skip
        st.number_input(
            "Number of units", 0, max(1, most), key=state.shows("step-number", step), width=130,
            on_change=lambda: state.change(step=int(state.shown("step-number"))),
        )  # fmt: skip
    part = _of(steps)
    if not part or steps.value is None:
        with st.container(height=380, border=False):
            live(lambda: _waiting(frame, [cutting]), frame, cutting)
        overtaken(frame, cutting)
        return
    orders = [
        (name, [data.id_of(study.layers, k) for k in order])
        for name, order in zip(names, cutting["orders"], strict=True)
    ]
    drawn = picture_figures.one_after_the_other(
        orders, part, frame.suspect.classes, int(steps.value["truth"]), step, any_trigger.NAMES[source], frame.theme
    )
    panels.chart(drawn, "steps", lines=1)
    alone = steps.value["without"][state_order()]
    k = min(step, len(alone["said"]) - 1)
    panels.note(
        f"The picture without the trigger is then called {frame.suspect.classes[alone['said'][k]]}, with "
        f"{percent(float(alone['sure'][k]))} confidence. Each step cuts one more unit in mode {state.load().mode}; a "
        "link brings back picture, unit and step."
    )


render()
state.write()
