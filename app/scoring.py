"""What a page shows: the chosen score of a suspect, or why there is none and the button that scores it."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from app import data, panels, state
from app.panels import Frame
from engine.runs import jobs


def scored(frame: Frame, promise: str) -> tuple[dict[str, data.Study], data.Study] | None:
    """The suspect's studies and the chosen one; without any, ``None``, and the page says what to do."""
    try:
        studies = data.studies(frame.suspect.name, frame.seen)
    except ValueError as error:
        panels.refuse(error, "Score this model again, or get a fresh copy of the demos.")
        return None
    if not studies:
        unscored(frame, promise)
        return None
    if frame.address.score not in studies:
        state.choose_score(next(iter(studies)))
    return studies, studies[state.load().score]


def score_choice(
    studies: Mapping[str, data.Study], study: data.Study, label: str, about: str = "Higher is more suspicious."
) -> None:
    """The scores to choose among; the page follows the address."""
    st.segmented_control(
        label,
        list(studies),
        format_func=lambda name: studies[name].label + (" \u25c7" if studies[name].oracle else ""),
        key=state.shows("score-choice", study.score),
        required=True,
        help=f"{about} \u25c7 oracle: this score used the trigger.",
        on_change=lambda: state.choose_score(state.shown("score-choice")),
    )


def unscored(frame: Frame, promise: str) -> None:
    """The first thing to do with an unscored suspect; ``promise`` is what this page shows afterwards."""
    # A model that was measured with few pictures of one's own has no more of them to be scored with.
    samples = min(500, int(frame.suspect.result.get("pool", 500)))
    few = ["--samples", str(samples)] if samples < 500 else []
    panels.lead(f"This suspect has no scores yet. {promise}")
    with st.container(border=True):
        panels.heading(f"Score {frame.suspect.title} with RNP", lines=1)
        panels.note(
            f"RNP makes the network forget {samples} clean pictures, then learns which units stand in the way of "
            "remembering them. It needs no trigger. The curve is measured along the way; expect a minute or two."
        )
        going = [job for job, status in panels.live_jobs() if not status.ended and frame.suspect.name in job.argv]
        if going:
            st.fragment(under_way, run_every=1.0)(going[0].id)
            return
        st.button(
            "Score this model",
            type="primary",
            icon=":material/play_arrow:",
            on_click=panels.submit,
            args=(
                ["sweep", frame.suspect.name, "--score", "rnp", *few],
                f"Score {frame.suspect.title} with RNP",
            ),
        )


def under_way(job: str) -> None:
    """How far a job is, for a part of the page that waits for it and is redrawn alone."""
    status = jobs.status(job)
    if status.ended:
        st.rerun()
    panels.progress(status, state.revealed(state.load()))
    panels.note("This page updates by itself; the job goes on if you leave it, and can be cancelled in the sidebar.")
