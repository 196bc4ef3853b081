"""From a file that was looked at to a suspect: the form of an import, its progress, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from app import data, handed, panels, state, trigger_form
from app.palette import count, percent
from app.trigger_form import Pictures
from engine.intake import desk
from engine.runs import jobs
from engine.runs.jobs import Status
from engine.runs.store import open_run

_OWN = "my own pictures"
_PREPROCESS = {"auto": "Find it out: try the known ones", "none": "None: pixels from 0 to 1"}


# --- the form --------------------------------------------------------------------------------------------------------


def form(report: Mapping[str, Any], file: Path) -> None:
    """Everything that an import asks for; the button queues it."""
    choices = report["choices"]
    st.space("small")
    panels.over("2 \u00b7 How it is measured")
    with st.container(border=True, key="import-form"):
        left, right = st.columns(2, gap="large")
        with left:
            words = [*_table(report), *_model(report, choices), *_without_pictures(report, file)]
            words += ["--preprocess", _preprocess(choices)]
        with right:
            chosen = _pictures(report, choices)
        st.space("small")
        trigger = trigger_form.trigger(choices, chosen)
        why = _why_not(report, words, chosen)
        with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
            ready = chosen is not None and trigger is not None and not why
            st.button(
                "Open as a suspect", type="primary", icon=":material/folder_open:", key="import-go",
                disabled=not ready, on_click=_submit,
                args=(file, chosen.name if chosen else "", words, trigger or [], _label()),
            )  # fmt: skip
            panels.note(why or "It waits in the queue, runs by itself and goes on if you close this page.")


def _label() -> str:
    name = handed.short(handed.current("checkpoint"), 40)
    return f"Open {name}" if state.redact_text(name, False) else "Open a model"


def _submit(file: Path, source: str, words: list[str], trigger: list[str | bytes], label: str) -> None:
    try:
        found = [str(desk.keep_trigger(w)) if isinstance(w, bytes) else w for w in trigger]
    except OSError as error:
        st.session_state["job-error"] = " ".join(str(error).split())
        return
    job = panels.start(["import", str(file), "--data", source, *words, *found], label)
    if job is not None:
        state.go(job=job.id)


def _table(report: Mapping[str, Any]) -> list[str]:
    """The table of weights, asked for only where there is no telling which it is."""
    groups = sorted({row["group"] for row in report["tensors"]})
    if report["weights"] is not None or len(groups) < 2:
        return []
    group = st.selectbox(
        "Table of weights", groups, format_func=lambda g: repr(g[:80]), key=f"import-table-{report['sha256']}",
        help="The file holds several tables of tensors; one of them is the model.",
    )  # fmt: skip
    return [] if group is None else ["--weights", group]


def _without_pictures(report: Mapping[str, Any], file: Path) -> list[str]:
    """An uploaded result of BackdoorBench comes without the triggered pictures that it names."""
    bench = report.get("backdoorbench")
    if not bench or not bench["images"] or desk.inbox_folder() in file.parents:
        return []
    panels.note(
        f"It names {count(bench['images'])} triggered pictures that were not uploaded with it; without them nothing is "
        f"known of its ASR. To measure it, put the whole folder into {desk.inbox_folder()} and choose it there."
    )
    return ["--without-pictures"]


def _model(report: Mapping[str, Any], choices: Mapping[str, Any]) -> list[str]:
    fits = {row["name"]: row for row in report["architectures"]}
    titles = {row["name"]: row["title"] for row in choices["models"]}
    options = [*fits, *(name for name in titles if name not in fits)]
    chosen = st.selectbox(
        "Architecture",
        options,
        index=0 if fits else None,
        placeholder="None of the known ones fits",
        format_func=lambda n: f"{titles.get(n, n)} \u00b7 {'fits' if n in fits else 'does not fit by name and shape'}",
        key=f"import-model-{report['sha256']}",
        help="Weights are loaded strictly by name. An architecture of your own can be given on the command line only.",
    )
    return ["--model", chosen] if chosen else []


def _preprocess(choices: Mapping[str, Any]) -> str:
    chosen = st.selectbox(
        "Normalisation",
        choices["preprocess"],
        format_func=lambda name: _PREPROCESS.get(name, name),
        key="import-preprocess",
        help="What was done to pixels before this network saw them. It becomes the first layer of the suspect.",
    )
    return str(chosen)


def _pictures(report: Mapping[str, Any], choices: Mapping[str, Any]) -> Pictures | None:
    classes = next((row["classes"] for row in report["architectures"]), None)
    known = {row["name"]: row for row in choices["datasets"]}
    # Those with as many classes as the model answers, at hand before those that must be downloaded.
    order = sorted(known, key=lambda n: (len(known[n]["classes"]) != classes, not known[n]["offline"]))

    def words(name: str) -> str:
        if name == _OWN:
            return "My own pictures (zip or .npz)"
        row = known[name]
        return f"{row['title']} \u00b7 {len(row['classes'])} classes{'' if row['offline'] else ', a download first'}"

    matching = bool(order) and len(known[order[0]]["classes"]) == classes
    chosen = st.selectbox(
        "Pictures to measure it with", [*order, _OWN], index=0 if matching else len(order), format_func=words,
        key=f"import-data-{report['sha256']}",
        help="Clean pictures of the classes, in the order, that the model was trained for.",
    )  # fmt: skip
    if chosen != _OWN:
        row = known[str(chosen)]
        panels.note(row["about"])
        return Pictures(row["name"], row["classes"], row["shape"])
    handed.uploader(
        "data", "Zip or .npz", "A zip with one folder of pictures for each class, or an .npz with x_train and y_train."
    )
    empty = "A zip with one folder of pictures for each class, or an .npz with x_train, y_train and so on."
    look = handed.accepted(handed.found("data"), "data", empty, "Nothing of it was kept.")
    if look is not None and look.value is not None and look.path is not None:
        found = look.value
        depth, height, width = found["shape"]
        total = found["train"] + found["pool"] + found["test"]
        panels.note(
            f"{handed.short(handed.current('data'))}: {count(total)} pictures of {width} \u00d7 {height} pixels, "
            f"{'colour' if depth == 3 else 'grey'}, {len(found['classes'])} classes: {_listed(found['classes'])}."
        )
        return Pictures(str(look.path), found["classes"], found["shape"])
    return None


def _listed(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(name[:30] for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _why_not(report: Mapping[str, Any], words: Sequence[str], chosen: Pictures | None) -> str:
    """What is missing before the import can start, or would surely refuse it."""
    if not report["tensors"]:
        return "There are no tensors in this file."
    if "--model" not in words and len(report["architectures"]) != 1:
        return "Choose an architecture. One of your own: python -m engine import FILE --data D --arch net.py:make"
    if chosen is None:
        return "Choose pictures to measure it with."
    model = words[words.index("--model") + 1] if "--model" in words else None
    fits = [row for row in report["architectures"] if model in (None, row["name"])]
    if fits and fits[0]["classes"] != len(chosen.classes):
        return f"The model answers {fits[0]['classes']} classes; these pictures have {len(chosen.classes)}."
    return ""


# --- what came of it -------------------------------------------------------------------------------------------------


def outcome() -> None:
    """The import that the address names, while it goes on and afterwards."""
    job = state.load().job
    entry = next((e for e in jobs.entries() if e.name == job), None)
    if entry is None or entry.argv is None or entry.kind != "import":
        return
    st.space("small")
    panels.over("3 \u00b7 The suspect")
    with st.container(border=True, key="import-outcome"):
        status = jobs.status(entry.folder)
        if status.state != "done":
            panels.heading(entry.label, lines=1)
        if status.state == "done":
            _suspect(entry.folder, entry.argv)
        elif status.ended:
            _ended(status)
        else:
            st.fragment(_going, run_every=1.0)(entry.name)


def _going(name: str) -> None:
    status = jobs.status(name)
    if status.ended:
        st.rerun()
    panels.progress(status, False)
    panels.cancel_button(name, f"import-cancel-{name}")


def _ended(status: Status) -> None:
    if status.state == "cancelled":
        panels.note("Cancelled. Nothing of it was kept; the file itself is still there.")
    else:
        panels.refuse(ValueError(status.error or "it failed"), "Change the settings above and try again.")


def _suspect(folder: Path, argv: Sequence[str]) -> None:
    name = str(folder)
    seen = state.revealed(state.load(), name)
    try:
        suspect, run = data.suspect(name, seen), open_run(folder)
    except ValueError as error:
        panels.refuse(error, "Open the file again.")
        return
    result = suspect.result
    low, high = result["intervals"]["acc"]
    classes = len(suspect.classes)
    panels.heading(
        f"It names {percent(result['acc'])} of {count(result['n']['acc'])} clean pictures correctly", lines=1
    )
    panels.note(
        f"{suspect.title} is what the menus call it. ACC lies between {percent(low)} and {percent(high)} (95 %); "
        f"guessing among {classes} classes would give {percent(1 / classes)}."
    )
    if result["acc"] < 2 / classes:
        panels.note("Little better than guessing: are these its pictures, and its classes in the same order?")
    _tried(result["preprocess"])
    if {"--attack", "--trigger"} & set(argv) or run.has("triggered.safetensors"):
        if seen and result.get("asr") is not None:
            panels.note(f"Its trigger gets the attacker's answer on {percent(result['asr'])} of the pictures (ASR).")
        else:
            panels.locked("What its trigger does was measured, and is revealed when you commit to a cut.")
    with st.container(horizontal=True, gap="medium"):
        for page, label, icon in (
            ("prune", "Open it in Prune", "content_cut"), ("neurons", "Look at its neurons", "grain"),
        ):  # fmt: skip
            st.page_link(f"views/{page}.py", label=label, icon=f":material/{icon}:", query_params={"run": name})


def _tried(preprocess: Mapping[str, Any]) -> None:
    tried = preprocess["tried"]
    if not tried:
        panels.note(f"Normalisation: {preprocess['name']}, as you said.")
        return
    panels.note(
        f"Normalisation: {preprocess['name']}, the most accurate on {count(tried[0]['n'])} clean pool pictures."
    )
    rows = [
        (row["name"] + (" (kept)" if row["name"] == preprocess["name"] else ""), percent(row["acc"])) for row in tried
    ]
    half = (len(rows) + 1) // 2
    for column, part in zip(st.columns(2, gap="large"), (rows[:half], rows[half:]), strict=True):
        with column:
            if part:
                panels.facts(["normalisation", "ACC"], part)
