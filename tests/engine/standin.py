"""What stands in for the engine where jobs are tested: it obeys the same contract for --out, lock, journal and exit.

``python -m tests.engine.standin supervisor`` is a supervisor whose workers are this module; anything else is a worker.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.runs import process, supervisor, worker

_spawn = process.spawn


def spawn(module: list[str], log: Path, more: Mapping[str, str] | None = None) -> Any:
    """:func:`engine.runs.process.spawn` with this module in the place of the engine."""
    role = ["supervisor"] if module == ["engine.runs.supervisor"] else module[1:]
    return _spawn(["tests.engine.standin", *role], log, more)


def main(arguments: list[str]) -> int:
    process.spawn = spawn
    if arguments == ["supervisor"]:
        supervisor.IDLE, supervisor.TICK = 1.0, 0.02
        return supervisor.main()
    what, folder = arguments[0], Path(arguments[arguments.index("--out") + 1])
    assert arguments[-1] == "--json"
    journal = worker.enter(folder)
    if journal is None:
        return worker.OTHER
    journal.progress("working, pass 1", 0.25, loss=0.5, asr=0.75, step=3)
    with (folder.parent / "began").open("a") as file:
        file.write(f"{folder.name} {os.getpid()}\n")
    (folder / ".part-1").mkdir(exist_ok=True)
    (folder / ".part-1" / "half").write_text("x")
    if what == "refuse":
        sys.stderr.write("expected something else, got this\n")
        journal.failed("expected something else,\n got this")
        return 2
    if what == "crash":
        sys.stderr.write("Traceback: out of luck\n")
        return 1
    if what in ("long", "stubborn"):
        if what == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.fork()
        (folder / "ready").touch()
        time.sleep(60)
    if what == "pauses" and not (folder / "worker.lock").read_text():  # once, and is slow to go
        (folder / "worker.lock").write_text("paused")
        journal.state("paused", "the disk is full")
        time.sleep(0.5)
        return worker.PAUSED
    if what.startswith("until="):  # goes on only when it is told to
        while not Path(what.removeprefix("until=")).exists():
            time.sleep(0.02)
    (folder / "manifest.json").write_text("{}")
    journal.done()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
