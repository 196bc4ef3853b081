"""What the Runs page knows of a run: its title, figures and settings, without what must not be seen."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import streamlit as st

from app import data, panels, state
from app.palette import Measure, number, percent, points, units
from engine.runs import jobs
from engine.runs.checkpoints import FOLDER as CHECKPOINT
from engine.runs.jobs import Entry, Status
from engine.runs.store import Run, open_run

KINDS = {
    "attack": "Training", "defend": "Defense", "sweep": "Curve", "detect": "Detection", "import": "Import",
    "retune": "Retuning", "project": "Projection",
}  # fmt: skip
#: States of a job, as a person says them.
WORDS = {
    "queued": "waits", "starting": "starts", "running": "runs", "paused": "paused", "done": "finished",
    "failed": "failed", "cancelled": "cancelled",
}  # fmt: skip


@dataclass(frozen=True)
class Record:
    """A run or job of the list. ``seen``: everything may be shown; ``hidden``: nothing but its state may."""

    entry: Entry
    status: Status | None
    seen: bool
    hidden: bool
    title: str
    spec: dict[str, Any]
    result: dict[str, Any]
    manifest: dict[str, Any]
    trouble: str = ""

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def state(self) -> str:
        return self.status.state if self.status else self.entry.state

    @property
    def live(self) -> bool:
        return self.state in ("queued", "starting", "running")

    @property
    def line(self) -> str:
        """State, main figure and time, for the list."""
        parts = [WORDS.get(self.state, self.state)]
        figures = {m: after for m, _, after in self.figures() if after is not None}
        parts += [f"{m.upper()} {percent(figures[m])}" for m in ("acc", "asr") if m in figures]
        seconds = self.status.seconds if self.status and self.status.attempt else self.entry.seconds
        if seconds is not None and not self.live:
            parts.append(panels.clock(seconds))
        return " · ".join([*parts, _when(self.entry.submitted)])

    def figures(self) -> list[tuple[Measure, float | None, float | None]]:
        """ACC, ASR and RA before and after; a training has no before."""
        found = self.result
        chosen, first = found.get("chosen") or {}, (found.get("points") or [{}])[0]
        rows: list[tuple[Measure, float | None, float | None]] = []
        for m in ("acc", "asr", "ra"):
            if f"{m}_after" in found:
                rows.append((m, found.get(f"{m}_before"), found[f"{m}_after"]))
            elif chosen.get(m) is not None:
                rows.append((m, first.get(m), chosen[m]))
            elif found.get(m) is not None:
                rows.append((m, None, found[m]))
        return [row for row in rows if row[2] is not None]

    def facts(self) -> dict[str, str]:
        """The figures of a finished run in words, for the card and for comparisons."""
        found: dict[str, str] = {}
        for m, before, after in self.figures():
            moved = "" if before is None or after is None else f" ({points(after - before) or '0.0'})"
            found[m.upper()] = f"{percent(after)}{moved}"
        result = self.result
        pruned = result.get("pruned", (result.get("chosen") or {}).get("pruned"))
        threshold = result.get("threshold", (result.get("chosen") or {}).get("threshold"))
        if pruned is not None and result.get("units"):
            found["Units cut"] = f"{pruned:,} of {units(result['units'])}"
            found["Threshold"] = number(threshold)
        if result.get("der") is not None:
            found["DER"] = percent(result["der"])
        if result.get("verdict") is not None:
            found["Verdict"] = str(result["verdict"])
        if self.manifest:
            found["Took"] = panels.clock(float(self.manifest.get("seconds") or 0))
        return found

    def settings(self) -> dict[str, str]:
        """What it was run with: the specification, flat, with the versions and the machine."""
        found = flat({k: v for k, v in self.spec.items() if k not in ("cut", "edits")})
        tells = self.hidden or (self.entry.kind in ("attack", "import") and not self.seen)
        if not self.spec and self.entry.argv is not None and not tells:
            found["command"] = " ".join(self.entry.argv)
        if self.result.get("machine"):
            found["machine"] = str(self.result["machine"])
        return found | {k: str(v) for k, v in (self.manifest.get("environment") or {}).items()}


def records() -> list[Record]:
    """Everything in the workspace, newest first; of several with the same title the later ones are numbered."""
    titles = {s.name: s.title for s in data.suspects()}
    found: list[Record] = []
    taken: Counter[str] = Counter()
    for entry in reversed(jobs.entries()):
        record = _record(entry, titles)
        taken[record.title] += 1
        number = taken[record.title]
        found.append(record if number == 1 else replace(record, title=f"{record.title}, no. {number}"))
    return found[::-1]


def _record(entry: Entry, titles: Mapping[str, str]) -> Record:
    seen = panels.seen_of(entry.kind, entry.suspect, entry.folder)
    status: Status | None = None
    trouble = ""
    if entry.argv is not None and entry.run is None:
        try:
            status = jobs.status(entry.folder)
        except ValueError as error:
            trouble = str(error)
    spec: dict[str, Any] = {}
    result: dict[str, Any] = {}
    manifest: dict[str, Any] = {}
    if entry.run is not None or (status is not None and status.state == "done"):
        try:
            run: Run = open_run(entry.folder)
            spec, result = data.documents(run)
            manifest = run.manifest
        except ValueError as error:
            trouble = str(error)
    hidden = not seen and (result.get("oracle") is True or panels.uses_trigger(entry.argv or ()))
    if hidden:
        spec, result = {}, {}
    return Record(
        entry, status, seen, hidden, _title(entry, titles, seen, hidden, spec, result),
        state.redact(spec, seen), state.redact(result, seen), manifest, trouble,
    )  # fmt: skip


def _title(
    entry: Entry,
    titles: Mapping[str, str],
    seen: bool,
    hidden: bool,
    spec: Mapping[str, Any],
    result: Mapping[str, Any],
) -> str:
    if hidden:
        return "A run that uses the trigger"
    suspect = titles.get(entry.suspect or "", (entry.suspect or "").rpartition("/")[2])
    if entry.kind == "attack":
        model, source = (spec.get("model") or {}).get("name"), str(spec.get("data", "")).rpartition("/")[2]
        attack = (spec.get("attack") or {}).get("name", "clean") if seen and spec else ""
        if model:
            return " ".join(filter(None, [attack, model, "on", source]))
        return panels.job_title(entry.label, entry.argv or (), seen)
    if not entry.run and entry.label:
        return panels.job_title(entry.label, entry.argv or (), seen)
    method = result.get("title") or spec.get("defense") or spec.get("detector") or ""
    if method and suspect:
        return f"{method}{', curve' if entry.kind == 'sweep' else ''} on {suspect}"
    return panels.job_title(entry.label, entry.argv or (), seen) or entry.kind


def log(record: Record, lines: int = 30) -> list[str]:
    """The last lines of a job's log; for a defender without those that speak of the trigger, or are a result."""
    if record.hidden or (not record.seen and record.entry.kind == "attack"):
        return []
    found = jobs.log_tail(record.entry.folder, lines)
    if record.seen:
        return found
    return [line for line in found if not line.lstrip().startswith(("{", "[")) and state.redact_text(line, False)]


