"""Questions to the warm worker: what does this cut do, what does this unit see? Needs no torch.

The worker (:mod:`engine.runs.ask_server`) is one process per workspace that keeps suspects in memory. The first
question starts it, and :func:`ask` never waits for that: the question is held here until the worker listens, which
takes a fraction of a second; it loads torch afterwards. Per session and kind only the newest question counts.

It listens on 127.0.0.1 and answers whoever knows the token in ``ask/server.json`` of the workspace, a file that only
its owner can read. A request is one line of JSON, and so is the reply; each has its own connection.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from engine.paths import ROOT, workspace
from engine.runs import process

State = Literal["starting", "working", "estimate", "exact", "error"]
KINDS = (
    "check",
    "what_if",
    "pictures",
    "stranger",
    "unit",
    "attribution",
    "activations",
    "wiring",
    "top",
    "by_class",
    "unlearned",
    "layer",
    "unlearned_layer",
    "latent",
    "twin",
    "steps",
    "pixels",
    "marked_unit",
    "commit",
    "confusion",
    "export",
    "examples",
    "choices",
    "preview",
)
STOPPED = "the worker stopped; ask again"
#: Seconds that a worker may take from its start until it listens.
PATIENCE = 30.0
#: Exit code of a worker that found another one in its place.
OTHER = 3
SERVER = "server.json"
_TIMEOUT = 5.0
_REMEMBERED = 1024


@dataclass(frozen=True)
class Answer:
    """What is known of a question: ``value`` holds an estimate or the exact answer, ``error`` one line.

    ``share`` is how much is done (0..1, None where that is not known), ``what`` what is being done.
    """

    question: dict[str, Any]
    state: State
    what: str = ""
    share: float | None = None
    value: dict[str, Any] | None = None
    error: str | None = None

    @property
    def final(self) -> bool:
        return self.state in ("exact", "error")


@dataclass
class _Asked:
    """A question as this process remembers it."""

    question: dict[str, Any]
    delivered: bool = False
    figures: bool = False
    answer: Answer | None = None
    looked: float = field(default_factory=time.monotonic)


_lock = threading.Lock()
_delivery = threading.Lock()
_asked: OrderedDict[tuple[str, str, str], _Asked] = OrderedDict()
_starting: dict[str, tuple[process.Child, float]] = {}


def ask(question: dict[str, Any], session: str) -> None:
    """Ask; the answer comes through :func:`poll`. An older question of this session and kind is given up.

    Raises:
        ValueError: for a question without a known kind, or that is not JSON.
    """
    kind = question.get("kind")
    if kind not in KINDS:
        raise ValueError(f"expected kind to be one of {', '.join(KINDS)}, got {kind!r}")
    question = json.loads(json.dumps(question, allow_nan=False))
    asked = _Asked(question)
    with _lock:
        _asked[_key(session, kind)] = asked
        _asked.move_to_end(_key(session, kind))
        while len(_asked) > _REMEMBERED:
            _asked.popitem(last=False)
    _deliver(asked, session)


def poll(session: str, kind: str) -> Answer | None:
    """The present state of the newest question of this session and kind; None if there was none."""
    with _lock:
        asked = _asked.get(_key(session, kind))
    if asked is not None:
        asked.looked = time.monotonic()
    if asked is not None and asked.answer is not None:
        return asked.answer
    if asked is not None and not asked.delivered:
        _deliver(asked, session)
        if not asked.delivered:
            return asked.answer or Answer(asked.question, "starting", "starting the worker")
    server = listening()
    reply = None if server is None else _request(server, {"op": "poll", "session": session, "kind": kind})
    if reply is not None and reply.get("answer") is not None:
        answer = Answer(**reply["answer"])
    elif asked is not None:  # it was taken by a worker that is gone
        answer = Answer(asked.question, "error", error=STOPPED)
    else:
        return None
    if asked is not None and answer.question == asked.question:
        asked.figures = answer.value is not None
        asked.answer = answer if answer.final else None
    return answer


def waiting(figures: bool = True) -> int:
    """How many questions of this process have no final answer yet and were looked at in the last ten seconds.

    Args:
        figures: whether to count those, too, that have first figures.
    """
    since = time.monotonic() - 10
    with _lock:
        return sum(
            asked.answer is None and (figures or not asked.figures) and asked.looked > since
            for asked in _asked.values()
        )


def _deliver(asked: _Asked, session: str) -> None:
    """Hand a question to the worker, or start one; a worker that cannot start is the answer."""
    folder = str(ask_folder())
    with _delivery:
        if asked.delivered or _asked.get(_key(session, asked.question["kind"])) is not asked:
            return  # another thread was quicker, or asked something newer
        server = listening()
        if server is not None and folder in _starting and _starting[folder][0].pid == server["pid"]:
            del _starting[folder]  # what listens is not starting any more
        if server is not None and server["code"] != code_stamp():
            # The program was updated under a running worker. It would answer with what it loaded before.
            _request(server, {"op": "quit"})
            server = None
        if server is not None:
            reply = _request(server, {"op": "ask", "session": session, "question": asked.question})
            if reply is not None and reply.get("taken"):
                asked.delivered = True
                return
        trouble = _start()
        if trouble is not None:
            asked.answer = Answer(asked.question, "error", error=trouble)


def _start() -> str | None:
    """Start a worker unless one is on its way. Returns one line if the one that was started is not coming."""
    folder = ask_folder()
    child, since = _starting.get(str(folder), (None, 0.0))
    # A child whose number is in the file has listened once: if it does not take questions, it is at its end.
    if child is not None and child.pid != _written(folder).get("pid"):
        code, late = child.poll(), time.monotonic() - since > PATIENCE
        if code is None and not late:
            return None
        if code not in (0, OTHER):
            del _starting[str(folder)]
            process.stop(child.pid, force=True)
            said = process.last_line(folder / "log.txt")
            return f"the worker could not start: {said or 'it said nothing'}"
    _starting[str(folder)] = (process.spawn(["engine.runs.ask_server"], folder / "log.txt"), time.monotonic())
    return None


def ask_folder() -> Path:
    """The worker's folder in the workspace, made for its owner only."""
    folder = workspace().resolve() / "ask"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _written(folder: Path) -> dict[str, Any]:
    """What the last worker wrote down of itself: ``port``, ``token``, ``pid``, ``began``, ``code``; else empty."""
    try:
        server = json.loads((folder / SERVER).read_text())
        return server if {"port", "token", "pid", "began", "code"} <= set(server) else {}
    except (OSError, ValueError, TypeError):
        return {}


