"""The journal of a running command: one JSON object a line in ``events.jsonl``.

Progress lines are ``{"t": unix seconds, "what": text, "share": 0..1}``; the last line is ``{"t", "state": "done"}``
or ``{"t", "state": "failed", "error": one line}``. The command appends, everybody else only reads.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

EVENTS = "events.jsonl"
INTERVAL = 0.2


class Journal:
    """Appends to the journal of a run folder, which is made if it is not there."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / EVENTS
        self._next = 0.0

    def progress(self, what: str, share: float | None = None) -> None:
        """Say what is being done and how much of it is done (0..1); at most five lines a second are written."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + INTERVAL
            self._append({"what": what, "share": None if share is None else round(min(1.0, max(0.0, share)), 4)})

    def done(self) -> None:
        self._append({"state": "done"})

    def failed(self, line: str) -> None:
        self._append({"state": "failed", "error": " ".join(line.split())})

    def _append(self, event: dict[str, Any]) -> None:
        line = json.dumps({"t": round(time.time(), 3), **event}, ensure_ascii=False, allow_nan=False) + "\n"
        # One write to a file opened for appending: a line never mixes with another.
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)


def events(folder: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The complete lines of a journal from byte ``offset`` on, and the offset from which to read on."""
    try:
        with (folder / EVENTS).open("rb") as file:
            file.seek(offset)
            data = file.read()
    except OSError:
        return [], offset
    whole = data[: data.rfind(b"\n") + 1]
    found = []
    for line in whole.splitlines():
        try:
            event = json.loads(line)
        except ValueError:  # half a line of a process that was killed, with the next one's behind it
            continue
        if isinstance(event, dict):
            found.append(event)
    return found, offset + len(whole)
