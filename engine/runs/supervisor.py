"""The supervisor: ``python -m engine.runs.supervisor``, one per workspace, started by :func:`engine.runs.jobs.wake`.

It takes jobs from the queue, starts a fresh process for each, one at a time per device slot, and sees to what becomes
of it: a worker that was killed is started again and goes on from its last checkpoint, one that was cancelled and does
not end is ended. Nothing depends on its memory. A supervisor that takes another's place finds the workers that live by
what they wrote down; if the other one died between starting a worker and that, the job is started twice and the lock
on its folder lets one of them go on. It goes when there was nothing to do for half a minute. Needs no torch.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from engine.paths import workspace
from engine.runs import jobs, process, queue
from engine.runs.ask import code_stamp
from engine.runs.checkpoints import stamp
from engine.runs.files import RESERVE, free_bytes, lay_ballast, write_atomic
from engine.runs.jobs import CANCEL, LOG, SUPERVISOR
from engine.runs.journal import Journal, tail
from engine.runs.queue import Entry, runs_folder
from engine.runs.store import MANIFEST
from engine.runs.worker import FULL, OTHER, PAUSED, SLOT

#: Seconds between two looks at everything, and without anything to do until the supervisor goes.
TICK, IDLE = 0.1, 30.0
#: So many workers in a row may be killed without one of them reaching a checkpoint.
STUCK = 8
#: So many may be killed before they could even write down who they are.
EARLY = 40


@dataclass
class _Worker:
    """A process at work on a job. ``child`` is False where another supervisor started it: it leaves no exit code."""

    pid: int
    began: str
    slot: str
    child: bool
    since: float
    asked: float | None = None
    killed: bool = False
    code: int | None = None


def slots() -> list[str]:
    """What runs one job at a time: every GPU, and the CPU for jobs that ask for it or where there is no GPU."""
    return [f"cuda:{name}" for name in process.gpus()] + ["cpu"]


def _device(argv: tuple[str, ...]) -> str:
    """What ``--device`` says in a command line."""
    for k, word in enumerate(argv):
        if word == "--device" and k + 1 < len(argv):
            return argv[k + 1]
        if word.startswith("--device="):
            return word.partition("=")[2]
    return "auto"


def _processes(argv: tuple[str, ...]) -> int:
    """How many processes train together, by the setting ``training.nproc`` of a command line."""
    said = [word.removeprefix("--set=").partition("=") for word in argv]
    counts = [value for key, _, value in said if key == "training.nproc" and value.isdecimal()]
    return max(1, int(counts[-1])) if counts else 1


def _fitting(device: str, every: list[str]) -> list[str]:
    graphics = [slot for slot in every if slot != "cpu"]
    if device == "cpu" or not graphics:
        return ["cpu"]
    number = device.partition(":")[2]
    return [graphics[int(number)]] if number.isdecimal() and int(number) < len(graphics) else graphics


class Supervisor:
    """The present workers, and what to do next; :meth:`step` looks at everything once."""

    def __init__(self) -> None:
        self.workers: dict[str, _Worker] = {}
        self.slots = slots()
        self._early: dict[str, int] = {}

    def step(self) -> bool:
        """Look at all workers and start what can be started; whether anything is under way or waits."""
        for name, worker in list(self.workers.items()):
            self._look(name, worker)
        for entry in queue.entries("running"):
            if entry.name not in self.workers:  # another supervisor's
                self._adopt(entry)
        waiting = queue.entries("queued")
        kept: set[str] = set()
        for entry in reversed(waiting):
            if entry.name in self.workers:
                continue
            fitting = _fitting(_device(entry.argv or ()), self.slots)
            free = [s for s in fitting if s not in self._taken() | kept]
            # A training by several processes has a GPU for each, as far as there are so many; later jobs let it.
            wanted = min(_processes(entry.argv or ()), len(fitting))
            if len(free) < wanted:
                kept |= {*free}
            elif queue.claim(entry.name, slot := ",".join(free[:wanted])):
                self._start(entry, slot)
        return bool(self.workers or waiting)

    def _adopt(self, entry: Entry) -> None:
        """Take over what another supervisor left: a worker that lives, or a job whose worker is gone."""
        told = jobs.worker_of(entry.folder)
        if told is not None and process.alive(told["pid"], told["began"]):
            self.workers[entry.name] = _Worker(
                told["pid"], told["began"], told["slot"] or "cpu", False, told["started"]
            )
        else:
            self._settle(entry.name, None)

    def _taken(self) -> set[str]:
        return {slot for worker in self.workers.values() for slot in worker.slot.split(",")}

    def _start(self, entry: Entry, slot: str) -> None:
        folder = entry.folder
        if not folder.is_dir():  # deleted a moment ago
            queue.remove(entry.name)
            return
        journal, free = Journal(folder), free_bytes(folder)
        if (folder / CANCEL).exists():
            journal.state("cancelled")
        elif free < RESERVE:
            journal.state("paused", f"the disk has {free >> 20:,} MB free, and a job needs {RESERVE >> 20:,}: {FULL}")
        else:
            more = {SLOT: slot}
            if slot != "cpu" and _device(entry.argv or ()) in ("auto", "cuda"):
                more["CUDA_VISIBLE_DEVICES"] = slot.replace("cuda:", "")
            argv = ["engine", *(entry.argv or ()), "--out", str(folder), "--json"]
            since = time.time()
            pid = process.spawn(argv, folder / LOG, more).pid
            self.workers[entry.name] = _Worker(pid, process.began(pid) or "", slot, True, since)
            return
        jobs.note(folder)

    def _look(self, name: str, worker: _Worker) -> None:
        folder = runs_folder() / name
        if process.alive(worker.pid, worker.began):
            if (folder / CANCEL).exists():
                now = time.monotonic()
                if worker.asked is None:
                    worker.asked = now
                    process.stop(worker.pid)
                elif now - worker.asked > jobs.GRACE and not worker.killed:
                    worker.killed = True
                    process.stop(worker.pid, force=True)
            return
        if worker.code is None and worker.child:
            worker.code = process.exit_code(worker.pid)
        told = jobs.worker_of(folder)
        if worker.code == OTHER and told is not None and process.alive(told["pid"], told["began"]):
            # A worker that a supervisor before this one had just started was quicker.
            self.workers[name] = _Worker(told["pid"], told["began"], worker.slot, False, told["started"])
            return
        process.stop(worker.pid, force=True)  # children that it left behind
        self._settle(name, worker.code, worker.since)
        del self.workers[name]

    def _settle(self, name: str, code: int | None, since: float = math.inf) -> None:
        """Write down what became of a job whose worker is gone.

        ``code`` is None where it is not known, ``since`` when the worker was started.
        """
        folder = runs_folder() / name
        if not folder.is_dir():
            queue.remove(name)
            return
        journal = Journal(folder)
        said: dict[str, Any] = next((line for line in reversed(tail(folder)) if "state" in line), {})
        last = str(said.get("state", ""))
        if (folder / MANIFEST).exists():
            if last != "done":
                journal.done()
        elif last not in ("done", "failed", "paused", "cancelled"):
            if (folder / CANCEL).exists():
                journal.state("cancelled")
            elif last == "queued" and said["t"] > since:
                pass  # it was taken up again before its last worker's end was seen
            elif code == PAUSED:
                journal.state("paused", FULL)
            elif last == "interrupted" and code is None:
                pass  # known already, only the index is behind
            elif code is None or code < 0 or code > 128 or code == OTHER:
                self._interrupted(name, journal, code)
            else:
                words = process.last_line(folder / LOG).removeprefix("error: ")
                journal.failed(words or "the process ended without a word")
        with contextlib.suppress(ValueError):  # its record does not read: it leaves the index
            if jobs.status(folder).state in ("failed", "cancelled", "paused"):
                jobs.tidy(folder)  # what is taken up again is left alone: somebody may be at it already
        jobs.note(folder)

    def _interrupted(self, name: str, journal: Journal, code: int | None) -> None:
        folder = runs_folder() / name
        told = jobs.worker_of(folder)
        how = f"signal {-code}" if code is not None and code < 0 else "an unknown cause"
        self._early[name] = self._early.get(name, 0) + 1
        stuck = told is not None and told["stuck"] >= STUCK and told["stamp"] == stamp(folder)
        if stuck or self._early[name] >= EARLY and stamp(folder) == 0:
            said = process.last_line(folder / LOG)
            journal.failed(
                f"the worker was killed {STUCK if stuck else EARLY} times in a row without reaching a checkpoint "
                f"({how}; memory may be short){f'; its last words: {said}' if said else ''}"
            )
        else:
            journal.state("interrupted", how)


def _beats(supervisor: Supervisor) -> Iterator[None]:
    """Everything again and again, until there was nothing to do for a while."""
    last = time.monotonic()
    while time.monotonic() - last < IDLE:
        try:
            if supervisor.step():
                last = time.monotonic()
        except Exception:  # a full disk, a busy index, an odd folder: what is to be done is still to be done
            traceback.print_exc()
            time.sleep(1)
        yield
        time.sleep(TICK)


def main() -> int:
    home = workspace().resolve()
    home.mkdir(parents=True, exist_ok=True)
    while True:
        lock = process.hold(home / "supervisor.lock")
        if lock is None:
            return 0
        code, supervisor = code_stamp(), Supervisor()
        told = {"pid": os.getpid(), "began": process.began(os.getpid())}
        write_atomic(home / SUPERVISOR, json.dumps(told).encode())
        lay_ballast()
        jobs.entries()  # folders that nobody has put in the queue yet
        checked = time.monotonic()
        replaced = False
        for _ in _beats(supervisor):
            if time.monotonic() - checked > 5:
                # The program was updated: a new supervisor takes over, the workers notice nothing.
                checked, replaced = time.monotonic(), code_stamp() != code
                if replaced:
                    break
        (home / SUPERVISOR).unlink(missing_ok=True)
        os.close(lock)
        if replaced:
            jobs.wake()
            return 0
        # A job that was queued while this one still seemed to live has nobody else.
        if not queue.entries("queued", "running"):
            return 0


if __name__ == "__main__":
    sys.exit(main())