def packed(record: Record) -> bytes:
    """The run folder as a zip, without checkpoints and locks; made for those who may see all of it.

    Raises:
        OSError: if a file cannot be read.
    """
    assert record.seen
    packed = io.BytesIO()
    skip = {"worker.lock", "worker.json", "cancel", CHECKPOINT}
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(record.entry.folder.iterdir()):
            if file.is_file() and file.name not in skip and not file.name.startswith("."):
                archive.write(file, f"{record.name}/{file.name}")
    return packed.getvalue()


def flat(value: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """A specification as one level: ``policy.name`` and so on; lists in full."""
    found: dict[str, str] = {}
    for key, part in value.items():
        if isinstance(part, Mapping):
            found |= flat(part, f"{before}{key}.")
        elif part is not None:
            found[f"{before}{key}"] = ", ".join(map(str, part)) if isinstance(part, list | tuple) else str(part)
    return found


def _when(unix: float) -> str:
    from datetime import datetime
    from zoneinfo import ZoneInfo

    zone = None
    try:
        zone = ZoneInfo(st.context.timezone) if st.context.timezone else None
    except (KeyError, ValueError, OSError):
        zone = None
    then = datetime.fromtimestamp(unix, zone)
    return then.strftime("%H:%M") if then.date() == datetime.now(zone).date() else then.strftime("%Y-%m-%d %H:%M")


def folder_size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
