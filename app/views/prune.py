"""Prune: where should the threshold go? One threshold over all units, the curve it runs along, and a commitment."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import streamlit as st

from app import confusions, data, figures, panels, readings, report_button, retuning, signs, state
from app.grid import GridEvent, neuron_grid
from app.palette import MEASURES, NAME, Measure, count, number, percent, points, units
from app.panels import Frame
from app.readings import Reading
from app.scoring import score_choice, scored
from engine.runs import ask

_POLICIES = {
    "tolerance": (
        "Tolerance",
        "default",
        "The last cut before held-out accuracy falls by more than the tolerance.",
    ),
    "knee": ("Knee", "knee", "Where held-out clean accuracy starts to fall fast."),
    "native": ("Paper", "paper", "The threshold of the score's own paper."),
    "oracle": (
        "Oracle \u25c7",
        "oracle",
        "The lowest ASR within the tolerance: needs the trigger, so a defender cannot.",
    ),
}
_MODES = {"scale": "Scale", "silence": "Silence"}


def render() -> None:
    frame = panels.frame(compare=True)
    if frame is None:
        return
    st.title("Where should the threshold go?")
    found = scored(frame, "Once its units are scored, you can move a threshold over them.")
    if found is None:
        return
    studies, study = found
    address = state.load()
    now = data.present(study, address.thr, address.edited)
    _lead(frame, study)
    follow = _figures(frame, study, now)
    _controls(frame, study, studies, now)
    record = state.commits().get(frame.suspect.name) if frame.seen else None
    if record is not None:
        with st.container(border=True, key="commit-box"):
            _outcome(frame, record, now)
    signs.show(signs.of_cut(study, now, _readings(frame, study, now)[0]))
    left, right = st.container(key="hero").columns([1.28, 1], gap="medium")
    with left:
        _grid(study, now)
        _edits(study, now)
    with right:
        _curve(frame, study, now)
        _held_out(frame, study, now)
        panels.chart(figures.per_layer(study.layers, now.cut, frame.theme, height=400), "layers")
    _answers(frame, now)
    follow()


def _lead(frame: Frame, study: data.Study) -> None:
    if frame.seen:
        panels.lead(
            "Units at or above the line are cut. Too high, and the backdoor survives; too low, and the network forgets "
            "its clothes."
            if "T-shirt" in frame.suspect.classes
            else "Units at or above the line are cut. Too high, and the backdoor survives; too low, and accuracy goes."
        )
    else:
        panels.lead(
            f"Units at or above the line are cut. You have {study.result.get('samples') or 500} clean pictures and no "
            "trigger: judge by accuracy and by the shape of the scores, then commit."
        )


# --- figures of the present cut --------------------------------------------------------------------------------------


def _question(frame: Frame, now: data.Present) -> dict[str, Any]:
    mode = state.load().mode
    return {"kind": "check", "suspect": frame.suspect.name, "cut": now.numbers, "mode": mode}


def _of_threshold(frame: Frame, study: data.Study, now: data.Present, follows: bool = True) -> dict[Measure, Reading]:
    n = int((study.result.get("n") or {}).get("acc") or 2000)
    every = int((frame.suspect.result.get("n") or {}).get("acc") or n)
    chosen = study.result.get("chosen")
    return readings.from_curve(study.points, chosen, now.pruned, n=n, all_images=every, follows=follows)


def _from_curve(frame: Frame, study: data.Study, now: data.Present) -> dict[Measure, Reading]:
    follows = not now.edits and state.load().mode == study.result.get("mode", "scale")
    last = st.session_state.get("last-check")
    if not follows and last is not None and last[0] == frame.suspect.name:
        value = state.redact(last[1], frame.seen)
        source = f"figures of another cut, with {units(value['pruned'])} cut; check exactly to replace them"
        return readings.from_check(value, frame.suspect.result, "stale", source)
    alone = now if follows else data.present(study, now.threshold, {})
    return _of_threshold(frame, study, alone, follows)


def _readings(frame: Frame, study: data.Study, now: data.Present) -> tuple[dict[Measure, Reading], ask.Answer | None]:
    """Figures of the present cut as good as they are known, and the answer that is still on its way."""
    store = st.session_state
    question = _question(frame, now)
    known = panels.kept(question, frame.seen)
    asked = store.get("check-asked") == question or store.get("check-always", False)
    if known is None and asked:
        known = panels.answer_to(question, frame.seen)
    if known is not None and known.value is not None:
        chip: readings.Chip = "exact" if known.state == "exact" else "estimate"
        if known.state == "exact":
            kept = panels.kept(question, True)
            store["last-check"] = (frame.suspect.name, kept.value if kept else known.value)
        found = readings.from_check(known.value, frame.suspect.result, chip)
        return found, None if known.final else known
    if known is not None and (known.error or not known.final):
        return _from_curve(frame, study, now), known
    return _from_curve(frame, study, now), None


def _figures(frame: Frame, study: data.Study, now: data.Present) -> Callable[[], None]:
    """The strip and what is being computed for it; only this part is redrawn while an answer is on its way.

    Returns what the page has to call last, because it starts the looking for that answer. A browser that looks before
    the page is whole can make Streamlit drop the page's own last messages (``AppSession.request_rerun``).
    """
    found, pending = _readings(frame, study, now)
    strip = st.empty()
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="wait"):
        done = found["acc"].chip == "exact" and found["acc"].value is not None
        st.button(
            "Checked" if done else "Check exactly",
            key="check",
            icon=":material/check:" if done else ":material/calculate:",
            disabled=done or (pending is not None and not pending.final),
            help="Measures this very cut on all test pictures.",
            on_click=_ask_check,
            args=(_question(frame, now),),
        )
        st.toggle("Every cut", key="check-always", help="Checks by itself whenever the cut changes.")
        slot = st.container(width="stretch", key="status").empty()
        panels.undo_redo()
    busy = pending is not None and not pending.final
    had_figures = pending is not None and pending.value is not None
    pace = panels.pace(had_figures)

    def draw(fresh: dict[Measure, Reading], answer: ask.Answer | None) -> None:
        added = sum(1 for edit in now.edits.values() if edit == "cut")
        spared = len(now.edits) - added
        by_hand = ", ".join(
            part for part in (f"{added} added" if added else "", f"{spared} spared" if spared else "") if part
        )
        details = f"{by_hand} by hand" if by_hand else ""
        with strip:
            panels.strip(fresh, now.pruned, len(now.cut), seen=frame.seen, details=details)
        with slot.container():
            if answer is not None and answer.error:
                panels.failed(_question(frame, now), answer, "again-check")
            elif answer is not None:
                # How many pictures there are would tell a defender whether there is a trigger at all.
                panels.waiting(answer if frame.seen else replace(answer, what="checking test pictures"))
            else:
                panels.note(f"{_KIND[fresh['acc'].chip]}: {fresh['acc'].source}.")

    # The first time nothing is asked again: news would make the page start over in the middle of a run. It is drawn
    # again, though: Streamlit lets a fragment only write where it wrote in the whole run.
    known = [(found, pending)]

    def look() -> None:
        first = bool(known)
        fresh, answer = known.pop() if first else _readings(frame, study, now)
        slower = answer is not None and answer.value is not None and not had_figures and panels.pace(True) > 2 * pace
        if not first and (slower or answer is None or answer.final):
            st.rerun()  # what is final may need buttons, which a fragment cannot draw elsewhere
        draw(fresh, answer)

    draw(found, pending)
    return st.fragment(look, run_every=pace) if busy else lambda: None


_KIND = {"exact": "Exact", "estimate": "Estimate", "stale": "Stale"}


def _ask_check(question: dict[str, Any]) -> None:
    panels.forget(question)
    st.session_state["check-asked"] = question


# --- controls --------------------------------------------------------------------------------------------------------


def _controls(frame: Frame, study: data.Study, studies: Mapping[str, data.Study], now: data.Present) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium", key="controls"):
        score_choice(studies, study, "Score", "What the units are ranked by; higher is more suspicious.")
        rows = {str(row["policy"]): row for row in study.result.get("policies", [])}
        here = [name for name, row in rows.items() if row["threshold"] == now.threshold and not now.edits]
        st.segmented_control(
            "Go to",
            list(rows),
            format_func=lambda name: _POLICIES.get(name, (name,))[0],
            key=state.shows("policy-choice", here[0] if here else None),
            help=" ".join(f"**{_POLICIES[name][0]}:** {_POLICIES[name][2]}" for name in rows if name in _POLICIES),
            on_change=_go_to,
            args=(rows,),
        )
        st.space("stretch")
        if not (frame.seen and frame.suspect.name in state.commits()):
            _commit(frame, study, now)
    if study.oracle and frame.seen:
        st.html(
            '<p class="um-note"><span class="um-diamond"></span><b>Oracle.</b> '
            f"{panels.esc(study.title)} used the true trigger; a defender could not compute it.</p>"
        )


def _go_to(rows: Mapping[str, Mapping[str, Any]]) -> None:
    name = state.shown("policy-choice")
    if name is not None:
        state.recut(rows[name]["threshold"], {})


# --- grid and curve --------------------------------------------------------------------------------------------------


def _marks(study: data.Study) -> list[dict[str, Any]]:
    found = []
    for row in study.result.get("policies", []):
        if row["threshold"] is not None:
            label, kind, _ = _POLICIES.get(row["policy"], (str(row["policy"]), "default", ""))
            found.append({"value": row["threshold"], "label": re.sub(r"\W+$", "", label).lower(), "kind": kind})
    return found


def _grid(study: data.Study, now: data.Present) -> None:
    def changed(event: GridEvent) -> None:
        if event.origin in ("select", "group"):
            state.select(event.selected, "grid", event.group)
        else:
            state.recut(event.threshold, event.edits)

    per = [(row["name"], int(now.cut[row["offset"] : row["offset"] + row["size"]].sum())) for row in study.layers]
    most = max(per, key=lambda item: item[1])
    alt = (
        f"{study.label} scores of {count(len(now.cut))} units in {len(per)} layers; {count(now.pruned)} are cut"
        + (f" at or above {number(now.threshold)}" if now.threshold is not None else "")
        + (f", most of them ({most[1]}) in {most[0]}." if now.pruned else ".")
    )
    neuron_grid(
        study.values,
        study.layers,
        threshold=now.threshold,
        edits=now.edits,
        selected=state.load().neuron,
        group=state.selected(),
        marks=_marks(study),
        # In another mode a cut does something else than the curve says.
        curve=readings.along(study.points, study.result.get("chosen"))
        if state.load().mode == study.result.get("mode", "scale")
        else (),
        score_label=study.meaning,
        height=1060,
        key=f"grid {state.load().run} {study.score}",
        alt=alt,
        on_change=changed,
    )


def _curve(frame: Frame, study: data.Study, now: data.Present) -> None:
    found, _ = _readings(frame, study, now)
    on_curve, aside = now, ""
    if found["acc"].chip == "stale":
        # The sentence is about what the curve shows: the threshold alone.
        on_curve = data.present(study, now.threshold, {})
        found = _of_threshold(frame, study, on_curve)
        aside = " Hand edits are not in the curve." if now.edits else ""
        if state.load().mode != study.result.get("mode", "scale"):
            aside += f" The curve was measured in mode {study.result.get('mode', 'scale')}."
    pinned = panels.pinned(state.load())
    store = st.session_state
    against: figures.Against = "threshold" if store.get("against") == "threshold" else "units"
    drawn = figures.curve(
        study.points,
        frame.theme,
        total=len(now.cut),
        pruned=on_curve.pruned,
        threshold=now.threshold,
        shown={m: r.value for m, r in found.items()},
        before={m: study.points[0].get(m) if found[m].chip != "exact" else frame.suspect.result.get(m) for m in found},
        against=against,
        score=study.meaning,
        pinned=None if pinned is None else figures.Other(pinned[0], pinned[1].points),
        height=380,
    )
    panels.heading(drawn.title)
    st.segmented_control(
        "Curve against",
        ["units", "threshold"],
        format_func=lambda name: {"units": "Against units cut", "threshold": "Against threshold"}[name],
        key="against",
        default="units",
        required=True,
        label_visibility="collapsed",
    )
    panels.chart(drawn, "curve", title=False)
    words = (
        "Points are measured on test pictures that no policy saw; lines between them are interpolated, bands are "
        "95\u202f% intervals." + aside
    )
    if pinned is not None and against == "units":
        words += f" Thin lines: {pinned[0]}."
    panels.note(words)


def _held_out(frame: Frame, study: data.Study, now: data.Present) -> None:
    rows = study.result.get("heldout")
    if not rows:
        return
    of_threshold = data.present(study, now.threshold, {}).pruned
    drawn = figures.held_out(
        rows, frame.theme, samples=study.samples, tolerance=study.tolerance, pruned=of_threshold, height=210
    )
    panels.chart(drawn, "held-out")
    aside = " Hand edits are not in it." if now.edits else ""
    panels.note(
        f"The default threshold looks at this and the scores, at no trigger. Bands are paired 95\u202f% "
        f"intervals.{aside}"
    )


def _answers(frame: Frame, now: data.Present) -> None:
    """The confusion matrices of the present cut, on demand. They poll, so they are drawn after the rest."""
    shown = st.toggle(
        "Which answers does this cut change?", key="answers-shown",
        help="Counts every answer before and after the cut, first of some test pictures, then of all.",
    )  # fmt: skip
    if shown and now.pruned:
        confusions.section(frame, confusions.question(frame, now.numbers, state.load().mode), "Cut")
    elif shown:
        panels.note("Nothing is cut, so no answer changes.")


# --- hand edits ------------------------------------------------------------------------------------------------------


def _edits(study: data.Study, now: data.Present) -> None:
    store = st.session_state

    def edit(kind: str) -> None:
        try:
            unit = data.find_unit(study.layers, store.get("edit-unit") or "")
        except ValueError as error:
            store["edit-error"] = str(error)
            return
        if kind == "show":
            state.select(unit, "find")
            return
        store["edit-unit"] = ""
        state.recut(state.load().thr, {**state.load().edited, unit: kind})

    with st.container(border=True, key="by-hand"):
        panels.heading("Cut or spare single units by hand", lines=1)
        with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
            st.text_input(
                "Unit",
                key="edit-unit",
                placeholder=f"{study.layers[-1]['name']}:87",
                help="An id such as the grid shows, a short form such as l4.1 87, or a number.",
                width=240,
            )
            st.button(
                "Show it", key="edit-show", icon=":material/search:", help="Selects it in the grid.",
                on_click=edit, args=("show",),
            )  # fmt: skip
            st.button("Spare it", key="edit-spare", icon=":material/shield:", on_click=edit, args=("spare",))
            st.button("Cut it", key="edit-cut", icon=":material/content_cut:", on_click=edit, args=("cut",))
        if error := store.pop("edit-error", None):
            panels.refuse(ValueError(error), "Hover over the grid to read ids.")
        if not now.edits:
            panels.note("No unit is edited by hand: the threshold alone decides.")
        else:
            _edit_chips(now)
        st.segmented_control(
            "How a unit is cut",
            list(_MODES),
            format_func=_MODES.__getitem__,
            key=state.shows("mode-choice", state.load().mode),
            required=True,
            on_change=lambda: state.change(mode=state.shown("mode-choice")),
        )
        panels.note("Scale zeroes the normalisation weight and keeps the bias, as RNP does; silence zeroes the output.")


def _edit_chips(now: data.Present) -> None:
    with st.container(horizontal=True, gap="xsmall", key="edits"):
        for unit, kind in list(now.edits.items())[:40]:
            st.button(
                f"{unit} {'cut' if kind == 'cut' else 'spared'}",
                key=f"edit {unit}",
                icon=":material/close:",
                help="Take this edit back.",
                on_click=_drop_edit,
                args=(unit,),
            )
        st.button(
            "Take all back", key="edits-clear", type="tertiary", on_click=lambda: state.recut(state.load().thr, {})
        )


def _drop_edit(unit: str) -> None:
    state.recut(state.load().thr, {u: k for u, k in state.load().edited.items() if u != unit})


# --- commit ----------------------------------------------------------------------------------------------------------


def _commit(frame: Frame, study: data.Study, now: data.Present) -> None:
    blind = not frame.seen
    st.button(
        "Commit and reveal" if blind else "Save this cut",
        type="primary",
        key="commit",
        icon=":material/lock_open:" if blind else ":material/save:",
        help="Freezes the threshold and your edits, and shows what the trigger does before and after the cut."
        if blind
        else "Measures the cut on all test pictures and packs the repaired model. The record says: ASR in view.",
        on_click=_freeze,
        args=(frame, study, now),
    )


def _freeze(frame: Frame, study: data.Study, now: data.Present) -> None:
    run = frame.suspect.name
    state.commit(
        run,
        {
            "cut": now.numbers,
            "units": [data.id_of(study.layers, k) for k in now.numbers],
            "mode": state.load().mode,
            "threshold": now.threshold,
            "score": study.score,
            "study": str(study.folder),
            "edits": now.edits,
        },
    )


def _outcome(frame: Frame, record: dict[str, Any], now: data.Present) -> None:
    """What the committed cut did: measured by the worker, then packed for download."""
    question = {
        "kind": "commit",
        **{k: record[k] for k in ("suspect", "cut", "mode", "threshold", "score", "study", "edits", "role")},
    }
    left, right = st.columns([1, 1.35], gap="large", vertical_alignment="center")
    with left:
        panels.heading(
            "Committed as a defender" if record["role"] == "defender" else "Saved, with ASR in view", lines=1
        )
        at = "by hand alone" if record["threshold"] is None else f"at or above {number(record['threshold'])}"
        edits = f", {len(record['edits'])} by hand" if record["edits"] else ""
        panels.note(f"{units(len(record['cut']))} of {count(len(now.cut))}, {at}{edits}, mode {record['mode']}.")
        if record["role"] == "defender" and record["seen_before"]:
            panels.note("You had seen this suspect's ASR before; the record says so.")
        if record["cut"] != now.numbers:
            panels.note("The page now shows another cut than this one.")
        files = st.container(horizontal=True, gap="small")
        st.button(
            "Choose another cut", key="cover", type="tertiary", icon=":material/restart_alt:",
            help="In the Defender view this hides ASR again.", on_click=state.cover, args=(frame.suspect.name,),
        )  # fmt: skip
    found = panels.answer_to(question, frame.seen)
    packed = None
    if found.value is not None and found.state == "exact":
        packed = panels.answer_to(_packing(found), frame.seen)
    current = packed or found
    shown = right.container()
    if packed is not None and packed.state == "exact" and packed.value is not None and found.value is not None:
        with shown:
            _before_after(found.value["result"])
        with files:
            _downloads(frame, record, found.value, Path(packed.value["path"]))
        if found.value["result"].get("asr_after") is not None:
            retuning.offer(frame, found.value["run"], "a cut by hand")
        return

    def draw() -> None:
        answer = panels.answer_to(question, frame.seen)
        if answer.state == "exact" and answer.value is not None:
            _before_after(answer.value["result"])
            packing = _packing(answer)
            answer = panels.answer_to(packing, frame.seen)
            if answer.error:
                panels.failed(packing, answer, "again-export")
            elif not answer.final:
                panels.waiting(answer, "packing the repaired model")
        elif answer.error:
            panels.failed(question, answer, "again-commit")
        else:
            panels.waiting(answer, "measuring")
        if current.final != answer.final or answer.state == "exact":
            st.rerun()

    with shown:
        st.fragment(draw, run_every=None if current.final else panels.pace())()


def _packing(committed: ask.Answer) -> dict[str, Any]:
    assert committed.value is not None
    return {"kind": "export", "run": committed.value["folder"]}


def _before_after(result: Mapping[str, Any]) -> None:
    rows = []
    for m in MEASURES:
        before, after = result.get(f"{m}_before"), result.get(f"{m}_after")
        if before is not None and after is not None:
            rows.append((NAME[m], percent(before), percent(after), points(after - before)))
    if result.get("der") is not None:
        rows.append(("DER", "", f"{result['der']:.3f}", ""))
    panels.facts(("", "Before", "After", "Points"), rows)


def _downloads(frame: Frame, record: Mapping[str, Any], value: Mapping[str, Any], packed: Path) -> None:
    stem = re.sub(r"\W+", "-", f"{frame.suspect.title}-{value['run'][:8]}").strip("-").lower()
    text = json.dumps(
        {
            "suspect": record["suspect"],
            "suspect_run": frame.suspect.run_id,
            "run": value["run"],
            "role": record["role"],
            "asr_seen_before": record["seen_before"],
            "score": record["score"],
            "threshold": record["threshold"],
            "edits": record["edits"],
            "mode": record["mode"],
            "cut": record["units"],
            "result": value["result"],
        },
        indent=1,
        ensure_ascii=False,
    )
    try:
        model = packed.read_bytes()
    except OSError:
        st.error(
            f"The packed model {packed.name} is gone. Choose the cut again to pack it anew.", icon=":material/error:"
        )
        return
    with st.container(horizontal=True, gap="small"):
        st.download_button(
            "Repaired model", model, f"unmask-{stem}.zip", "application/zip", key="download-model",
            icon=":material/download:", type="primary", on_click="ignore",
            help="Weights as safetensors, a model card, and the architecture as plain Python. Tuning it further, even "
            "on clean pictures, may wake what the cut covered: measure it again.",
        )  # fmt: skip
        st.download_button(
            "Record (JSON)", text, f"unmask-{stem}.json", "application/json", key="download-record",
            icon=":material/data_object:", on_click="ignore", help="What was cut, how it was chosen, and what it did.",
        )  # fmt: skip
        title = f"{value['result'].get('title', 'Cut')} on {frame.suspect.title}"
        report_button.of_run(Path(value["folder"]), title, frame.seen, "download-report", main=True)


render()
state.write()
