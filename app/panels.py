"""Pieces that more than one page shows: the frame, the metric strip, charts with their words, pictures, job tray.

Markup is written by hand only where Streamlit has no element, and every string in it goes through :func:`esc`.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import plotly.graph_objects as go
import streamlit as st

from app import data, lesson_card, palette, shared, state
from app.copy_link import copy_link
from app.figures import Chart, Table
from app.glossary import explained, term
from app.palette import MEASURES, NAME, Measure, Theme, count, percent, points
from app.palette import clock as clock
from app.readings import Reading
from app.state import Address
from app.wordmark import wordmark
from engine.runs import ask, jobs

_HERE = Path(__file__).parent
_CONFIG = {"displaylogo": False, "modeBarButtonsToRemove": ["toImage", "autoScale2d", "zoomIn2d", "zoomOut2d"]}
_LOCK = '<span class="um-lock" aria-hidden="true"></span>'
WHY_LOCKED = "A defender has no trigger to measure this with. It is revealed when you commit to a cut."
ROLES = {"defender": "Defender", "oracle": "Oracle"}


def esc(text: object) -> str:
    return html.escape(str(text), quote=True)


# --- the frame of every page -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """What every page starts from; ``seen`` says whether figures that need the trigger may be shown."""

    address: Address
    suspect: data.Suspect
    seen: bool
    theme: Theme


def frame(compare: bool = False, needed: bool = True, steps: bool = False, lesson: bool = True) -> Frame | None:
    """Sidebar (with a pinned comparison where the page can ``compare``, undo and redo with ``steps``, and the
    ``lesson`` of the link) and address.

    None where there is no suspect to look at, with an explanation on the page if one is ``needed``.
    """
    st.html(_HERE / "style.css")
    st.logo(wordmark(st.context.theme.type), size="large")
    address = state.load()
    listed = data.suspects()
    if not listed:
        if needed:
            nothing_yet()
        with st.sidebar:
            tray()
        return None
    names = [s.name for s in listed]
    if address.run is None:
        address = state.fill_in(names[0])
    elif address.run not in names:
        wrong = f"expected a suspect of this workspace in the link, got {address.run!r}; {names[0]} is shown"
        address = state.fill_in(names[0], wrong)
    for line in state.notices():
        st.warning(f"{line[0].upper()}{line[1:]}.", icon=":material/link_off:")
    with st.sidebar:
        if lesson:
            lesson_card.show(address)
        _sidebar(address, listed, compare, steps)
    seen = state.revealed(address)
    if compare:  # the pages that show figures of this suspect, not of Home's demo
        state.note_seen(address.run or "", seen)
    try:
        suspect = data.suspect(address.run or names[0], seen)
    except ValueError as error:
        refuse(error, "Choose another suspect in the sidebar, or make this one again.")
        return None
    return Frame(address, suspect, seen, palette.theme(st.context.theme.type))


def _sidebar(address: Address, listed: Sequence[data.Listed], compare: bool, steps: bool) -> None:
    titles = {s.name: s.title for s in listed}
    st.selectbox(
        "Suspect",
        list(titles),
        format_func=lambda name: titles.get(name, name),
        key=state.shows("suspect-choice", address.run),
        help="The model under examination.",
        on_change=lambda: state.choose_run(state.shown("suspect-choice")),
    )
    st.segmented_control(
        "View",
        list(ROLES),
        format_func=ROLES.__getitem__,
        key=state.shows("role-choice", state.role(address)),
        required=True,
        width="stretch",
        help="A defender has clean pictures only. The oracle also has the trigger and sees what it does.",
        on_change=lambda: state.change(role=state.shown("role-choice")),
    )
    st.caption(_role_sentence(address))
    if compare:
        _pin(address, titles)
    if steps:
        with st.container(horizontal=True, gap="small"):
            undo_redo()
    copy_link()
    if shared.on():
        st.caption(f":material/group: {shared.WELCOME}")
    tray()


def _role_sentence(address: Address) -> str:
    if state.role(address) == "oracle":
        return "You see what the trigger does. A real defender could not."
    if state.revealed(address):
        return "You have committed to a cut: everything about this suspect is revealed."
    return "ASR, RA and everything else that needs the trigger stay hidden until you commit to a cut."


def pins(address: Address, titles: Mapping[str, str]) -> dict[str, str]:
    """What can be pinned for comparison, by its key in the URL: other scores of this suspect, other suspects."""
    found: dict[str, str] = {}
    for name in [address.run or "", *(n for n in titles if n != address.run)]:
        try:
            labels = data.study_labels(name, state.revealed(address, name)) if name else {}
        except ValueError:
            continue
        for score, label in labels.items():
            if name == address.run or score == address.score:
                found[f"{name}~{score}"] = label if name == address.run else f"{titles[name]}, {label}"
    return found


def pinned(address: Address) -> tuple[str, data.Study] | None:
    """The pinned study with its name, if it may be seen and is another one than the page's."""
    name, _, score = (address.pin or "").rpartition("~")
    if not name or (name, score) == (address.run, address.score):
        return None
    if name not in [suspect.name for suspect in data.suspects()]:
        return None  # a link may name any folder of this machine; only suspects of the workspace are opened
    try:
        study = data.studies(name, state.revealed(address, name)).get(score)
        title = data.suspect(name, False).title
    except ValueError:
        return None
    if study is None:
        return None
    return (study.label if name == address.run else f"{title}, {study.label}"), study


