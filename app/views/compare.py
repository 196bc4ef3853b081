"""*Compare*: which defense survives which attack?

The matrix holds what the shipped table and the workspace's own runs measured. Below it stand the panels of one suspect,
or of two on the same axes: what each defense costs and leaves, the curves of the scores, how far two of them agree, and
the answers before and after one defense.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from app import (
    compare_data,
    compare_figures,
    compare_sections,
    comparison,
    data,
    matrix_view,
    panels,
    report_button,
    retuning,
    score_figures,
    signs,
    state,
)
from app.comparison import KINDS, SHOWN, SOURCES, Figure, Row
from app.matrix import Matrix, intervals, matrix, sentence
from app.matrix_view import Picked
from app.palette import count, units
from app.panels import Frame
from engine.runs import jobs


def render() -> None:
    frame = panels.frame()
    if frame is None:
        return
    st.title("Which defense survives which attack?")
    panels.lead("Every suspect against every defense that ran, and below, one suspect defense by defense.")
    listed = data.suspects()
    found = compare_data.rows(listed, lambda name: state.revealed(state.load(), name))
    if found.trouble:
        panels.refuse(ValueError(found.trouble), "Defenses that ran in this workspace are shown all the same.")
    for name in {row.suspect for row in found.rows if row.seen} | ({frame.suspect.name} if frame.seen else set()):
        state.note_seen(name, True)
    st.session_state["compare-suspects"] = {suspect.name for suspect in listed}
    if any(row.state == "done" for row in found.rows):
        _table(frame, found.rows, {suspect.name for suspect in listed})
    else:
        _nothing(frame)
    st.header(f"{frame.suspect.title}, defense by defense")
    beside = _beside(frame, listed)
    rows = comparison.chosen(found.rows, _samples(found.rows), None)
    _tradeoff(frame, rows, beside)
    compare_sections.curves(frame, beside)
    compare_sections.agreement(frame)
    here = [row for row in found.rows if row.suspect == frame.suspect.name]
    compare_sections.answers(frame, here)
    retuning.section(frame, here, {row.folder: compare_sections.label(row) for row in here if row.folder})


def _nothing(frame: Frame) -> None:
    """What the page will show, and the first thing to do."""
    name = frame.suspect.title
    panels.lead(
        "No defense has been measured yet. Each one that runs gets a column here: the ASR that it leaves, the accuracy "
        "that it costs, and with what certainty, attack by attack."
    )
    with st.container(border=True):
        panels.heading(f"Run RNP on {name}", lines=1)
        panels.note(
            "It scores the units, cuts at the default threshold and measures the repaired model on all test pictures; "
            "expect a minute or two. The job goes on if you leave this page."
        )
        if _going(frame.suspect.name):
            panels.note("It is under way: the sidebar shows how far it is, and its column appears here by itself.")
            return
        samples = min(500, int(frame.suspect.result.get("pool", 500)))
        few = ["--samples", str(samples)] if samples < 500 else []
        st.button(
            "Run this defense", key="first-defense", type="primary", icon=":material/play_arrow:",
            on_click=panels.submit, args=(["defend", frame.suspect.name, "--defense", "rnp", *few], f"RNP on {name}"),
        )  # fmt: skip


def _going(suspect: str, defense: str = "rnp") -> bool:
    def does(job: jobs.Job) -> bool:
        return job.argv[:2] == ("defend", suspect) and defense in job.argv

    return any(does(job) and not status.ended for job, status in panels.live_jobs())


# --- the matrix ------------------------------------------------------------------------------------------------------


def _samples(rows: Sequence[Row]) -> int | None:
    """The number of pictures of the defenses that are shown: the address's, else the most common one."""
    known = Counter(row.samples for row in rows if row.state == "done" and row.samples is not None)
    wanted = state.load().samples
    return wanted if wanted in known else known.most_common(1)[0][0] if known else None


