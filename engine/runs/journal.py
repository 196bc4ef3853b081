"""The journal of a running command: one JSON object a line in ``events.jsonl``.

Progress lines are ``{"t": unix seconds, "what": text, "share": 0..1}``, with ``eta`` in seconds and figures such as
``step``, ``steps``, ``loss``, ``acc`` and ``asr`` where they are known. Lines with a ``state`` say what became of the
job: ``queued``, ``running``, ``interrupted``, ``paused``, ``done``, ``failed`` or ``cancelled``, the last three for
good, with one line of ``error`` where there is one. Everybody only appends.
"""

from __future__ import annotations

import errno
import json
import math
import os
import time
from pathlib import Path
from typing import Any

from engine.runs.files import disk_full, drop_ballast

EVENTS = "events.jsonl"
INTERVAL = 0.2
_TAIL = 32 << 10


class Journal:
    """Appends to the journal of a run folder, which is made if it is not there."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / EVENTS
        self._next = 0.0
        self._began = (0.0, 0.0)

    def progress(self, what: str, share: float | None = None, **figures: float | None) -> None:
        """Say what is being done and how much of it is done (0..1); at most five lines a second are written."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + INTERVAL
        event: dict[str, Any] = {"what": what, "share": None}
        if share is not None:
            event["share"] = share = round(min(1.0, max(0.0, share)), 4)
            event |= {"eta": eta} if (eta := self._eta(now, share)) is not None else {}
        self._append({**event, **{key: _short(value) for key, value in figures.items() if _finite(value)}})

    def state(self, state: str, error: str | None = None, **more: Any) -> None:
        """Say what became of the job. A full disk gives up the ballast for it."""
        event = {"state": state, **({} if error is None else {"error": " ".join(error.split())}), **more}
        try:
            self._append(event)
        except OSError as trouble:
            if not disk_full(trouble) or not drop_ballast():
                raise
            self._append(event)

    def done(self) -> None:
        self.state("done")

    def failed(self, line: str) -> None:
        self.state("failed", line)

    def _eta(self, now: float, share: float) -> float | None:
        """Seconds to go at the pace since this process began, or began anew with a smaller share."""
        began, first = self._began
        if not began or share < first:
            self._began = (now, share)
            return None
        if share - first < 0.005 or now - began < 2:
            return None
        return round((now - began) * (1 - share) / (share - first), 1)

    def _append(self, event: dict[str, Any]) -> None:
        line = json.dumps({"t": round(time.time(), 3), **event}, ensure_ascii=False, allow_nan=False) + "\n"
        # One write to a file opened for appending: a line never mixes with another. What a killed process or a full
        # disk left half written is ended first, so that it takes no other line with it.
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(file).st_size
            torn = size > 0 and hasattr(os, "pread") and os.pread(file, 1, size - 1) != b"\n"
            data = (b"\n" if torn else b"") + line.encode()
            if os.write(file, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        finally:
            os.close(file)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _short(value: float | None) -> float | None:
    return value if value is None or isinstance(value, int) else float(f"{value:.6g}")


def events(folder: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The complete lines of a journal from byte ``offset`` on, and the offset from which to read on."""
    try:
        with (folder / EVENTS).open("rb") as file:
            file.seek(offset)
            data = file.read()
    except OSError:
        return [], offset
    whole = data[: data.rfind(b"\n") + 1]
    return _parsed(whole), offset + len(whole)


def tail(folder: Path) -> list[dict[str, Any]]:
    """The last lines of a journal, some hundred of them, however long it is."""
    try:
        with (folder / EVENTS).open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - _TAIL)
            file.seek(start)
            data = file.read()
    except OSError:
        return []
    if start:
        data = data[data.find(b"\n") + 1 :]
    return _parsed(data[: data.rfind(b"\n") + 1])


def _parsed(data: bytes) -> list[dict[str, Any]]:
    found = []
    for line in data.splitlines():
        try:
            event = json.loads(line)
        except ValueError:  # half a line of a process that was killed
            continue
        if isinstance(event, dict):
            found.append(event)
    return found