def _pin(address: Address, titles: Mapping[str, str]) -> None:
    options = pins(address, titles)
    st.selectbox(
        "Compare with",
        [None, *options],
        format_func=lambda key: "nothing" if key is None else options.get(key, key),
        key=state.shows("pin-choice", address.pin if address.pin in options else None),
        help="Its curve is drawn thin behind the present one on Prune, in the same colours; on Neurons and Compare its "
        "score is the one across from the present one.",
        on_change=lambda: state.change(pin=state.shown("pin-choice")),
    )
    here = f"{address.run}~{address.score}"
    st.button(
        "Unpin" if address.pin == here else "Pin this curve",
        key="pin-here",
        icon=":material/keep:",
        type="tertiary",
        shortcut="Alt+P",
        on_click=lambda: state.change(pin=None if address.pin == here else here),
    )


def undo_redo() -> None:
    """Step through the cuts made with this score, for pages that show the present one."""
    past = state.history(state.load())
    for label, step, can, keys in (
        ("Undo", state.undo, past.can_undo, "Alt+Z"),
        ("Redo", state.redo, past.can_redo, "Alt+Y"),
    ):
        st.button(
            label, key=label.lower(), icon=f":material/{label.lower()}:", shortcut=keys, disabled=not can,
            type="tertiary", on_click=step,
        )  # fmt: skip


def nothing_yet() -> None:
    st.title("No suspect yet")
    lead("Unmask examines trained networks. Train one with a backdoor in it, and it appears here.")
    st.code("python -m engine attack --data fashion-mnist --model resnet18 --attack badnets --preset demo", None)
    if (refusal := shared.why_not("uploads")) is not None:
        note(refusal)
        return
    note("Or open a model that somebody gave you.")
    st.page_link("views/open.py", label="Open a model", icon=":material/folder_open:")


def refuse(error: Exception, next_step: str) -> None:
    """A refusal as one line, with what to do next; never a traceback."""
    line = " ".join(str(error).split())
    st.error(f"{line[0].upper()}{line[1:]}. {next_step}", icon=":material/error:")


# --- words -----------------------------------------------------------------------------------------------------------


def lead(text: str) -> None:
    st.html(f'<p class="um-lead">{explained(text)}</p>')


def note(text: str) -> None:
    st.html(f'<p class="um-note">{esc(text)}</p>')


def locked(text: str) -> None:
    """A note on what is hidden, with a lock."""
    st.html(f'<p class="um-note">{_LOCK}{esc(text)}</p>')


def over(text: str) -> None:
    st.html(f'<p class="um-over">{esc(text)}</p>')


def heading(text: str, lines: int = 2) -> None:
    st.html(f'<p class="um-title{" one" if lines == 1 else ""}" role="heading" aria-level="2">{esc(text)}</p>')


# --- the metric strip ------------------------------------------------------------------------------------------------

_LONG: dict[Measure, str] = {"acc": "clean accuracy", "asr": "attack success", "ra": "robust accuracy"}


def strip(readings: Mapping[Measure, Reading], pruned: int, total: int, *, seen: bool, details: str = "") -> None:
    """ACC, ASR, RA and the number of units cut; a lock where the view hides a figure."""
    cells = [_cell(m, readings.get(m), seen) for m in MEASURES]
    share = percent(pruned / total) if total else ""
    cells.append(
        '<div class="um-cell units"><div class="um-head"><span class="um-key cut"></span>'
        f"<b>{term('unit', 'Units cut')}</b></div>"
        f'<div class="um-value">{count(pruned)}<span class="of">of {count(total)}</span></div>'
        f'<div class="um-detail"><span>{esc(share)} of all</span><span>{esc(details)}</span></div></div>'
    )
    st.html(f'<div class="um-strip" role="group" aria-label="Figures of the present cut">{"".join(cells)}</div>')


