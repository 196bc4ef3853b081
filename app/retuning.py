"""Does the backdoor come back? Retuning the repaired model of a defense, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from app import data, panels, retune_figures, signs, state
from app.comparison import Row
from app.panels import Frame
from engine.retune_ways import WAYS, words
from engine.runs.store import BY_ID


def section(frame: Frame, rows: Sequence[Row], label: Mapping[str, str]) -> None:
    """The part of a page that lets one choose among the defenses ``rows`` whose models are in this workspace.

    Args:
        label: what each is called, by the name of its folder.
    """
    st.header("Does the backdoor come back?")
    if not frame.seen:
        panels.locked(f"Retuning takes the trigger. {panels.WHY_LOCKED}")
        return
    own = {row.folder: row for row in rows if row.folder and row.state == "done" and not row.targets}
    if frame.suspect.result.get("asr") is None:
        panels.note("This suspect has no trigger to tune a model on.")
        return
    if not own:
        panels.note("No defense of this suspect has left a model yet; one that runs here can be retuned.")
        return
    known = state.load().defense
    chosen = own[known if known in own else next(iter(own))]
    st.selectbox(
        "Repaired by", list(own), format_func=lambda folder: label.get(folder, folder), width=420,
        key=state.shows("retune-choice", chosen.folder),
        on_change=lambda: state.change(defense=state.shown("retune-choice")),
    )  # fmt: skip
    signs.show(chosen.signs)
    offer(frame, str(chosen.run), chosen.name)


def offer(frame: Frame, run: str, name: str) -> None:
    """What retuning the model of a ``defend`` run brought back, or a button that finds out; for those who may see."""
    assert frame.seen
    way = st.segmented_control(
        "Tuned", list(WAYS), default=next(iter(WAYS)), required=True, key=f"retune-{run}-way",
        help="The five pictures may not be what wakes a backdoor: clean ones alone may do it, and so may the "
        "statistics of normalisation, which held poison and which tuning renews.",
    )  # fmt: skip
    found = data.retuned(run, WAYS[way])
    if found is not None:
        panels.chart(retune_figures.retuning(found, frame.theme), f"retune-{run}", lines=1)
        control = (
            "The clean twin got the same pictures: what it learns as well was not hidden, but is new."
            if found.get("twin")
            else "There is no clean twin to compare with, so this may be new and not hidden."
        )
        poisoned = "; the poisoned ones carry the true trigger and the attacker's label" if found["images"] else ""
        panels.note(
            f"Oracle \u25c7. The pictures are some that the defense did not draw{poisoned}. "
            f"Units that were cut stay cut. {control} Bands are 95\u202f% intervals."
        )
        return
    among = "1,000 clean pictures" if WAYS[way].get("images") == 0 else "5 poisoned pictures among 1,000 clean ones"
    kept = ", with the statistics of normalisation as the repair left them," if "statistics" in WAYS[way] else ""
    panels.note(
        "A defense may only hide a backdoor. This tunes its model, and the clean twin beside it, for 5 epochs on "
        f"{among}{kept} and measures after each epoch; expect some minutes."
    )
    argv = ["retune", f"{BY_ID}{run}", *words(way)]
    going = any(list(job.argv) == argv and not status.ended for job, status in panels.live_jobs())
    st.button(
        "Under way" if going else "Retune it", key=f"retune-{run}-go", icon=":material/restart_alt:", disabled=going,
        on_click=panels.submit, args=(argv, f"Retuning {name} of {frame.suspect.title} {way}"),
        help="Does the attack return? The sidebar shows how far it is.",
    )  # fmt: skip
