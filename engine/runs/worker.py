"""The side of a job that works: a command that finds ``job.json`` in its ``--out`` folder.

It holds a lock on the folder as long as it lives, so that two supervisors that start the same job start it once, and
writes down who it is, so that anybody can see whether it lives. It also watches the supervisor that started it: if that
is gone, it starts another, which goes on with the queue when this job is done. Needs no torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from pathlib import Path

from engine.runs import process
from engine.runs.checkpoints import stamp
from engine.runs.files import write_atomic
from engine.runs.jobs import CANCEL, JOB, LOCK, WORKER, wake, worker_of
from engine.runs.journal import Journal, tail
from engine.runs.store import MANIFEST

#: Exit code of a worker whose job is another's, or no one's any more.
OTHER = 3
#: Exit code of a worker that stopped because the disk is full.
PAUSED = 4
#: The environment variable in which a supervisor names the slot.
SLOT = "UNMASK_SLOT"
FULL = "the disk is full: free some space, then resume; what was worked out up to the last checkpoint is kept"


def is_job(folder: Path | None) -> bool:
    return folder is not None and (folder / JOB).exists()


def enter(folder: Path) -> Journal | None:
    """Begin work on a job; None if another process works on it, or it needs no work any more."""
    if process.hold(folder / LOCK) is None:
        return None
    states = [line["state"] for line in tail(folder) if "state" in line]
    over = states[-1:] and states[-1] in ("done", "failed", "cancelled", "paused")
    if over or (folder / MANIFEST).exists() or (folder / CANCEL).exists():
        return None
    before = worker_of(folder)
    now, piece = time.time(), stamp(folder)
    spent, attempt, stuck = 0.0, 1, 1
    if before is not None:
        lines = tail(folder)
        ended = max((float(line.get("t", 0)) for line in lines), default=before["started"])
        spent = before["spent"] + max(0.0, ended - before["started"])
        attempt = before["attempt"] + 1
        stuck = before["stuck"] + 1 if before["stamp"] == piece else 1
    told = {
        "pid": os.getpid(),
        "began": process.began(os.getpid()),
        "attempt": attempt,
        "started": now,
        "spent": spent,
        "stuck": stuck,
        "stamp": piece,
        "slot": os.environ.get(SLOT),
    }
    write_atomic(folder / WORKER, json.dumps(told).encode())
    journal = Journal(folder)
    journal.state("running", attempt=attempt)
    if told["slot"] is not None:
        threading.Thread(target=_watch, daemon=True).start()
    return journal


def _watch() -> None:
    while True:
        time.sleep(1)
        with contextlib.suppress(OSError):
            wake()
