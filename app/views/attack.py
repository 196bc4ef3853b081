"""The Attack lab: what does a poison do to pictures, to a training set, and to the model that is trained on it?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st

from app import forms, handed, lab, lab_preview, lab_training, own_trigger, palette, panels, shared, state
from app.lab import Lab, Side
from app.palette import Theme

_OWN = "my own pictures"


def render() -> None:
    panels.frame(needed=False)
    theme = palette.theme(st.context.theme.type)
    st.title("What does this poison do?")
    panels.lead(
        "You are the attacker: choose a poison, see at once what it does to pictures and to the training set, and "
        "train a model on it."
    )
    own = lab.own_path()
    question = {"kind": "choices", "own": None if own is None else str(own)}
    found = lab_preview.answer(question)
    if found.error:
        panels.failed(question, found, "again-choices")
        return
    if found.value is None:
        lab_preview.waits(question, "reading what there is to choose from")
        return
    now = lab.read(found.value)
    for line in now.wrong:
        st.warning(f"{line[0].upper()}{line[1:]}.", icon=":material/link_off:")
    if not lab.raw().get("attack"):
        lab.put(attack=now.sides[0].name)
    _bench(now, found.value)
    _columns(now, found.value, theme)


# --- data and network, common to both columns ------------------------------------------------------------------------


def _bench(now: Lab, choices: Mapping[str, Any]) -> None:
    bench = now.bench
    with st.container(border=True, key="lab-bench"):
        columns = st.columns([1.7, 1.5, 0.8, 0.8, 0.8, 1.3], gap="small", vertical_alignment="bottom")
        with columns[0]:
            _data(now, choices)
        models = {row["name"]: row["title"] for row in choices["models"]}
        with columns[1]:
            st.selectbox(
                "Network", list(models), format_func=lambda name: models.get(name, name),
                key=state.shows("lab-model", bench.model),
                on_change=lambda: lab.put(model=state.shown("lab-model"), width=None, twin=None, twin2=None),
            )  # fmt: skip
        for column, key, label, value, least, most, help in (
            (columns[2], "width", "Width", bench.width, 1, 512, "Channels of the first stage."),
            (columns[3], "epochs", "Epochs", bench.epochs, 1, 1000, "Passes over the training set."),
            (columns[4], "seed", "Seed", bench.seed, 0, 2**31 - 1, "The same seed gives the same model."),
        ):
            with column:
                if value is not None:
                    _number(key, label, value, least, most, help)
        with columns[5]:
            st.toggle(
                "Compare two", key=state.shows("lab-two", len(now.sides) > 1), on_change=_two,
                help="A second attack beside this one, on the same data and network.",
            )  # fmt: skip
        if bench.path != bench.data or st.session_state.get("lab:own"):
            _upload()


def _number(key: str, label: str, value: int, least: int, most: int, help: str) -> None:
    name = f"lab-{key}"
    st.number_input(
        label, least, most, step=1, help=help, key=state.shows(name, value),
        on_change=lambda: lab.put(**{key: str(state.shown(name))}),
    )  # fmt: skip


def _data(now: Lab, choices: Mapping[str, Any]) -> None:
    sets = {row["name"]: row["title"] for row in choices["datasets"] if row["offline"]}
    others = ", ".join(row["name"] for row in choices["datasets"] if not row["offline"])
    options = [*sets, *([_OWN] if shared.allowed("uploads") or now.bench.path != now.bench.data else [])]
    is_own = now.bench.path != now.bench.data or st.session_state.get("lab:own")
    st.selectbox(
        "Data", options, format_func=lambda name: sets.get(name, "My own pictures (zip or .npz)"),
        key=state.shows("lab-data", _OWN if is_own else now.bench.data), on_change=_choose_data,
        help=f"At hand now. Not downloaded yet: {others}. The command line fetches them: python -m engine attack "
        "--data NAME" if others else None,
    )  # fmt: skip


def _choose_data() -> None:
    chosen = state.shown("lab-data")
    st.session_state["lab:own"] = chosen == _OWN
    look = handed.found("data") if chosen == _OWN else None
    lab.put(data=chosen if chosen != _OWN else lab.own_key(look.path) if look is not None and look.path else None)


def _upload() -> None:
    handed.uploader(
        "data", "Zip or .npz", "A zip with one folder of pictures for each class, or an .npz with x_train and y_train."
    )
    empty = "Until your pictures are here, the settings below are about the data set named there."
    look = handed.accepted(handed.found("data"), "data", empty, "Nothing of it was kept.")
    if look is not None and look.path is not None and lab.own_path() != Path(look.path):
        lab.put(data=lab.own_key(look.path))
        st.rerun()


def _two() -> None:
    if not state.shown("lab-two"):
        lab.choose("2", None)
    else:
        lab.choose("2", lab.ANOTHER if lab.raw().get("attack") != lab.ANOTHER else lab.ATTACK)


# --- one column or two -----------------------------------------------------------------------------------------------


def _columns(now: Lab, choices: Mapping[str, Any], theme: Theme) -> None:
    turn = st.session_state.setdefault("lab:turn", 0)
    question = lab_preview.asked(now, turn)
    found = lab_preview.answer(question)
    values: list[Mapping[str, Any] | None] = [None] * len(now.sides)
    stale = found.value is None
    if found.value is not None:
        values = list(found.value["attacks"])
        st.session_state["lab:last"] = (_about(now), values)
    elif st.session_state.get("lab:last", (None,))[0] == _about(now):
        values = list(st.session_state["lab:last"][1])
    single = len(now.sides) == 1
    own = [side.suffix for side in now.sides if lab.PICTURE in side.settings]
    wrongs = [
        own_trigger.missing(side) or found.error or (value or {}).get("error")
        for side, value in zip(now.sides, values, strict=True)
    ]

    def form(k: int) -> None:
        _form(now, now.sides[k], choices, wrongs[k], own[:1] == [now.sides[k].suffix])

    def preview(k: int) -> None:
        if found.error:
            panels.failed(question, found, f"again-preview{k}")
        elif stale and k == 0:
            lab_preview.waits(question, "poisoning some pictures")
        value = values[k]
        if value is not None:
            lab_preview.show(now, now.sides[k], value, theme, stale)

    def training(k: int) -> None:
        lab_training.section(now, now.sides[k], "" if stale and not found.error else wrongs[k], theme)

    if single:
        left, right = st.container(key="hero").columns([1, 1.9], gap="large")
        with left:
            form(0)
            training(0)
        with right:
            preview(0)
        return
    # Row by row, so that what is compared stands at the same height.
    for row, part in enumerate((form, preview, training)):
        for k, column in enumerate(st.container(key=f"hero-{row}").columns(2, gap="large")):
            with column:
                part(k)


def _about(now: Lab) -> tuple[object, ...]:
    """What a kept preview must be about to be shown, greyed, until the new one is there."""
    return (now.bench.path, *(side.name for side in now.sides))


def _form(now: Lab, side: Side, choices: Mapping[str, Any], wrong: str | None, first: bool) -> None:
    attacks = {row["name"]: row for row in choices["attacks"]}
    name = f"lab-attack{side.suffix}"
    st.selectbox(
        "Attack", list(attacks), format_func=lambda key: attacks[key]["title"] or key,
        key=state.shows(name, side.name), on_change=lambda: lab.choose(side.suffix, state.shown(name)),
    )  # fmt: skip
    paper, about = panels.esc(side.row["paper"]), panels.esc(side.row["about"])
    st.html(
        f'<p class="um-note">{about}<br><a href="{paper}" target="_blank">The paper</a> \u00b7 {_controls(side)}</p>'
    )
    preset = f"lab-preset{side.suffix}-{side.name}"
    st.segmented_control(
        "Preset", list(side.row["presets"]), format_func=str.capitalize, key=state.shows(preset, side.preset),
        required=True, on_change=lambda: lab.choose_preset(side.suffix, state.shown(preset)),
        help="Paper: the published settings. Small: for small pictures and short trainings.",
    )  # fmt: skip
    own_trigger.section(now.bench, side, first)
    columns = st.columns(2, gap="small")
    shown = [s for key, s in side.settings.items() if key != lab.PICTURE and _applies(side, key)]
    for k, setting in enumerate(shown):
        with columns[k % 2]:
            _setting(now, side, setting)
    if wrong and not own_trigger.missing(side):
        panels.refuse(ValueError(wrong), "Nothing can be trained like this.")
    _differences(side)


def _controls(side: Side) -> str:
    row = side.row
    words = {"data": "controls the data", "training": "controls the training", "weights": "controls the weights"}
    found = [words[row["controls"]]]
    if row["clean_label"]:
        found.append("changes no label")
    if row["learned"]:
        found.append("learns its trigger")
    if row["needs_clean_model"]:
        found.append("needs a clean model")
    return ", ".join(found)


def _applies(side: Side, name: str) -> bool:
    """Whether a setting means anything now: a source class only with its rule, a rule only where there are several."""
    if name == "source":
        return side.values.get("rule") == "source" or side.values["source"] is not None
    return name != "rule" or len(side.row["rules"]) > 1


def _setting(now: Lab, side: Side, setting: forms.Setting) -> None:
    name = f"lab-set{side.suffix}-{side.name}-{setting.name}"
    forms.field(
        setting,
        side.values[setting.name],
        key=state.shows(name, side.values[setting.name]),
        on_change=lambda: _changed(side, setting, state.shown(name)),
        classes=now.bench.classes,
        rules=side.row["rules"] if setting.name == "rule" else (),
    )


def _changed(side: Side, setting: forms.Setting, value: Any) -> None:
    """A number whose box was emptied goes back to the preset's, unless it may be empty."""
    lab.change(
        side, setting.name, side.preset_values[setting.name] if value is None and not setting.optional else value
    )


def _differences(side: Side) -> None:
    """What differs from the preset, and where the preset leaves the paper."""
    changed, base = side.changed, side.preset_values
    if changed:
        parts = [
            f"{side.settings[name].title} {_said(side, name, value)} (not {_said(side, name, base[name])})"
            for name, value in changed.items()
        ]
        panels.note(f"Differs from the preset {side.preset}: {'; '.join(parts)}.")
        st.button(
            "Back to the preset", key=f"lab-back{side.suffix}", type="tertiary", icon=":material/undo:",
            on_click=lab.choose_preset, args=(side.suffix, side.preset),
        )  # fmt: skip
    deviations = side.row["presets"].get(side.preset, {}).get("deviations", [])
    if deviations:
        panels.note(f"Where the preset leaves the paper: {' '.join(deviations)}")


def _said(side: Side, name: str, value: Any) -> str:
    if name == lab.PICTURE:
        return "your own" if value else "none"
    return side.settings[name].words(value).replace("_", " ")


render()
state.write(lab=True)