def _table(frame: Frame, rows: Sequence[Row], suspects: set[str]) -> None:
    some_seen = any(row.seen and "asr" in row.figures for row in rows)
    figure = _controls(rows, [f for f in SHOWN if some_seen or not KINDS[f].trigger])
    source = state.load().source if state.load().source in {row.source for row in rows} else None
    kept = comparison.chosen(rows, _samples(rows), source)
    found = matrix(kept, figure)
    if not found.suspects:
        panels.note("No defense was measured with this number of pictures and this trigger.")
        return
    title = sentence(found, kept)
    panels.heading(title, lines=1)
    picked = matrix_view.show(found, kept, frame.theme, alt=f"{KINDS[figure].name} by attack and defense. {title}")
    _detail(found, kept, picked)
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        _run_button(found, kept, picked, suspects)
        panels.table(intervals(found), "matrix", title)
        st.download_button(
            "All figures (CSV)", comparison.as_csv(comparison.long(kept)), "unmask-defenses.csv", "text/csv",
            key="download-csv", icon=":material/download:", type="tertiary", on_click="ignore",
            help="One line for each suspect, defense and seed, with intervals.",
        )  # fmt: skip
        lines = compare_sections.lines(frame.suspect.name)
        curves = [score_figures.Curves(frame.suspect.title, lines)] if lines else []
        report_button.of_rows(kept, curves, "download-report")
    panels.note(_notes(found, kept))
    if any(not row.seen for row in kept):
        panels.locked(f"ASR, RA, DER and the oracles of covered suspects are left out. {panels.WHY_LOCKED}")


def _controls(rows: Sequence[Row], figures: Sequence[Figure]) -> Figure:
    figure: Figure = next((f for f in figures if f == state.load().figure), figures[0])
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium", key="controls"):
        st.segmented_control(
            "Figure",
            figures,
            format_func=lambda name: KINDS[name].name,
            key=state.shows("figure-choice", figure),
            required=True,
            help=" ".join(f"**{KINDS[f].name}:** {KINDS[f].about}." for f in figures),
            on_change=lambda: state.change(figure=state.shown("figure-choice")),
        )
        samples = sorted({row.samples for row in rows if row.samples is not None and row.state == "done"})
        if len(samples) > 1:
            st.selectbox(
                "Defense pictures", samples, format_func=count, key=state.shows("samples-choice", _samples(rows)),
                width=150, help="How many clean pictures the defender has.",
                on_change=lambda: state.change(samples=state.shown("samples-choice")),
            )  # fmt: skip
        sources = [name for name in SOURCES if any(row.source == name and row.state == "done" for row in rows)]
        if len(sources) > 1:
            now = state.load().source
            st.selectbox(
                "Trigger", [None, *sources], format_func=lambda name: "any" if name is None else SOURCES[name],
                key=state.shows("source-choice", now if now in sources else None), width=190, placeholder="any",
                help="Where a defense that needs the trigger has it from. With the true one it is an oracle.",
                on_change=lambda: state.change(source=state.shown("source-choice")),
            )  # fmt: skip
    return figure


def _notes(found: Matrix, rows: Sequence[Row]) -> str:
    kind = KINDS[found.figure]
    oracles = ", oracles (\u25c7) at the right" if any(row.oracle for row in rows) else ""
    few = ", then what met few suspects" if len({found.met(column) for column in found.columns}) > 1 else ""
    parts = [f"{kind.name} in {kind.unit}: {kind.about}. Best mean first{few}{oracles}."]
    seeds = sorted({cell.n for cell in found.cells.values()})
    if seeds and seeds[-1] > 1:
        few = f"{seeds[0]} to {seeds[-1]}" if seeds[0] < seeds[-1] else str(seeds[0])
        parts.append(f"Means of {few} seeds.")
    waiting = Counter(row.state for row in rows)
    if waiting["pending"]:
        parts.append(f"{count(waiting['pending'])} of {count(len(rows))} runs are not measured yet.")
    if waiting["failed"]:
        parts.append(f"{count(waiting['failed'])} failed.")
    if any(row.targets for row in rows):
        parts.append("\u2020 Success on the images that the attacker chose stands in place of ASR.")
    return " ".join(parts)


def _detail(found: Matrix, rows: Sequence[Row], picked: Picked | None) -> None:
    """The chosen cell in words."""
    if picked is None:
        panels.note("Arrow keys move between cells; choose one for its intervals. A click on a column's head sorts.")
        return
    suspect, column = picked
    of = [row for row in rows if (row.suspect, row.column) == picked and row.state == "done"]
    head = f"{found.attacks[suspect]}, {found.names[column]}"
    panels.note(f"{head}: {_figures(of)}" if of else f"{head}: not measured yet.")
    if any(row.seen for row in of) and (elsewhere := compare_data.published(suspect, column[0])):
        panels.note(elsewhere)
    signs.show(list({sign["code"]: sign for row in of for sign in row.signs}.values()))