def listening() -> dict[str, Any] | None:
    """The worker that listens now."""
    server = _written(workspace().resolve() / "ask")
    return server if server and process.alive(server["pid"], server["began"]) else None


def _request(server: dict[str, Any], message: dict[str, Any]) -> dict[str, Any] | None:
    """One request, one reply; None if the worker does not answer."""
    line = json.dumps({"token": server["token"], **message}).encode() + b"\n"
    try:
        with socket.create_connection(("127.0.0.1", server["port"]), _TIMEOUT) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(line)
            with connection.makefile("rb") as stream:
                reply = json.loads(stream.readline())
                return reply if isinstance(reply, dict) else None
    except (OSError, ValueError):
        return None


def _key(session: str, kind: str) -> tuple[str, str, str]:
    return str(workspace()), session, kind


def code_stamp() -> str:
    """Changes when a source file of the engine does."""
    parts = []
    for folder, _, names in os.walk(ROOT / "engine"):
        for name in names:
            if name.endswith(".py"):
                with contextlib.suppress(OSError):
                    stat = os.stat(os.path.join(folder, name))
                    parts.append(f"{folder}/{name} {stat.st_mtime_ns} {stat.st_size}")
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()[:16]


def stop() -> None:
    """End the worker of this workspace, if there is one: for tests and for whoever frees memory."""
    server = listening()
    if server is not None:
        _request(server, {"op": "quit"})


__all__ = ["KINDS", "STOPPED", "Answer", "ask", "poll", "stop", "waiting"]