def _cell(m: Measure, reading: Reading | None, seen: bool) -> str:
    head = f'<span class="um-key"></span><b>{term(m, NAME[m])}</b><span class="long">{_LONG[m]}</span>'
    if m != "acc" and not seen:
        return (
            f'<div class="um-cell {m} locked" title="{esc(WHY_LOCKED)}"><div class="um-head">{head}</div>'
            f'<div class="um-value"><span>{_LOCK}Hidden</span></div><div class="um-detail">until you commit</div></div>'
        )
    if reading is None or reading.value is None:
        return (
            f'<div class="um-cell {m} locked"><div class="um-head">{head}</div>'
            '<div class="um-value">–</div><div class="um-detail">this model has no trigger</div></div>'
        )
    chip = f'<span class="um-chip {reading.chip}" title="{esc(reading.source)}"><i>{reading.chip}</i></span>'
    interval = ""
    if reading.low is not None and reading.high is not None:
        interval = f"{100 * reading.low:.1f}–{percent(reading.high)}"
    change = ""
    if reading.change is not None:
        moved = points(reading.change)
        change = "as uncut" if moved == "0.0" else f"{moved} points"
    return (
        f'<div class="um-cell {m} {"stale" if reading.chip == "stale" else ""}">'
        f'<div class="um-head">{head}</div>'
        f'<div class="um-value"><span class="number">{esc(percent(reading.value))}</span>{chip}</div>'
        f'<div class="um-detail"><span>{esc(change)}</span><span>{esc(interval)}</span></div></div>'
    )


# --- charts ----------------------------------------------------------------------------------------------------------


class _Plain(go.Figure):
    """A specification as it is: Streamlit would check every property again with each rerun, and copy it; tests do."""

    def __init__(self, specification: dict[str, Any]) -> None:
        self._specification = specification

    def to_dict(self) -> dict[str, Any]:
        return self._specification


def chart(
    drawn: Chart,
    key: str,
    *,
    on_select: Callable[[], None] | None = None,
    lines: int = 2,
    title: bool = True,
    still: bool = False,
) -> None:
    """A figure under its sentence, with the same numbers as a table on demand.

    A ``still`` one takes no part in zooming: it is drawn anew all the time, which would lose the zoom.
    """
    if title:
        heading(drawn.title, lines)
    options: dict[str, Any] = {}
    if on_select is not None:
        options = {"on_select": on_select, "selection_mode": ("points", "lasso")}
    config = {**_CONFIG, "staticPlot": True} if still else _CONFIG
    st.plotly_chart(_Plain(drawn.figure), theme=None, key=key, config=config, alt=drawn.alt, **options)
    table(drawn.table, key, drawn.title)


def table(values: Table, key: str, alt: str) -> None:
    opener = st.popover(
        "View as table", type="tertiary", icon=":material/table_rows:", key=f"{key}-table", on_change="rerun"
    )
    if opener.open:
        with opener:
            st.dataframe(values, hide_index=True, alt=f"Table of the figure above. {alt}", height=340)


# --- pictures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """One picture with what was answered. Without ``src`` it is a placeholder that says ``why``."""

    name: str
    src: str | None
    alt: str
    side: int
    key: str = ""
    answer: str = ""
    confidence: float | None = None
    why: str = ""
    wrong: bool = False
    locked: bool = False


def pictures(cards: Sequence[Picture], tight: bool = False) -> None:
    st.html(f'<div class="um-cards{" tight" if tight else ""}">{"".join(_picture(card) for card in cards)}</div>')


