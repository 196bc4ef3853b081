"""The card of one unit: where each score ranks it, whether the present cut takes it, and what it responds to.

The scores and the verdict come from the studies and stand there at once. Feature maps, the distribution of the unit's
output and attributions are asked of the warm worker; while it works, the parts that wait poll by themselves, in boxes
that already have their final size. A defender's questions leave the trigger out (``triggered`` False), so that nothing
in an answer, not even the range of a scale, tells of it. Where there is no triggered picture to set beside the clean
one, the second column is the same picture in the unlearned model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from app import any_trigger, data, neuron_figures, panels, pictures, state
from app.attributions import attribution, rnp_of
from app.card_pieces import SIDE, absent, column, image, pairs, scale
from app.linked import by_score, rank
from app.live import live, overtaken
from app.neuron_figures import short
from app.palette import CIVIDIS, count, number, percent
from app.panels import Frame, article, esc
from app.picture_row import chooser, row_question, tests_of
from app.unit_more import more
from app.unit_more import question as more_question
from engine.runs import ask

_CSS = Path(__file__).parent / "unit_card.css"
Kind = tuple[str, str, str]
_CLEAN: Kind = ("clean", "Clean", "acc")
_TRIGGERED: Kind = ("triggered", "Triggered", "asr")
_UNLEARNED: Kind = ("unlearned", "Unlearned", "forgot")
#: What a question about the second column is called, if it is not about triggered pictures.
_SECOND = ("unlearned", "marked")


def unit_card(frame: Frame, studies: Mapping[str, data.Study], study: data.Study, now: data.Present, k: int) -> None:
    """The card of unit number ``k`` under the present score and cut."""
    st.html(_CSS)
    unit = data.id_of(study.layers, k)
    with st.container(border=True, key="card", gap="small"):
        _head(study, now, unit, k)
        row = row_question(frame, min(state.load().picture, tests_of(frame) - 1))
        there = panels.answer_to(row, frame.seen).final
        at = chooser(frame)
        stamped = _has_trigger(frame, k, at)
        if not stamped:
            any_trigger.beside(frame, at)
        questions = _questions(frame, studies, k, at)
        live(lambda: _body(frame, studies, questions, unit, k), frame, *questions.values())
        if not there:
            overtaken(frame, row)
        mark = None if stamped else any_trigger.mark(frame)
        attribution(frame, studies, now, unit, k, at, total=tests_of(frame), stamped=stamped, mark=mark)
        more(frame, unit, k)


def ask_ahead(frame: Frame, studies: Mapping[str, data.Study], k: int) -> list[dict[str, Any]]:
    """Ask what the card will need before anything is drawn, so that the worker answers meanwhile; the questions."""
    at = min(state.load().picture, tests_of(frame) - 1)
    questions = list(_questions(frame, studies, k, at).values())
    if (part := more_question(frame, k)) is not None:
        questions.append(part)
    for question in questions:
        panels.answer_to(question, frame.seen)
    return questions


def _questions(frame: Frame, studies: Mapping[str, data.Study], k: int, at: int) -> dict[str, dict[str, Any]]:
    """What is asked of the worker, about the suspect as it came (nothing cut)."""
    whole: dict[str, Any] = {"suspect": frame.suspect.name, "cut": [], "mode": "scale"}
    return {
        "pictures": row_question(frame, at),
        "unit": {"kind": "unit", **whole, "unit": k, "number": at, "triggered": frame.seen},
        **({} if _has_trigger(frame, k, at) else _second(frame, studies, k, at)),
    }


def _second(frame: Frame, studies: Mapping[str, data.Study], k: int, at: int) -> dict[str, dict[str, Any]]:
    """The same unit and picture with a drawn or recovered trigger, or else in the unlearned model."""
    what = {"suspect": frame.suspect.name, "unit": k, "number": at}
    if (mark := any_trigger.mark(frame)) is not None:
        return {"marked": {"kind": "marked_unit", **what, **mark}}
    return {"unlearned": {"kind": "unlearned", **what, "study": rnp_of(studies)}}


def _has_trigger(frame: Frame, k: int, at: int) -> bool:
    """Whether there are triggered pictures, and they may be seen."""
    if not frame.seen or frame.suspect.result.get("asr") is None:
        return False
    whole = {"kind": "unit", "suspect": frame.suspect.name, "cut": [], "mode": "scale"}
    known = panels.kept({**whole, "unit": k, "number": at, "triggered": True}, True)
    # Some imported suspects have stamped test pictures but no trigger that could be put on others.
    return known is None or known.value is None or known.value.get("map_triggered") is not None


def _kinds(questions: Mapping[str, Any]) -> tuple[Kind, Kind]:
    if "marked" in questions:
        return _CLEAN, ("marked", _called(questions["marked"]), "asr")
    return _CLEAN, _UNLEARNED if "unlearned" in questions else _TRIGGERED


def _called(question: Mapping[str, Any]) -> str:
    return any_trigger.BESIDE[question["source"]]


# --- what it is ------------------------------------------------------------------------------------------------------


def _head(study: data.Study, now: data.Present, unit: str, k: int) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        with st.container(width="stretch"):
            st.html(
                f'<div class="um-unithead"><p class="um-unit" role="heading" aria-level="2">{esc(unit)}</p>'
                f'<p class="um-note">number {k:,} of {count(len(study.values))}</p></div>'
            )
        order = by_score(study.values)[: int(np.isfinite(study.values).sum())]
        at = int(np.flatnonzero(order == k)[0]) if k in order else -1
        for label, icon, to in (
            ("Higher", ":material/keyboard_arrow_up:", at - 1),
            ("Lower", ":material/keyboard_arrow_down:", at + 1),
        ):
            inside = at >= 0 and 0 <= to < len(order)
            st.button(
                label, key=f"walk {label}", icon=icon, type="tertiary", disabled=not inside,
                help=f"The unit with the next {label.lower()} score under {study.label}.",
                on_click=state.select, args=(data.id_of(study.layers, int(order[to])) if inside else None, "find"),
            )  # fmt: skip
    cut, words = verdict(study, now, unit, k)
    swatch = f'<span class="um-key {"cut" if cut else "kept"}"></span>'
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        with st.container(width="stretch"):
            st.html(f'<p class="um-verdict">{swatch}<span><b>{"Cut" if cut else "Kept"}</b>{esc(words)}</span></p>')
        if unit in now.edits:
            st.button("Take edit back", key="card-edit", icon=":material/undo:", on_click=_edit, args=(unit, None))
        elif np.isfinite(study.values[k]):
            st.button(
                "Spare it" if cut else "Cut it",
                key="card-edit",
                icon=":material/shield:" if cut else ":material/content_cut:",
                help="By hand, against the threshold. Prune shows what it does.",
                on_click=_edit,
                args=(unit, "spare" if cut else "cut"),
            )


def verdict(study: data.Study, now: data.Present, unit: str, k: int) -> tuple[bool, str]:
    """Whether the present cut removes a unit, and why."""
    value, cut = float(study.values[k]), bool(now.cut[k])
    if unit in now.edits:
        return cut, " by hand, whatever its score."
    if not np.isfinite(value):
        return False, f": {study.label} gives it no score, so it is never cut."
    if now.threshold is None:
        return cut, ": nothing is cut by score."
    return cut, f": {number(value)} {'reaches' if cut else 'is below'} the threshold {number(now.threshold)}."


def _edit(unit: str, edit: str | None) -> None:
    address = state.load()
    edits = {u: e for u, e in address.edited.items() if u != unit}
    state.recut(address.thr, {**edits, unit: edit} if edit else edits)


def _ranks(studies: Mapping[str, data.Study], k: int) -> None:
    rows = []
    for one in studies.values():
        label = one.label + (" \u25c7" if one.oracle else "")
        value = float(one.values[k])
        rows.append((label, short(value), rank(one.values, k)))
    panels.facts(("Score", "Value", "Rank"), rows)
    if any(one.oracle for one in studies.values()):
        st.html('<p class="um-note"><span class="um-diamond"></span>oracle: used the trigger</p>')


# --- what it responds to ---------------------------------------------------------------------------------------------


def _body(
    frame: Frame, studies: Mapping[str, data.Study], questions: Mapping[str, dict[str, Any]], unit: str, k: int
) -> None:
    for kind, question in questions.items():
        answer = panels.answer_to(question, frame.seen)
        if answer.error:
            panels.failed(question, answer, f"again-{kind}")
            break
    left, right = st.columns([1, 1.5], gap="small")
    with left:
        _ranks(studies, k)
        _responses(frame, questions)
    with right:
        _maps(frame, questions, unit)


def _responses(frame: Frame, questions: Mapping[str, dict[str, Any]]) -> None:
    second = next((kind for kind in _SECOND if kind in questions), None)
    own = panels.answer_to(questions["unit"], frame.seen)
    other = None if second is None else panels.answer_to(questions[second], frame.seen)
    answer = other if other is not None and other.value is not None else own
    if answer is not None and answer.value is not None:
        with st.container(gap="xxsmall"):
            named = _called(questions["marked"]).lower() if second == "marked" else ""
            panels.chart(neuron_figures.responses(answer.value["hist"], frame.theme, named=named), "responses")
        if second == "marked" and other is not None and not other.error:
            if other.value is None:
                panels.waiting(other, "putting the trigger on")
            else:
                panels.note(f"Dashed: the same pictures with {named}, which is not the suspect's own.")
        elif other is not None and other.value is not None:
            panels.note(
                f"Unlearned: the suspect after {other.value['passes']} passes that make it forget the clean pictures "
                f"(accuracy {percent(other.value['acc'], 0)}). What still answers there serves something else."
            )
        elif other is not None and not other.error:
            panels.waiting(other, "unlearning, once for this suspect")
    elif answer is not None and not answer.error:
        with st.container(height=250, border=False):
            panels.waiting(answer, "looking at the unit")


def _maps(frame: Frame, questions: Mapping[str, dict[str, Any]], unit: str) -> None:
    """The picture and the unit's feature map on it, clean and triggered (or unlearned) side by side."""
    at, kinds = questions["unit"]["number"], _kinds(questions)
    shown, inside = (panels.answer_to(questions[kind], frame.seen) for kind in ("pictures", "unit"))
    beside = kinds[1][0]
    forgot = panels.answer_to(questions[beside], frame.seen) if beside in questions else None
    item = next((i for i in (shown.value or {}).get("items", []) if i["number"] == at), None)
    maps = {key: (inside.value or {}).get(f"map_{key}") for key, _, _ in kinds}
    if forgot is not None:
        maps[beside] = (forgot.value or {}).get("map")
        if item is not None and forgot.value is not None:
            item = {**item, beside: forgot.value.get("png", item["clean"]), f"p_{beside}": forgot.value["p"]}
    arrays = {key: np.asarray(values, float) for key, values in maps.items() if values is not None}
    low, high = pictures.common_range(*arrays.values()) if arrays else (0.0, 1.0)
    cells = [column(name, key) for _, name, key in kinds]
    second = forgot or shown
    cells += [_photo(frame, item, key, name, shown if key == "clean" else second) for key, name, _ in kinds]
    size = " \u00d7 ".join(str(n) for n in next(iter(arrays.values())).shape) if arrays else ""
    cells.append(f'<p class="um-row">Feature map{f", {size}" if size else ""}</p>')
    for key, name, _ in kinds:
        if key in arrays:
            where = {
                "unlearned": "clean picture in the unlearned model", "marked": f"picture with {name.lower()}"
            }.get(key, f"{name.lower()} picture")  # fmt: skip
            drawn = neuron_figures.cividis(arrays[key], low, high)
            cells.append(image(drawn, neuron_figures.describe(arrays[key], f"Feature map of {unit} on the {where}")))
        else:
            cells.append(absent(name, forgot if key != "clean" and forgot else inside))
    for key, _, _ in kinds:
        cells.append(f'<p class="um-say one">{f"mean {short(float(arrays[key].mean()))}" if key in arrays else ""}</p>')
    cells.append(scale(CIVIDIS, short(low) if arrays else "", short(high) if arrays else ""))
    pairs(cells, max(pictures.opened(item["clean"]).shape[:2]) if item else SIDE)


def _photo(frame: Frame, item: Mapping[str, Any] | None, key: str, name: str, answer: ask.Answer) -> str:
    if item is None or not item.get(key):
        return f"<div>{absent(name, answer)}<p class='um-say'></p></div>"
    classes, p, truth = frame.suspect.classes, item[f"p_{key}"], int(item["truth"])
    said = max(range(len(p)), key=lambda c: float(p[c]))
    right, sure = said == truth, percent(float(p[said]))
    how = "correctly" if right else "wrongly"
    picture = {"unlearned": "Clean test picture, unlearned model,", "marked": f"Test picture with {name.lower()},"}.get(
        key, f"{name} test picture"
    )
    alt = (
        f"{picture} {item['number']}, {article(classes[truth])}, answered {how} as {classes[said]} "
        f"with {sure} confidence."
    )
    words = f"<b>{esc(classes[said])}</b> {esc(sure)}, {'correct' if right else 'wrong'}"
    return (
        f'<div>{image(pictures.opened(item[key]), alt)}<p class="um-say{"" if right else " wrong"}">{words}</p></div>'
    )
