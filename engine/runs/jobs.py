"""Jobs: commands that run in their own process and leave a run folder. Needs no torch.

A job is ``python -m engine COMMAND … --out DIR --json``. Its folder holds ``job.json`` (what was started),
``events.jsonl`` (the journal) and ``log.txt`` (everything the process said) beside the run that it makes. Nothing
about a job lives in memory: its state is read from the folder and from whether the process lives, so that any
process can ask, and a page that is opened again finds what it left.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.paths import workspace
from engine.runs import process
from engine.runs.journal import Journal, events
from engine.runs.store import JOURNAL, MANIFEST

JOB, LOG = "job.json", "log.txt"
#: Seconds between asking a cancelled job to end and ending it.
GRACE = 5.0
State = Literal["starting", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True)
class Job:
    """A command that was started; ``submitted`` is in unix seconds."""

    id: str
    folder: Path
    label: str
    argv: tuple[str, ...]
    submitted: float


@dataclass(frozen=True)
class Status:
    """``share`` is how much is done (0..1, None before the first word), ``seconds`` the time it took or has taken."""

    state: State
    share: float | None
    what: str
    error: str | None
    seconds: float

    @property
    def ended(self) -> bool:
        return self.state in ("done", "failed", "cancelled")


def submit(argv: list[str], *, label: str) -> Job:
    """Start ``python -m engine ARGV --out DIR --json`` detached; DIR is a new folder in the workspace's ``runs``.

    The name of the folder sorts by time and is the job's id. Relative paths in ``argv`` are seen from the checkout.
    """
    now = time.time()
    name = f"{int(now * 1000):012x}{secrets.token_hex(4)}"
    folder = workspace().resolve() / "runs" / name
    folder.mkdir(parents=True)
    record = {"id": name, "label": label, "argv": argv, "submitted": now, "pid": None, "began": None, "cancelled": None}
    _write(folder, record)
    child = process.spawn(["engine", *argv, "--out", str(folder), "--json"], folder / LOG)
    _write(folder, {**record, "pid": child.pid, "began": process.began(child.pid)})
    return Job(name, folder, label, tuple(argv), now)


def status(job: str | Path) -> Status:
    """How a job stands.

    Args:
        job: its id or its folder.

    Raises:
        ValueError: if there is no such job.
    """
    folder = _folder(job)
    record = _read(folder)
    pid, cancelled = record["pid"], record["cancelled"]
    now = time.time()
    # Life is looked at before the journal: a job that ends in between has written its last line.
    if pid is None:  # submit() has not come back, or never will
        living = now - record["submitted"] < GRACE
    else:
        living = record["began"] is not None and process.alive(pid, record["began"])
    lines, _ = events(folder)
    ends = [line for line in lines[-1:] if "state" in line]
    steps = [line for line in lines if "what" in line]
    what = str(steps[-1]["what"]) if steps else ""
    share = steps[-1].get("share") if steps else None
    last = max([float(line.get("t", 0)) for line in lines[-1:]] + [record["submitted"]])
    if (folder / MANIFEST).exists() or (ends and ends[0]["state"] == "done"):
        return Status("done", 1.0, what, None, last - record["submitted"])
    if cancelled is not None:
        if living and now - cancelled > GRACE:
            process.stop(pid, force=True)
        elif not living:
            _tidy(folder)
        return Status("cancelled", share, what, None, cancelled - record["submitted"])
    if living and not ends:
        return Status("running" if lines else "starting", share, what, None, now - record["submitted"])
    if not living:
        _tidy(folder)
    error = str(ends[0].get("error", "")) if ends else process.last_line(folder / LOG).removeprefix("error: ")
    with contextlib.suppress(OSError):
        last = max(last, (folder / LOG).stat().st_mtime)
    return Status("failed", share, what, error or "the process ended without a word", last - record["submitted"])


def cancel(job: str | Path) -> None:
    """Stop a job: it is asked to end, and ended after five seconds. Returns at once; an ended job stays as it is.

    Its journal is kept, what it had half written is removed.

    Raises:
        ValueError: if there is no such job.
    """
    folder = _folder(job)
    if status(folder).ended:
        return
    record = {**_read(folder), "cancelled": time.time()}
    _write(folder, record)
    if record["pid"] is not None:
        process.stop(record["pid"])
        # No daemon: a command that cancels and exits waits for the end of what it cancelled.
        threading.Thread(target=_see_off, args=(folder, record["pid"], record["began"])).start()


def jobs() -> list[Job]:
    """The jobs of the workspace, newest first; unreadable folders are passed over."""
    found = []
    for path in (workspace().resolve() / "runs").glob(f"*/{JOB}"):
        with contextlib.suppress(ValueError):
            record = _read(path.parent)
            argv = tuple(str(word) for word in record["argv"])
            found.append(Job(path.parent.name, path.parent, str(record["label"]), argv, record["submitted"]))
    return sorted(found, key=lambda job: (job.submitted, job.id), reverse=True)


def _see_off(folder: Path, pid: int, began: str) -> None:
    deadline = time.monotonic() + GRACE
    while process.alive(pid, began) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.stop(pid, force=True)  # also the children that a job that ended by itself left behind
    while process.alive(pid, began) and time.monotonic() < deadline + GRACE:
        time.sleep(0.05)
    if not (folder / MANIFEST).exists():
        _tidy(folder)


def _tidy(folder: Path) -> None:
    """Remove what a job without a manifest had half written."""
    with contextlib.suppress(OSError):
        for entry in list(folder.iterdir()):
            if entry.name in JOURNAL:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def _folder(job: str | Path) -> Path:
    is_id = isinstance(job, str) and Path(job).name == job
    return workspace().resolve() / "runs" / job if is_id else Path(job)


def _read(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / JOB).read_text())
        _ = record["pid"], record["began"], record["cancelled"], record["label"], record["argv"]
        record["submitted"] = float(record["submitted"])
    except OSError:
        raise ValueError(f"expected a job, got {folder.name!r}, which has no {JOB}") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"expected {folder / JOB} to be the record of a job, got something else") from None
    return dict(record)


def _write(folder: Path, record: dict[str, Any]) -> None:
    # The half-written file lies beside the folder: the command refuses a folder that holds what it does not know.
    part = folder.parent.parent / f".job-{folder.name}.part"
    part.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    os.replace(part, folder / JOB)


__all__ = ["Job", "Journal", "Status", "cancel", "events", "jobs", "status", "submit"]