def _picture(card: Picture) -> str:
    swatch = f'<span class="um-key {esc(card.key)}"></span>' if card.key else ""
    size = f"width:{card.side}px;height:{card.side}px"
    if card.src is None:
        inside = f"{_LOCK if card.locked else ''}<span>{esc(card.why)}</span>"
        shown = f'<div class="um-blank" style="{size}" role="img" aria-label="{esc(card.alt)}">{inside}</div>'
    else:
        shown = (
            f'<img src="{esc(card.src)}" alt="{esc(card.alt)}" width="{card.side}" height="{card.side}" style="{size}">'
        )
    caption = ""
    if card.src is not None and card.answer:
        sure = "" if card.confidence is None else f"<span>{esc(percent(card.confidence))}</span>"
        width = 100 * (card.confidence or 0)
        bar = "" if card.confidence is None else f'<span class="bar"><i style="width:{width:.1f}%"></i></span>'
        caption = f'<span class="say"><span>{esc(card.answer)}</span>{sure}</span>{bar}'
    if card.src is not None and card.why:
        caption += f'<span class="why">{esc(card.why)}</span>'
    return (
        f'<figure class="um-card{" wrong" if card.wrong else ""}" style="width:{card.side}px">'
        f'<p class="um-name">{swatch}<span>{esc(card.name)}</span></p>{shown}'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def answered(
    name: str, src: str, probabilities: Sequence[float], truth: int, classes: Sequence[str], **more: Any
) -> Picture:
    """A picture with the class that was answered, how surely, and whether that is right."""
    said = max(range(len(classes)), key=lambda k: float(probabilities[k]))
    right = said == truth
    why = "correct" if right else f"wrong: it is {article(classes[truth])}"
    alt = (
        f"{name}: {article(classes[truth])}, answered as {classes[said]} with "
        f"{percent(float(probabilities[said]))} confidence, {'correctly' if right else 'wrongly'}."
    )
    return Picture(
        name, src, alt, answer=classes[said], confidence=float(probabilities[said]), why=why, wrong=not right, **more
    )


def locked_picture(name: str, side: int, why: str = "Shown after you commit: a defender has no trigger.") -> Picture:
    return Picture(name, None, f"{name}: hidden in the Defender view.", side, key="asr", why=why, locked=True)


def article(noun: str) -> str:
    """A class in mid-sentence: ``an ankle boot``, ``a T-shirt``."""
    word = noun if len(noun) > 1 and not noun[1].islower() else noun[:1].lower() + noun[1:]
    return f"{'an' if word[:1].lower() in 'aeiou' else 'a'} {word}"


# --- before and after ------------------------------------------------------------------------------------------------


def meters(
    rows: Sequence[tuple[Measure, float | None, float | None]],
    *,
    cut: bool | None,
    names: tuple[str, str],
    stacked: bool = False,
) -> None:
    """Measures before and after, as bars; the side that is not in force is faint (``cut`` None: both are)."""
    parts = []
    for m, before, after in rows:
        lines = "".join(
            f'<div class="row{"" if on else " off"}"><span>{esc(name)}</span><span class="track">'
            f'<i style="width:{100 * (value or 0):.1f}%"></i></span><b>{esc(percent(value))}</b></div>'
            for name, value, on in ((names[0], before, cut is not True), (names[1], after, cut is not False))
        )
        parts.append(
            f'<div class="um-meter {m}"><div class="um-head"><span class="um-key {m}"></span>'
            f'<b>{term(m, NAME[m])}</b><span class="long">{_LONG[m]}</span></div>{lines}</div>'
        )
    st.html(f'<div class="um-pair{" stacked" if stacked else ""}">{"".join(parts)}</div>')


def facts(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A small table; every column but the first holds numbers. Without ``columns`` it has no head, and holds words."""
    if not columns:
        lines = "".join(
            f'<tr><td class="what">{esc(what)}</td>{"".join(f"<td>{esc(c)}</td>" for c in rest)}</tr>'
            for what, *rest in rows
        )
        st.html(f'<table class="um-facts words"><tbody>{lines}</tbody></table>')
        return
    head = "".join(f"<th{'' if k == 0 else ' class=n'}>{esc(c)}</th>" for k, c in enumerate(columns))
    body = "".join(
        "<tr>" + "".join(f"<td{'' if k == 0 else ' class=n'}>{esc(c)}</td>" for k, c in enumerate(row)) + "</tr>"
        for row in rows
    )
    st.html(f'<table class="um-facts"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>')


# --- questions -------------------------------------------------------------------------------------------------------


def answer_to(question: Mapping[str, Any], seen: bool) -> ask.Answer:
    """The present answer to a question, which is asked if the worker's newest one of its kind is another.

    Answers are kept for the session, redacted on the way out, so a page that asks again gets them at once.
    """
    store = st.session_state.setdefault("answers", {})
    key = repr(sorted(question.items()))
    known = store.get(key)
    if known is None:
        kind = str(question["kind"])
        found = ask.poll(state.session(), kind)
        if found is None or not same(found.question, question):
            ask.ask(dict(question), state.session())
            found = ask.poll(state.session(), kind)
        if found is None or not same(found.question, question):
            found = ask.Answer(dict(question), "starting", "starting the worker")
        known = found
        if found.final:
            while len(store) >= 64:
                store.pop(next(iter(store)))
            store[key] = found
    hidden = state.redact({"value": known.value}, seen)["value"]
    return ask.Answer(
        known.question, known.state, state.redact_text(known.what, seen), known.share, hidden, known.error
    )


def kept(question: Mapping[str, Any], seen: bool) -> ask.Answer | None:
    """The final answer to a question if it was given before in this session."""
    known = st.session_state.get("answers", {}).get(repr(sorted(question.items())))
    if known is None:
        return None
    return ask.Answer(
        known.question, known.state, "", known.share, state.redact({"value": known.value}, seen)["value"], known.error
    )


def forget(question: Mapping[str, Any]) -> None:
    """Drop a kept answer, so that the question is asked again."""
    st.session_state.setdefault("answers", {}).pop(repr(sorted(question.items())), None)


def same(asked: Mapping[str, Any], question: Mapping[str, Any]) -> bool:
    return all(list(asked.get(k) or []) == list(v) if isinstance(v, list | tuple) else asked.get(k) == v
               for k, v in question.items())  # fmt: skip


def pace(figures: bool = False) -> float:
    """Seconds between two looks at an answer that is on its way; more while many look, because each one is a rerun.

    Args:
        figures: whether there are first figures already, which leaves time for those who have none.
    """
    return max(0.35, 0.1 * ask.waiting() if figures else 0.03 * ask.waiting(figures=False))


def failed(question: Mapping[str, Any], answer: ask.Answer, key: str) -> None:
    """What went wrong in one line, and a way to ask again."""
    line = answer.error or "no answer came"
    st.error(f"{line[0].upper()}{line[1:]}.", icon=":material/error:")
    st.button("Try again", key=key, icon=":material/refresh:", on_click=_again, args=(question,))


def _again(question: Mapping[str, Any]) -> None:
    """The worker still has its former answer: only asking makes it look anew."""
    forget(question)
    ask.ask(dict(question), state.session())


def waiting(answer: ask.Answer, what: str = "") -> None:
    """What is being computed and how far it is."""
    words = answer.what or what or "working"
    if answer.state == "starting":
        words = "waking the worker: it loads the engine once, which takes a few seconds"
    st.progress(answer.share if answer.share is not None else 0.02, text=f"{words[0].upper()}{words[1:]} …")


# --- the job tray ----------------------------------------------------------------------------------------------------

_SHOWN_SECONDS = 6 * 3600


def submit(argv: list[str], label: str) -> None:
    """Start a job, as a callback; the tray shows it, or says why there is none."""
    start(argv, label)


def start(argv: list[str], label: str) -> jobs.Job | None:
    """Start a job; None where there is none, with the reason for the tray. A visitor has one at a time."""
    if refusal := _no_more_jobs():
        st.session_state["job-error"] = refusal
        return None
    try:
        job = jobs.submit(argv, label=label)
    except (ValueError, OSError) as error:
        st.session_state["job-error"] = " ".join(str(error).split())
        return None
    shared.started(job.id)
    return job


def _no_more_jobs() -> str | None:
    if (refusal := shared.why_not("jobs")) is not None or not shared.on():
        return refusal
    going = [job for job in jobs.jobs() if job.id in shared.own() and not jobs.status(job.id).ended]
    return (
        f"In a shared dashboard one job at a time is yours; {going[0].label or 'one'} has not ended." if going else None
    )


def live_jobs() -> list[tuple[jobs.Job, jobs.Status]]:
    """Jobs that go on, and those that ended lately and were not put away."""
    hidden = st.session_state.setdefault("jobs-away", set())
    found = []
    for job in jobs.jobs():
        if job.id in hidden or time.time() - job.submitted > _SHOWN_SECONDS:
            continue
        try:
            found.append((job, jobs.status(job.id)))
        except ValueError:
            continue
    return found[:6]


def tray() -> None:
    rows = live_jobs()
    going = any(not status.ended and status.state != "paused" for _, status in rows)
    if error := st.session_state.pop("job-error", None):
        st.error(f"That did not work: {error.removesuffix('.')}.", icon=":material/error:")
    if not rows:
        return
    over("Jobs")
    st.session_state["jobs-going"] = sorted(job.id for job, status in rows if not status.ended)
    st.fragment(_tray, run_every=1.0 if going else None)()


def _tray() -> None:
    rows = live_jobs()
    going = sorted(job.id for job, status in rows if not status.ended)
    for job, status in rows:
        _job(job, status)
    if going != st.session_state.get("jobs-going", going):
        # Something ended: its run may be what the page is waiting for.
        st.session_state["jobs-going"] = going
        st.rerun()


def _job(job: jobs.Job, status: jobs.Status) -> None:
    with st.container(border=True, gap="xsmall", key=f"job-{job.id}"):
        seen = seen_of(job.argv[0] if job.argv else "", jobs.suspect_of(job.argv), job.folder)
        st.html(f'<p class="um-note"><b>{esc(job_title(job.label, job.argv, seen))}</b></p>')
        if not status.ended:
            progress(status, seen)
            cancel_button(job.id, f"cancel-{job.id}")
            return
        if status.state == "failed":
            st.html(f'<p class="um-note um-bad">{esc(state.redact_text(status.error or "", seen) or "It failed.")}</p>')
        else:
            note(f"{'Done in' if status.state == 'done' else 'Cancelled after'} {clock(status.seconds)}.")
        st.button(
            "Put away",
            key=f"away-{job.id}",
            icon=":material/close:",
            type="tertiary",
            on_click=st.session_state["jobs-away"].add,
            args=(job.id,),
        )


def progress(status: jobs.Status, seen: bool) -> None:
    """What a job is doing, how far it is, how long it has taken and how long it will take; what it waits for."""
    if status.state == "paused":
        st.html(f'<p class="um-note um-bad">Paused: {esc(state.redact_text(status.error or "", seen))}</p>')
        return
    what = state.redact_text(status.what, seen) or "working"
    if status.state == "queued":
        what = "waits to go on from its last checkpoint" if status.attempt else "waits for its turn"
    elif status.state == "starting":
        what = "goes on from its last checkpoint" if status.attempt > 1 else "starting"
    took = clock(status.seconds)
    left = f" · {clock(status.eta)} to go" if status.eta is not None else ""
    st.progress(min(1.0, status.share or 0.0), text=f"{plain(what[0].upper() + what[1:])} · {took}{left}")


def cancel_button(job: str, key: str) -> None:
    job_button("cancel", job, key, "Cancel", ":material/cancel:")


def resume_button(job: str, key: str) -> None:
    job_button("resume", job, key, "Resume", ":material/resume:", "Goes on from the last checkpoint.")


def job_button(
    what: Literal["cancel", "resume"], job: str, key: str, label: str, icon: str, help: str | None = None
) -> None:
    """A button that does something to a job, unless this visitor may not."""
    refusal = shared.why_not(what, job)
    st.button(
        label, key=key, icon=icon, type="tertiary", disabled=refusal is not None, help=refusal or help, on_click=act,
        args=(what, job),
    )  # fmt: skip


def act(what: Literal["cancel", "resume", "delete"], job: str) -> None:
    """Do something to a job as a callback; a refusal is shown in the sidebar."""
    try:
        if refusal := shared.why_not(what, job):
            raise ValueError(refusal)
        getattr(jobs, what)(job)
    except (ValueError, OSError) as error:
        st.session_state["job-error"] = " ".join(str(error).split())


def seen_of(kind: str, suspect: str | None, folder: Path) -> bool:
    """Whether everything about a run or job may be shown: that depends on the suspect that it made or is about."""
    return state.revealed(state.load(), str(folder) if kind in ("attack", "import") else suspect or "?")


def uses_trigger(argv: Sequence[str]) -> bool:
    """Whether a command was allowed to use the true trigger."""
    line = " ".join(argv).replace("=", " ")
    return list(argv[:1]) == ["retune"] or "--trigger true" in line or "--policy oracle" in line


def job_title(label: str, argv: Sequence[str], seen: bool) -> str:
    """What a job is called; where the trigger must stay hidden, without what would give it away."""
    if seen:
        return label or " ".join(argv[:1])
    if list(argv[:1]) == ["attack"]:
        return "Training a suspect"
    hidden = uses_trigger(argv) or not state.redact_text(label, False)
    return "A job that uses the trigger" if hidden and label else label or " ".join(argv[:1])


def plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]()#+!|<>~:$" else c for c in text)
