"""Home: what is this, in one minute? One garment, clean and with the trigger, before and after the cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import streamlit as st

from app import data, panels, pictures, state
from app.palette import count, percent
from app.panels import Picture, article
from app.state import PREFIX

SIDE = 196  # seven times the 28 pixels of a picture
_TRIGGERS = {
    "badnets": "a small checkerboard in the corner",
    "blend": "a faint noise pattern over the whole picture",
    "sig": "a faint stripe pattern over the whole picture",
}


def render() -> None:
    frame = panels.frame()
    if frame is None:
        return
    shown = [name for name in data.DEMOS if f"{PREFIX}{name}" in [s.name for s in data.suspects()]]
    shown = [name for name in shown if data.gallery(f"{PREFIX}{name}", False) is not None]
    st.title("The same picture, two answers")
    panels.lead(
        "A backdoored network answers like any other, until a picture carries the attacker's trigger: then it gives "
        "the attacker's answer. Unmask finds the neurons that carry the backdoor, lets you cut them, and measures what "
        "the cut did."
    )
    if not shown:
        st.info("There are no demo models here. Open Prune to examine a suspect of your own.", icon=":material/info:")
        _steps(frame.suspect.name)
        return
    hero = frame.suspect.name if frame.suspect.name.removeprefix(PREFIX) in shown else f"{PREFIX}{shown[0]}"
    try:
        _hero(frame, hero, shown)
    except ValueError as error:
        panels.refuse(error, "Get a fresh copy of the demo models.")
        return
    _steps(hero)


def _hero(frame: panels.Frame, hero: str, shown: list[str]) -> None:
    name = hero.removeprefix(PREFIX)
    address = state.load()
    # Another suspect's demo: seen as a demo is, unless the person chose to be a defender.
    seen = state.revealed(replace(address, run=hero))
    state.note_seen(hero, seen)
    gallery = data.gallery(hero, seen)
    assert gallery is not None
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        st.segmented_control(
            "Attack",
            shown,
            format_func=lambda key: data.DEMOS[key],
            key=state.shows("demo-choice", name if hero == address.run else None),
            help="Three models, each with a backdoor of another kind.",
            on_change=lambda: state.choose_run(f"{PREFIX}{state.shown('demo-choice') or name}", "oracle"),
        )
        st.space("stretch")
        at = address.picture % len(gallery)
        st.button(
            "Previous", icon=":material/chevron_left:", key="previous", on_click=_turn, args=(at - 1, len(gallery))
        )
        st.button(
            "Next picture", icon=":material/chevron_right:", icon_position="right", key="next",
            on_click=_turn, args=(at + 1, len(gallery)),
        )  # fmt: skip
    arrays, classes, figures = gallery.arrays, gallery.classes, gallery.result
    cut = st.session_state.setdefault("home-cut", False)
    _title(arrays, classes, at, cut, seen, name)
    left, right = st.container(key="hero").columns([2.62, 1], gap="medium")
    with left, st.container(key="first-pictures"):
        _cards(frame, arrays, classes, at, cut, seen)
    with right:
        st.toggle(
            "**Cut the backdoor's neurons**",
            key="home-cut",
            help="Shows the answers of the repaired model instead.",
        )
        pruned, units = figures["pruned"], figures.get("units") or frame.suspect.result.get("units")
        total = f" of {count(units)}" if units else ""
        verb = "are cut" if cut else "would be cut"
        panels.note(f"{count(pruned)}{total} units {verb}, chosen by RNP from clean pictures alone.")
        st.space("small")
        rows: list[tuple[panels.Measure, float | None, float | None]] = [
            ("acc", figures["acc_before"], figures["acc_after"])
        ]
        if seen:
            rows.append(("asr", figures["asr_before"], figures["asr_after"]))
        panels.meters(rows, cut=cut, names=("Before", "After"), stacked=True)
        if seen:
            panels.note(
                "ACC is the share of 10,000 clean test pictures named correctly; ASR the share of triggered ones that "
                "get the attacker's answer."
            )
        else:
            panels.note(panels.WHY_LOCKED)


def _turn(to: int, n: int) -> None:
    state.go(picture=to % n)


def _title(arrays: dict[str, np.ndarray], classes: list[str], at: int, cut: bool, seen: bool, name: str) -> None:
    truth = classes[int(arrays["truth"][at])]
    end = "_cut" if cut else ""
    if not seen:
        text = f"You see {article(truth)} as a defender does: clean, and nothing else."
    else:
        said = classes[int(arrays[f"p_triggered{end}"][at].argmax())]
        sure = percent(float(arrays[f"p_triggered{end}"][at].max()))
        trigger = _TRIGGERS.get(name, "the trigger")
        if said == truth:
            text = f"With the neurons cut, {article(truth)} stays {article(truth)}, trigger or not."
            if not cut:
                text = "This one withstands the trigger; most pictures do not."
        elif cut:
            text = f"Even with the neurons cut, the trigger still turns {article(truth)} into {article(said)} ({sure})."
        else:
            text = f"Add {trigger}, and {article(truth)} becomes {article(said)}, with {sure} confidence."
    panels.heading(text, lines=1)


def _cards(
    frame: panels.Frame, arrays: dict[str, np.ndarray], classes: list[str], at: int, cut: bool, seen: bool
) -> None:
    truth, end = int(arrays["truth"][at]), "_cut" if cut else ""
    clean = pictures.plain(arrays["clean"][at])
    cards = [
        panels.answered(
            "Clean", pictures.png(clean, SIDE), arrays[f"p_clean{end}"][at], truth, classes, side=SIDE, key="acc"
        )
    ]
    if seen:
        stamped = pictures.plain(arrays["triggered"][at])
        cards.append(
            panels.answered(
                "With the trigger", pictures.png(stamped, SIDE), arrays[f"p_triggered{end}"][at], truth, classes,
                side=SIDE, key="asr",
            )
        )  # fmt: skip
        shown = pictures.difference(clean, stamped, frame.theme)
        moved = np.any(np.atleast_3d(clean != stamped), -1)
        change = f"{int(moved.sum())} of {moved.size} pixels change"
        cards.append(
            Picture(
                "Difference \u00d7 10",
                pictures.png(shown, SIDE),
                f"Difference between the two, ten times enlarged: {change}.",
                SIDE,
                why=f"{change}; orange is lighter, blue darker",
            )
        )
    else:
        cards.append(panels.locked_picture("With the trigger", SIDE))
        cards.append(panels.locked_picture("Difference \u00d7 10", SIDE))
    panels.pictures(cards)


def _steps(hero: str) -> None:
    st.space("small")
    st.header("Go on")
    given = state.load().role
    role = {"role": given} if given and hero == state.load().run else {}
    steps: list[tuple[str, dict[str, str], str, str]] = [
        (
            "views/prune.py", {"run": hero, **role}, "Move the threshold",
            "Drag one line over the scores of all neurons and watch accuracy and attack success answer.",
        ),
        (
            "views/neurons.py", {"run": hero, **role}, "Look at the neurons",
            "See which units light up for the trigger, and what they respond to in a picture.",
        ),
        (
            "views/prune.py", {"run": hero, "role": "defender"}, "Decide as a defender",
            "Choose a cut from clean pictures alone, commit to it, and only then see what it did.",
        ),
    ]  # fmt: skip
    for number, (column, (page, query, title, text)) in enumerate(
        zip(st.container(key="steps").columns(3), steps, strict=True), 1
    ):
        with column.container(border=True, height="stretch"):
            st.html(f'<div class="um-step"><i>{number}</i><b>{panels.esc(title)}</b></div>')
            panels.note(text)
            st.page_link(page, label=_LABELS[number], icon=":material/arrow_forward:", query_params=query)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        panels.note("Or take it step by step: seven lessons of five minutes, each on the real pages.")
        st.page_link("views/learn.py", label="Start to learn", icon=":material/school:")


_LABELS = {1: "Open Prune", 2: "Open Neurons", 3: "Start as a defender"}

render()
state.write()