def _run_button(found: Matrix, rows: Sequence[Row], picked: Picked | None, suspects: set[str]) -> None:
    """Offers to run the defense of the chosen cell in this workspace, where it has not run yet."""
    if picked is None or picked[0] not in suspects or picked[1][0] == comparison.BY_HAND:
        return
    suspect, column = picked
    if any(row.folder for row in rows if (row.suspect, row.column) == picked):
        return
    few = [row.samples for row in rows if row.column == column and row.samples is not None]
    argv = ["defend", suspect, "--defense", column[0], *(["--samples", str(few[0])] if few else [])]
    argv += ["--trigger", "true"] if column[4] == "true" else []
    going, label = _going(suspect, column[0]), f"{found.names[column]} on {found.attacks[suspect]}"
    st.button(
        "Under way" if going else "Run it here", key="run-cell", type="tertiary", icon=":material/play_arrow:",
        disabled=going, on_click=panels.submit, args=(argv, label),
        help=f"Runs {label} in this workspace, so that its repaired model can be looked at.",
    )  # fmt: skip


def _figures(of: Sequence[Row]) -> str:
    """All that is known of a cell, with intervals."""
    parts = []
    for figure in ("acc", *SHOWN):
        cells = matrix(of, figure).cells
        if not cells:
            continue
        cell, kind = next(iter(cells.values())), KINDS[figure]
        name = "success on chosen images" if figure == "asr" and of[0].targets else kind.name
        if figure == "pruned":
            parts.append(f"{units(round(cell.value))} cut")
        elif figure == "seconds":
            parts.append(panels.clock(cell.value))
        else:
            unit = " points" if figure == "acc_drop" else "\u202f%"
            span = "" if cell.low is None or cell.high is None else f" ({100 * cell.low:.1f} to {100 * cell.high:.1f})"
            parts.append(f"{name} {100 * cell.value:.1f}{unit}{span}".replace("-", "\u2212"))
    seeds = f"; {len(of)} seeds, widest intervals" if len(of) > 1 else ""
    return f"{', '.join(parts)}{seeds}."


# --- one suspect, or two ---------------------------------------------------------------------------------------------


def _beside(frame: Frame, listed: Sequence[data.Listed]) -> data.Suspect | None:
    """The second suspect of the panels below, which the address keeps."""
    others: Mapping[str, Any] = {s.name: s.title for s in listed if s.name != frame.suspect.name}
    versus = state.load().versus if state.load().versus in others else None
    st.selectbox(
        "Beside it, on the same axes",
        [None, *others],
        format_func=lambda name: "nothing" if name is None else others.get(name, name),
        key=state.shows("beside-choice", versus),
        width=280,
        placeholder="nothing",
        on_change=lambda: state.change(versus=state.shown("beside-choice")),
    )
    if versus is None:
        return None
    try:
        return data.suspect(versus, state.revealed(state.load(), versus))
    except ValueError as error:
        panels.refuse(error, "Choose another suspect.")
        return None


def _tradeoff(frame: Frame, rows: Sequence[Row], beside: data.Suspect | None) -> None:
    if not frame.seen:
        panels.locked(f"ACC against ASR: {panels.WHY_LOCKED}")
        return
    sides = []
    for suspect in filter(None, (frame.suspect, beside)):
        side = compare_figures.Side(suspect.title, [row for row in rows if row.suspect == suspect.name])
        if compare_figures.marks(side.rows):
            sides.append(side)
        elif suspect is not frame.suspect:
            panels.note(f"{suspect.title} has no defense with an ASR that may be seen; it is not drawn beside.")
    if not any(side.title == frame.suspect.title for side in sides):
        panels.note(f"No defense of {frame.suspect.title} has an ASR yet: run one, or choose another suspect.")
        return
    panels.chart(compare_figures.tradeoff(sides, frame.theme), "tradeoff", lines=1)
    panels.note(
        "Dots are defenses, open diamonds oracles, the cross is the undefended model; lower right is better. The line "
        "joins the oracle-free ones that no other beats in both. Bars are 95\u202f% intervals, thin marks single seeds."
    )


render()
state.write()
