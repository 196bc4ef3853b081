"""*Neurons*: which neurons carry the backdoor, and what do they respond to?

The grid shows every unit of the suspect, coloured by one score; beside it stands the card of the chosen unit (its place under
each score, its feature map, what it puts out for clean and triggered pictures, one attribution). Below the grid, each unit is
a point: its mean output for clean against triggered pictures. A unit chosen in the grid, in the scatter or by its id in the
find box is chosen in all of them, and the address keeps it. In Defender view nothing that needs the trigger is on the page.

(The card moves to ``app/unit_card.py``.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import streamlit as st

from app import data, figures, panels, pictures, state
from app.grid import GridEvent, neuron_grid
from app.palette import count, number
from app.panels import Frame, Picture
from engine.runs import ask

SIDE = 112  # four times the 28 pixels of a picture
POLL = 0.35


def render() -> None:
    frame = panels.frame()
    if frame is None:
        return
    st.title("Which neurons carry the backdoor, and what do they respond to?")
    try:
        studies = data.studies(frame.suspect.name, frame.seen)
    except ValueError as error:
        panels.refuse(error, "Score this model again, or get a fresh copy of the demos.")
        return
    if not studies:
        panels.lead("This suspect has no scores yet. Score it on the Prune page, and its units appear here.")
        st.page_link("views/prune.py", label="Open Prune", icon=":material/arrow_forward:", query_params=_link(frame))
        return
    if frame.address.score not in studies:
        state.choose_score(next(iter(studies)))
    study = studies[state.load().score]
    chosen = state.load().neuron
    if chosen is None or data.index_of(study.layers, chosen) is None:
        if chosen is not None:
            st.warning(
                f"This network has no unit {chosen!r}; the most suspicious one is shown.", icon=":material/help:"
            )
        top = int(np.nanargmax(study.values))
        state.select(data.id_of(study.layers, top), "url")
    unit = state.load().neuron
    assert unit is not None
    _controls(studies, study)
    left, right = st.container(key="hero").columns([1.42, 1], gap="medium")
    with left:
        _grid(study, unit)
        _scatter(frame, study, unit)
    with right:
        _card(frame, studies, study, unit)


def _link(frame: Frame) -> dict[str, str]:
    return {"run": frame.suspect.name} | ({"role": frame.address.role} if frame.address.role else {})


# --- controls --------------------------------------------------------------------------------------------------------


def _controls(studies: Mapping[str, data.Study], study: data.Study) -> None:
    store = st.session_state

    def find() -> None:
        text = (store.get("find") or "").strip()
        if not text:
            return
        try:
            state.select(data.find_unit(study.layers, text), "find")
        except ValueError as error:
            store["find-error"] = str(error)

    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium", key="controls"):
        store["score-choice"] = study.score
        st.segmented_control(
            "Coloured by",
            list(studies),
            format_func=lambda name: studies[name].label + (" \u25c7" if studies[name].oracle else ""),
            key="score-choice",
            required=True,
            help="Higher is more suspicious. \u25c7 oracle: this score used the trigger.",
            on_change=lambda: state.choose_score(store["score-choice"]),
        )
        st.space("stretch")
        st.text_input(
            "Find a unit", key="find", placeholder=f"{study.layers[-1]['name']}:87", width=230,
            icon=":material/search:", help="An id, or a number among all units; press Enter.", on_change=find,
        )  # fmt: skip
    if error := store.pop("find-error", None):
        panels.refuse(ValueError(error), "Hover over the grid to read ids.")


# --- grid and scatter ------------------------------------------------------------------------------------------------


def _grid(study: data.Study, unit: str) -> None:
    def changed(event: GridEvent) -> None:
        if event.origin == "select" and event.selected is not None:
            state.select(event.selected, "grid")
        elif event.origin == "edit":
            state.recut(state.load().thr, event.edits)

    edits = data.present(study, None, state.load().edited).edits
    k = data.index_of(study.layers, unit) or 0
    neuron_grid(
        study.values,
        study.layers,
        threshold=None,  # nothing is struck out here: the colours are the point
        edits=edits,
        selected=unit,
        score_label=study.meaning,
        show_histogram=False,
        show_threshold=False,
        height=900,
        key=f"units {state.load().run} {study.score}",
        alt=(
            f"{study.label} scores of {count(len(study.values))} units in {len(study.layers)} layers. Selected: "
            f"{unit}, score {number(float(study.values[k]))}."
        ),
        on_change=changed,
    )


def _scatter(frame: Frame, study: data.Study, unit: str) -> None:
    del unit  # what is marked is the state's ring: a selection made here is marked by Plotly itself
    if study.clean is None:
        panels.note("This study measured no activations; sweep the suspect again to get the scatter plot.")
        return
    common: dict[str, Any] = {
        "colour": study.values,
        "colour_label": study.meaning,
        "ring": state.ring(),
        "height": 380,
    }
    if study.triggered is not None:
        drawn = figures.scatter(study.clean, study.triggered, study.layers, frame.theme, kind="triggered", **common)
    else:
        drawn = figures.scatter(study.clean, study.values, study.layers, frame.theme, kind="score", **common)
    panels.chart(drawn, "scatter", on_select=_picked)
    if not frame.seen:
        st.html(
            '<p class="um-note"><span class="um-lock"></span>'
            f"{panels.esc('The triggered side is hidden. ' + panels.WHY_LOCKED)}</p>"
        )


def _picked() -> None:
    event = st.session_state.get("scatter") or {}
    points = (event.get("selection") or {}).get("points") or []
    ids = [point.get("customdata") for point in points]
    ids = [one[0] if isinstance(one, list) and one else one for one in ids]
    if ids and isinstance(ids[0], str):
        state.select(ids[0], "scatter")


# --- the card of one unit --------------------------------------------------------------------------------------------


def _card(frame: Frame, studies: Mapping[str, data.Study], study: data.Study, unit: str) -> None:
    number_of = data.index_of(study.layers, unit)
    assert number_of is not None
    layer = unit.rpartition(":")[0]
    with st.container(border=True, key="card"):
        st.html(
            f'<p class="um-unit" role="heading" aria-level="2">{panels.esc(unit)}</p>'
            f'<p class="um-note">Unit {number_of:,} of {len(study.values):,}, in layer {panels.esc(layer)}.</p>'
        )
        _ranks(studies, number_of)
        _pictures(frame, unit, number_of)
        _attribution(frame, unit, number_of)


def _ranks(studies: Mapping[str, data.Study], k: int) -> None:
    rows = []
    for one in studies.values():
        value = float(one.values[k])
        mark = " \u25c7 oracle" if one.oracle else ""
        if not np.isfinite(value):
            rows.append((f"{one.label}{mark}", "not eligible", ""))
            continue
        rank = int((one.values > value).sum()) + 1
        ties = int((one.values == value).sum())
        shared = f" (with {ties - 1:,} more)" if ties > 1 else ""
        rows.append((f"{one.label}{mark}", number(value), f"{rank:,}{shared}"))
    panels.facts(("Score", "Value", "Rank"), rows)


def _turn(to: int) -> None:
    state.go(picture=max(0, to))


def _pictures(frame: Frame, unit: str, k: int) -> None:
    store = st.session_state
    at = state.load().picture
    total = int((frame.suspect.result.get("n") or {}).get("acc") or 10_000)
    at = min(at, total - 1)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        store["picture-choice"] = at
        st.number_input(
            "Test picture", 0, total - 1, key="picture-choice", width=150,
            help="Any picture of the test set.", on_change=lambda: state.change(picture=int(store["picture-choice"])),
        )  # fmt: skip
        st.button("Another", icon=":material/shuffle:", key="shuffle", on_click=_turn, args=((at * 31 + 17) % total,))
    mode = state.load().mode
    shown = {"kind": "pictures", "suspect": frame.suspect.name, "numbers": [at], "cut": [], "mode": mode}
    inside = {
        "kind": "unit", "suspect": frame.suspect.name, "unit": k, "number": at, "cut": [], "mode": mode,
        "triggered": frame.seen,
    }  # fmt: skip
    busy = not all(panels.answer_to(q, frame.seen).final for q in (shown, inside))

    def draw() -> None:
        seen, found = panels.answer_to(shown, frame.seen), panels.answer_to(inside, frame.seen)
        for question, answer in ((shown, seen), (inside, found)):
            if answer.error:
                panels.failed(question, answer, f"again-{question['kind']}")
                break
        else:
            _rows(frame, seen, found)
        if found.state == "exact" and found.value is not None:
            panels.chart(figures.outputs(found.value["hist"], unit, frame.theme), "outputs", lines=2)
        if busy == (seen.final and found.final):
            st.rerun()

    st.fragment(draw, run_every=POLL if busy else None)()
    if not frame.seen:
        panels.note(f"The triggered side is hidden. {panels.WHY_LOCKED}")


def _rows(frame: Frame, seen: ask.Answer, found: ask.Answer) -> None:
    classes = frame.suspect.classes
    cards: list[Picture] = []
    if seen.value is not None:
        item = seen.value["items"][0]
        for key, name in (("clean", "Clean"), ("triggered", "With the trigger")):
            if not item.get(key):
                cards.append(_absent(frame, name))
                continue
            cards.append(
                panels.answered(
                    name, pictures.png(pictures.opened(item[key]), SIDE), item[f"p_{key}"], item["truth"], classes,
                    side=SIDE, key="acc" if key == "clean" else "asr",
                )
            )  # fmt: skip
    else:
        cards += [_pending("Clean"), _pending("With the trigger")]
    panels.pictures(cards, tight=True)
    maps: list[Picture] = []
    if found.value is not None:
        clean, stamped = found.value["map_clean"], found.value.get("map_triggered")
        low, high = pictures.common_range(clean, stamped)
        for name, values in (("Its map, clean", clean), ("Its map, triggered", stamped)):
            if values is None:
                maps.append(_absent(frame, name))
            else:
                maps.append(_map(frame, name, np.asarray(values, float), low, high))
        panels.pictures(maps, tight=True)
        panels.note(f"Feature maps from {number(low)} (paper) to {number(high)} (ink), the same scale for both.")
    else:
        panels.pictures([_pending("Its map, clean"), _pending("Its map, triggered")], tight=True)
        panels.waiting(found, "looking at the unit")


def _map(frame: Frame, name: str, values: np.ndarray, low: float, high: float) -> Picture:
    side = _whole(values.shape[0])
    return Picture(
        name,
        pictures.png(pictures.sequential(values, low, high, frame.theme), side),
        f"{name}: {values.shape[0]} by {values.shape[1]} values, mean {number(float(values.mean()))}, largest "
        f"{number(float(values.max()))}.",
        side,
        why=f"mean {number(float(values.mean()))}, largest {number(float(values.max()))}",
    )


def _whole(size: int) -> int:
    """The largest whole multiple of a map's side that fits beside another."""
    return max(1, SIDE // size) * size


def _absent(frame: Frame, name: str) -> Picture:
    if frame.seen:
        return Picture(
            name, None, f"{name}: this model has no trigger.", SIDE, key="asr", why="This model has no trigger."
        )
    return panels.locked_picture(name, SIDE, "Shown after you commit.")


def _pending(name: str) -> Picture:
    return Picture(name, None, f"{name}: being computed.", SIDE, why="on its way")


# --- attribution -----------------------------------------------------------------------------------------------------


def _attribution(frame: Frame, unit: str, k: int) -> None:
    store = st.session_state
    panels.heading("Which pixels drive it?", lines=1)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        method = st.selectbox(
            "Method", list(ask.ATTRIBUTIONS), format_func=ask.ATTRIBUTIONS.__getitem__, key="method",
            label_visibility="collapsed",
        )  # fmt: skip
        question = {
            "kind": "attribution", "suspect": frame.suspect.name, "unit": k, "number": state.load().picture,
            "method": method, "cut": [], "mode": state.load().mode, "triggered": frame.seen,
        }  # fmt: skip
        known = panels.kept(question, frame.seen)
        if known is None and store.get("attribution-asked") == question:
            known = panels.answer_to(question, frame.seen)
        st.button(
            "Attribute", key="attribute", icon=":material/center_focus_weak:",
            disabled=known is not None and known.error is None,
            help="Computed with Captum on the picture above, clean and triggered.",
            on_click=_ask_attribution, args=(question,),
        )  # fmt: skip
    if known is None:
        panels.note(f"Press Attribute to see which pixels of this picture raise {unit}.")
        return
    busy = not known.final

    def draw() -> None:
        answer = panels.answer_to(question, frame.seen)
        if answer.error:
            panels.failed(question, answer, "again-attribution")
        elif answer.value is None:
            panels.pictures([_pending("Clean"), _pending("With the trigger")], tight=True)
            panels.waiting(answer, "attributing")
        else:
            _attributed(frame, answer.value)
        if busy == answer.final:
            st.rerun()

    st.fragment(draw, run_every=POLL if busy else None)()


def _ask_attribution(question: dict[str, Any]) -> None:
    panels.forget(question)
    st.session_state["attribution-asked"] = question


def _attributed(frame: Frame, value: Mapping[str, Any]) -> None:
    clean, stamped = value["clean"], value.get("triggered")
    reach = max(float(np.abs(np.asarray(m, float)).max()) for m in (clean, stamped) if m is not None)
    cards = []
    for name, values in (("Clean", clean), ("With the trigger", stamped)):
        if values is None:
            cards.append(_absent(frame, name))
            continue
        array = np.asarray(values, float)
        array = array.mean(0) if array.ndim == 3 else array
        y, x = np.unravel_index(int(np.abs(array).argmax()), array.shape)
        side = _whole(array.shape[0])
        cards.append(
            Picture(
                name,
                pictures.png(pictures.diverging(array, reach, frame.theme), side),
                f"{value['title']}, {name.lower()}: strongest at row {y + 1}, column {x + 1}.",
                side,
                why=f"strongest at row {y + 1}, column {x + 1}",
            )
        )
    panels.pictures(cards, tight=True)
    panels.note("Orange pixels raise the unit, blue ones lower it; the same scale for both.")


render()
state.write()
