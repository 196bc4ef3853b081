"""*Layers*: where in the network does the backdoor appear?

Every unit stands at its score in the row of its layer, with the present threshold. The chosen layer shows what it puts
out on average on clean and on triggered pictures, and the pictures are placed by what the network makes of them, before
and after the present cut. In the Defender view nothing on the page needs the trigger.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import data, layer_figures, panels, projecting, state
from app.layer_card import layer_card
from app.palette import number, units
from app.panels import Frame
from app.scoring import score_choice, scored


def render() -> None:
    frame = panels.frame(compare=True, steps=True)
    if frame is None:
        return
    st.title("Where in the network does the backdoor appear?")
    panels.lead("From the first layer at the top to the last: how suspicious its units are, and what the cut takes.")
    found = scored(frame, "Once its units are scored, its layers can be compared here.")
    if found is None:
        return
    studies, study = found
    now = data.present(study, state.load().thr, state.load().edited)
    layer = _chosen(study, now)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium", key="controls"):
        score_choice(studies, study, "Score")
        names = [str(row["name"]) for row in study.layers]
        st.selectbox(
            "Layer", names, key=state.shows("layer-choice", layer), width=240,
            help="In the order of the network. A click in the figure chooses one, too.",
            on_change=lambda: state.change(layer=state.shown("layer-choice")),
        )  # fmt: skip
    left, right = st.container(key="hero").columns([1.12, 1], gap="medium")
    with left:
        _strips(frame, study, now, layer)
    with right:
        layer_card(frame, studies, study, now, layer, state.load().mode)
    projecting.section(frame, now, layer)


def _chosen(study: data.Study, now: data.Present) -> str:
    """The chosen layer; until a person chooses one, that which the cut takes most from."""
    chosen = state.load().layer
    if chosen is not None and layer_figures.place_of(study.layers, chosen) is None:
        st.warning(f"This network has no layer {chosen}; another one is shown.", icon=":material/help:")
        chosen = None
    return chosen or layer_figures.default_layer(study, now)


def _strips(frame: Frame, study: data.Study, now: data.Present, layer: str) -> None:
    key = f"strips-{study.run_id}"

    def picked() -> None:
        event: Any = st.session_state.get(key) or {}
        points = (event.get("selection") or {}).get("points") or []
        name = layer_figures.layer_of(points[0].get("customdata")) if points else ""
        if layer_figures.place_of(study.layers, name) is not None:
            state.change(layer=name)

    panels.chart(layer_figures.strips(study, now, layer, frame.theme), key, on_select=picked, lines=1)
    cut = "No threshold is set" if now.threshold is None else f"The line is the threshold, {number(now.threshold)}"
    by_hand = f", {len(now.edits)} by hand" if now.edits else ""
    crosses = " (crosses)" * bool(now.pruned)
    panels.note(
        f"{cut}; {units(now.pruned)} cut{by_hand}{crosses}. Prune is where the cut is chosen. Click a row to choose "
        "its layer."
    )


render()
state.write()
