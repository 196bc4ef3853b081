"""Training in the Attack lab: what it starts from, the button, the live figures, and where the finished model goes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import streamlit as st

from app import lab, lab_figures, panels, shared, state
from app.lab import Lab, Side
from app.palette import Theme, percent
from engine.runs import jobs
from engine.runs.jobs import Entry, Status
from engine.runs.store import open_run


def section(now: Lab, side: Side, wrong: str | None, theme: Theme) -> None:
    """``wrong`` is why these settings cannot be trained: one line, "" while that is being checked, None if they can."""
    panels.over("Train a suspect with it")
    with st.container(border=True, key=f"lab-train{side.suffix}", gap="small"):
        twin = _twin(now, side) if side.row["needs_clean_model"] else None
        refusal = shared.why_not("jobs")
        st.button(
            "Train", type="primary", icon=":material/play_arrow:", key=f"lab-go{side.suffix}", help=refusal,
            disabled=wrong is not None or refusal is not None, on_click=_submit, args=(now, side, twin),
        )  # fmt: skip
        if wrong == "":
            panels.note("Checking these settings \u2026")
        else:
            panels.note("There is nothing to train yet." if wrong else refusal or _promise(now, side, twin))
        _outcome(side, theme)


def _promise(now: Lab, side: Side, twin: str | None) -> str:
    bench = now.bench
    epochs = f"{bench.epochs} epoch{'' if bench.epochs == 1 else 's'}"
    wide = "" if bench.width is None else f" of width {bench.width}"
    first = " The clean model is trained first." if twin == lab.TRAIN else ""
    seconds = lab.estimate(bench, side)
    took = "" if seconds is None else f" By your finished runs it takes about {panels.clock(seconds)}."
    return (
        f"{bench.model}{wide}, {epochs} on {bench.title}.{first}{took} It waits in the queue, runs by itself and goes "
        "on if you close this page."
    )


def _twin(now: Lab, side: Side) -> str:
    """The clean model that this attack starts from."""
    found = {**lab.twins(now.bench), lab.TRAIN: "Train one first, with the same settings"}
    value = side.wanted_twin if side.wanted_twin in found else next(iter(found))
    name = f"lab-twin{side.suffix}-{side.name}"
    st.selectbox(
        "Clean model", list(found), format_func=lambda key: found.get(key, key), key=state.shows(name, value),
        on_change=lambda: lab.put(**{f"twin{side.suffix}": state.shown(name)}),
        help="This attack needs a trained model without a backdoor before it can poison anything.",
    )  # fmt: skip
    return str(value)


def _submit(now: Lab, side: Side, twin: str | None) -> None:
    job = panels.start(lab.command(now.bench, side, twin), f"{side.title} on {now.bench.title}")
    if job is None:
        return
    lab.mine().add(job.id)
    if side.suffix:
        lab.put(**{f"job{side.suffix}": job.id})
    else:
        state.go(job=job.id)


# --- what became of it -----------------------------------------------------------------------------------------------


def _outcome(side: Side, theme: Theme) -> None:
    name = lab.raw().get("job2") if side.suffix else state.load().job
    entry = next((e for e in jobs.entries() if e.name == name), None)
    if entry is None or entry.argv is None or entry.kind != "attack":
        return
    seen = lab.seen(entry.folder)
    status = jobs.status(entry.folder)
    st.html(f'<p class="um-note"><b>{panels.esc(panels.job_title(entry.label, entry.argv, seen))}</b></p>')
    if status.ended or status.state == "paused":
        _ended(entry, status, side, seen, theme)
    else:
        st.fragment(_going, run_every=1.0)(entry.name, side.suffix, theme)


def _going(name: str, suffix: str, theme: Theme) -> None:
    status = jobs.status(name)
    if status.ended or status.state == "paused":
        st.rerun()
    folder = jobs.find(name)
    seen = lab.seen(folder)
    panels.progress(status, seen)
    panels.cancel_button(name, f"lab-cancel{suffix}")
    _chart(name, folder, seen, theme, suffix, live=True)
    _who(name, seen, suffix)


def _ended(entry: Entry, status: Status, side: Side, seen: bool, theme: Theme) -> None:
    if status.state == "done":
        _finished(entry.folder, seen)
    elif status.state == "failed":
        panels.refuse(ValueError(state.redact_text(status.error or "", seen) or "it failed"), "Change the settings.")
    elif status.state == "cancelled":
        panels.note(f"Cancelled after {panels.clock(status.seconds)}. It can go on from its last checkpoint.")
    else:
        panels.progress(status, seen)
    if status.state != "done":
        panels.resume_button(entry.name, f"lab-resume{side.suffix}")
    _chart(entry.name, entry.folder, seen, theme, side.suffix, live=False, done=status.state == "done")
    _who(entry.name, seen, side.suffix)


def _finished(folder: Path, seen: bool) -> None:
    try:
        result = open_run(folder).result
    except ValueError as error:
        panels.refuse(error, "Train it again.")
        return
    state.note_seen(str(folder), seen)
    figures: list[tuple[panels.Measure, float]] = [("acc", result["acc"])]
    if seen:
        # A source-specific or targeted attack may have no ASR; what there is, is shown.
        figures += [(m, result[m]) for m in ("asr", "ra") if result.get(m) is not None]
    said = ", ".join(f"{m.upper()} {percent(value)}" for m, value in figures)
    panels.heading(f"Done: {said} on the test pictures.", lines=1)
    if seen and result.get("success") is not None:  # an attack on chosen pictures has no ASR
        panels.note(f"{percent(result['success'])} of the chosen pictures get the attacker's answer.")
    with st.container(horizontal=True, gap="medium"):
        for page, label, icon in (
            ("prune", "Open it in Prune", "content_cut"), ("neurons", "Look at its neurons", "grain"),
        ):  # fmt: skip
            st.page_link(f"views/{page}.py", label=label, icon=f":material/{icon}:", query_params={"run": str(folder)})
    panels.note("There it opens in the Defender view: its trigger stays hidden until you commit to a cut.")


def _who(name: str, seen: bool, suffix: str) -> None:
    if not seen:
        panels.locked("ASR is hidden: this session did not start the training.")
        st.button(
            "I am the attacker: show it", key=f"lab-who{suffix}", type="tertiary", icon=":material/visibility:",
            on_click=lab.mine().add, args=(name,),
        )  # fmt: skip


def _chart(name: str, folder: Path, seen: bool, theme: Theme, suffix: str, live: bool, done: bool = False) -> None:
    lines = _journal(name, folder)
    if done and lines:
        # The journal ends before the last epoch is measured; what was found then is the result.
        with contextlib.suppress(ValueError):
            result = open_run(folder).result
            lines.append({**lines[-1], **{m: result[m] for m in ("acc", "asr") if result.get(m) is not None}})
    drawn = lab_figures.training(lines, theme, seen)
    if drawn is None:
        if live:
            panels.note("Loss, ACC and ASR appear here with the first steps.")
        return
    panels.chart(drawn, f"lab-chart{suffix}-{'live' if live else 'ended'}", still=live)
    panels.note(
        "ACC is of training pictures in the first epoch. After each epoch ACC and ASR are measured on 500 test "
        "pictures, at the end on all."
    )


def _journal(name: str, folder: Path) -> list[dict[str, Any]]:
    """The lines with figures so far; only what is new is read."""
    kept: dict[str, Any] = st.session_state.setdefault("lab:journals", {})
    if name not in kept:
        kept[name] = {"lines": [], "offset": 0}
    found = kept[name]
    new, found["offset"] = jobs.events(folder, found["offset"])
    found["lines"] += [line for line in new if "step" in line]
    return list(found["lines"])
