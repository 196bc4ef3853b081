"""What a page shows of a suspect without scores: why it is empty, and the button that scores it."""

from __future__ import annotations

import streamlit as st

from app import panels
from app.panels import Frame
from engine.runs import jobs


def unscored(frame: Frame, promise: str) -> None:
    """The first thing to do with an unscored suspect; ``promise`` is what this page shows afterwards."""
    panels.lead(f"This suspect has no scores yet. {promise}")
    with st.container(border=True):
        panels.heading(f"Score {frame.suspect.title} with RNP", lines=1)
        panels.note(
            "RNP makes the network forget 500 clean pictures, then learns which units stand in the way of remembering "
            "them. It needs no trigger. The curve is measured along the way; expect a minute or two."
        )
        going = [job for job, status in panels.live_jobs() if not status.ended and frame.suspect.name in job.argv]
        if going:
            st.fragment(_scoring, run_every=1.0)(going[0].id)
            return
        st.button(
            "Score this model",
            type="primary",
            icon=":material/play_arrow:",
            on_click=panels.submit,
            args=(["sweep", frame.suspect.name, "--score", "rnp"], f"Score {frame.suspect.title} with RNP"),
        )


def _scoring(job: str) -> None:
    status = jobs.status(job)
    if status.ended:
        st.rerun()
    panels.progress(status)
    panels.note("This page updates by itself; the job goes on if you leave it, and can be cancelled in the sidebar.")
