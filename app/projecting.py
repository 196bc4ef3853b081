"""The latent projection of the Layers page: by principal components at once, by t-SNE as a job."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import streamlit as st

from app import data, panels, projection_figures, state
from app.live import live
from app.panels import Frame, esc
from app.projection_figures import colours
from app.redaction import redact
from app.scoring import under_way
from engine.runs.store import Run

METHODS = {"pca": "PCA", "tsne": "t-SNE"}


def section(frame: Frame, now: data.Present, layer: str) -> None:
    """Where clean and triggered pictures lie in feature space, without and with the present cut."""
    st.header("Where do the pictures lie?")
    address = state.load()
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        st.segmented_control(
            "Features of", ["last", "layer"], format_func={"last": "The last layer", "layer": layer}.__getitem__,
            key=state.shows("features-choice", address.features or "last"), required=True,
            help="The last layer: what the answers are computed from. Others are averaged over their positions.",
            on_change=lambda: state.change(features=_chosen("features-choice", "layer")),
        )  # fmt: skip
        st.segmented_control(
            "Placed by", list(METHODS), format_func=METHODS.__getitem__,
            key=state.shows("projection-choice", address.projection or "pca"), required=True,
            help="PCA: the plane that keeps most of the clean pictures' variance, at once. t-SNE: neighbours stay "
            "neighbours; a job of half a minute or more.",
            on_change=lambda: state.change(projection=_chosen("projection-choice", "tsne")),
        )  # fmt: skip
    of = layer if address.features else None
    if address.projection:
        _tsne(frame, now, of)
    else:
        _pca(frame, now, of)


def _chosen(widget: str, word: str) -> str | None:
    return word if state.shown(widget) == word else None


# --- principal components --------------------------------------------------------------------------------------------


def _pca(frame: Frame, now: data.Present, of: str | None) -> None:
    question = {"kind": "latent", "suspect": frame.suspect.name, "layer": of, "triggered": frame.seen,
                "cut": now.numbers, "mode": state.load().mode}  # fmt: skip

    def draw() -> None:
        answer = panels.answer_to(question, frame.seen)
        if answer.error:
            panels.failed(question, answer, "again-latent")
        elif answer.value is None:
            with st.container(height=500, border=False):
                panels.waiting(answer, "looking at the pictures")
        else:
            _shown(frame, answer.value, now.pruned)

    live(draw, frame, question)


def _shown(frame: Frame, found: Mapping[str, Any], pruned: int) -> None:
    classes = frame.suspect.classes
    panels.chart(projection_figures.projection(found, classes, frame.theme, pruned=pruned), "projection", lines=1)
    stamped = "before_triggered" in found
    swatches = "".join(
        f'<span><i style="background:{hue}"></i>{esc(name)}</span>'
        for name, hue in zip(classes, colours(frame.theme, len(classes)), strict=True)
    )
    kinds = '<span><b class="um-dot"></b>clean</span>' + '<span><b class="um-square"></b>triggered</span>' * stamped
    st.html(f'<div class="um-legend" role="note" aria-label="Colours and signs">{kinds}{swatches}</div>')
    words = "Colour: the true class, whose name stands amid its clean pictures. "
    if found.get("shares"):
        words += "Both panels use the plane of the uncut network's clean pictures. "
    else:
        words += "Both panels are one t-SNE of all the points: neighbours mean something, distances across it little. "
    words += "Nearest: by the centres of the clean classes, in all dimensions. "
    if stamped:
        words += "Triggered pictures of the target's own class are left out."
    panels.note(words)
    if not stamped and not frame.seen:
        panels.locked(f"Triggered pictures are hidden. {panels.WHY_LOCKED}")
    if not pruned:
        panels.note("Choose a threshold on Prune to see the same pictures after a cut beside these.")


# --- t-SNE -----------------------------------------------------------------------------------------------------------


def _tsne(frame: Frame, now: data.Present, of: str | None) -> None:
    stamped = frame.seen and frame.suspect.result.get("asr") is not None
    wanted = {"kind": "project", "suspect": frame.suspect.name, "method": "tsne", "layer": of, "cut": now.numbers,
              "mode": state.load().mode, "trigger": "true" if stamped else "none"}  # fmt: skip
    run = finished(wanted, frame)
    if run is not None:
        result = data.documents(run)[1]
        _shown(frame, redact({**result, **run.arrays("projection")}, frame.seen), now.pruned)
        return
    argv = command(wanted)
    with st.container(border=True):
        panels.heading(f"Make a t-SNE of {frame.suspect.title}", lines=1)
        sorts = "clean pictures" + " and as many triggered ones" * stamped
        panels.note(
            f"It places 250 {sorts} so that pictures with like features lie together, "
            f"{'without and with the present cut' if now.pruned else 'nothing cut'}. Expect half a minute or more; the "
            "job goes on if you leave this page, and what is made stays."
        )
        going = [job for job, status in panels.live_jobs() if list(job.argv) == argv and not status.ended]
        if going:
            st.fragment(under_way, run_every=1.0)(going[0].id)
            return
        st.button(
            "Make the t-SNE", type="primary", icon=":material/play_arrow:", key="tsne-go", on_click=panels.submit,
            args=(argv, f"t-SNE of {frame.suspect.title}"),
        )  # fmt: skip


def finished(wanted: Mapping[str, Any], frame: Frame) -> Run | None:
    """The run of the workspace that answers just this, of the suspect as it is now; the same job is not done twice."""
    digest = data.weights_of(frame.suspect.name)
    for run in data.runs_of("project"):
        spec = data.documents(run)[0]
        if run.manifest["inputs"].get("suspect") == digest and all(
            (list(spec[key]) if key == "cut" else spec.get(key)) == value for key, value in wanted.items()
        ):
            return run
    return None


def command(wanted: Mapping[str, Any]) -> list[str]:
    """The command line of a projection, units as runs of numbers."""
    argv = ["project", str(wanted["suspect"]), "--method", str(wanted["method"]), "--trigger", str(wanted["trigger"])]
    if wanted["layer"]:
        argv += ["--layer", str(wanted["layer"])]
    if wanted["cut"]:
        argv += ["--cut", runs(wanted["cut"]), "--mode", str(wanted["mode"])]
    return argv


def runs(numbers: list[int]) -> str:
    """Rising numbers in short: ``3,5-9``."""
    parts = []
    for _, group in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        members = [number for _, number in group]
        parts.append(f"{members[0]}-{members[-1]}" if len(members) > 1 else str(members[0]))
    return ",".join(parts)
