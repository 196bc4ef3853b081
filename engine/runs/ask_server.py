"""The warm worker: ``python -m engine.runs.ask_server``, started by the first question (:mod:`engine.runs.ask`).

A thread takes questions and tells how they stand, the main thread works on them. An answer is computed by a
generator that stops at short intervals, and then another one may have its turn: one long check holds nobody up, and
giving a question up is to leave its generator alone. Nothing survives the process, which goes when nobody has asked for
ten minutes.
"""

from __future__ import annotations

import contextlib
import hmac
import itertools
import json
import os
import secrets
import socketserver
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.runs import process
from engine.runs.ask import OTHER, SERVER, Answer, ask_folder, code_stamp, listening
from engine.runs.store import write_atomic

IDLE = 600.0
_LONGEST = 4 << 20
_REMEMBERED = 256
#: After a step towards better figures, first figures have so many times as long for themselves.
_SHARE = 5.0
#: Turns that a question has one after the other: the first figures of a check take so many.
_AT_ONCE = 6
#: From so many waiting questions on the worker computes with one thread: the pages need the other processors, and
#: threads that wait for each other on busy ones lose more time than they gain.
_CROWD = 4

Key = tuple[str, str]
#: Answers a question step by step: each step tells the state so far, the last one is final.
Handler = Callable[[dict[str, Any]], Iterator[Answer]]


@dataclass
class _Task:
    answer: Answer
    served: int = 0
    turns: int = 0
    steps: Iterator[Answer] | None = None
    asked: float = field(default_factory=time.monotonic)


class Desk:
    """The questions of all sessions: the newest of each session and kind, and whose turn it is."""

    def __init__(self) -> None:
        self._tasks: dict[Key, _Task] = {}
        self._turn = itertools.count(1)
        self._sessions: dict[str, int] = {}
        self._changed = threading.Condition()
        self._last_asked = time.monotonic()
        #: Until then those who have figures wait for those who have none.
        self._refined = 0.0
        #: Questions without a final answer, when one was last chosen.
        self.waiting = 0
        self.closed = False

    def ask(self, session: str, question: dict[str, Any]) -> bool:
        """Take a question; False if the desk has closed."""
        with self._changed:
            if self.closed:
                return False
            self._tasks[session, str(question.get("kind"))] = _Task(Answer(question, "starting", "loading the engine"))
            self._last_asked = time.monotonic()
            self._forget()
            self._changed.notify()
            return True

    def poll(self, session: str, kind: str) -> Answer | None:
        with self._changed:
            task = self._tasks.get((session, kind))
            return None if task is None else task.answer

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self._changed.notify()

    def work(self, handler: Handler, idle: float = IDLE, crowded: Callable[[bool], None] | None = None) -> None:
        """Answer questions until the desk is closed or nobody has asked for ``idle`` seconds.

        ``crowded`` is told before each step whether many wait.
        """
        while (task := self._next(idle)) is not None:
            if crowded is not None:
                crowded(self.waiting >= _CROWD)
            began = time.monotonic()
            answer = _step(task, handler)
            with self._changed:
                if task.answer.value is not None:
                    now = time.monotonic()
                    self._refined = now + _SHARE * (now - began)
                task.answer = answer

    def _next(self, idle: float) -> _Task | None:
        with self._changed:
            while not self.closed:
                waiting = [(key, task) for key, task in self._tasks.items() if not task.answer.final]
                self.waiting = len(waiting)
                if waiting:
                    key, task = self._whose(waiting)
                    self._sessions[key[0]] = task.served = next(self._turn)
                    task.turns += 1
                    return task
                left = self._last_asked + idle - time.monotonic()
                if left <= 0:
                    self.closed = True
                else:
                    self._changed.wait(left)
            return None

    def _whose(self, waiting: list[tuple[Key, _Task]]) -> tuple[Key, _Task]:
        """Whose turn it is. Who has no figures yet comes first, and what was begun goes on for a few turns, so that a
        whole class has some soon; better figures, in turn, get a part of the time meanwhile."""

        def order(item: tuple[Key, _Task]) -> tuple[bool, int, float]:
            (session, _), task = item
            return not 0 < task.turns < _AT_ONCE, self._sessions.get(session, 0), task.asked

        new = [item for item in waiting if item[1].answer.value is None]
        better = [item for item in waiting if item[1].answer.value is not None]
        if new and (not better or time.monotonic() < self._refined):
            return min(new, key=order)
        return min(better, key=lambda item: (self._sessions.get(item[0][0], 0), item[1].served))

    def _forget(self) -> None:
        ended = sorted((task.asked, key) for key, task in self._tasks.items() if task.answer.final)
        for _, key in ended[: max(0, len(self._tasks) - _REMEMBERED)]:
            del self._tasks[key]
        known = {session for session, _ in self._tasks}
        self._sessions = {session: turn for session, turn in self._sessions.items() if session in known}


def _step(task: _Task, handler: Handler) -> Answer:
    """One step of a question; whatever goes wrong becomes its answer."""
    question = task.answer.question
    try:
        if task.steps is None:
            task.steps = handler(question)
        return next(task.steps)
    except StopIteration:
        return task.answer if task.answer.final else Answer(question, "error", error="the question has no answer")
    except ValueError as error:
        return Answer(question, "error", error=" ".join(str(error).split()))
    except Exception as error:  # the worker must outlive any single question; the log has the whole story
        traceback.print_exc()
        return Answer(question, "error", error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = False

    def __init__(self, desk: Desk, token: str) -> None:
        self.desk, self.token = desk, token
        super().__init__(("127.0.0.1", 0), _Connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that hangs up or sends nonsense concerns nobody."""

    def reply(self, line: bytes) -> dict[str, Any]:
        message = json.loads(line)
        if not hmac.compare_digest(str(message["token"]).encode(), self.token.encode()):
            return {"error": "wrong token"}
        match message["op"]:
            case "ask":
                return {"taken": self.desk.ask(str(message["session"]), dict(message["question"]))}
            case "poll":
                answer = self.desk.poll(str(message["session"]), str(message["kind"]))
                return {"answer": None if answer is None else asdict(answer)}
            case "quit":
                (ask_folder() / SERVER).unlink(missing_ok=True)  # at once: it may be in the middle of a step
                self.desk.close()
        return {}


class _Connection(socketserver.StreamRequestHandler):
    timeout = 5
    disable_nagle_algorithm = True

    def handle(self) -> None:
        assert isinstance(self.server, _Server)
        line = self.rfile.readline(_LONGEST)
        self.wfile.write(json.dumps(self.server.reply(line), allow_nan=False).encode() + b"\n")


def _claim(folder: Path, patience: float = 10.0) -> int | None:
    """Lock the workspace's place for a worker until the process ends; None if another one has it and listens."""
    deadline = time.monotonic() + patience
    while (lock := process.hold(folder / "lock")) is None:
        # The former worker may be about to go, the present one about to listen.
        if listening() or time.monotonic() > deadline:
            return None
        time.sleep(0.05)
    return lock


def main() -> int:
    folder = ask_folder()
    code = code_stamp()
    lock = _claim(folder)
    if lock is None:
        return OTHER
    log, written = folder / "log.txt", folder / SERVER
    with contextlib.suppress(OSError):
        if log.stat().st_size > 1 << 20:
            os.truncate(log, 0)
    sys.setswitchinterval(0.001)  # a poll should not wait for the work
    desk = Desk()
    with _Server(desk, secrets.token_hex(32)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        me = {"pid": os.getpid(), "began": process.began(os.getpid()), "code": code}
        with process.private():
            write_atomic(written, json.dumps({"port": server.server_address[1], "token": server.token, **me}).encode())
        try:
            handler, crowded = _engine()
            desk.work(handler, crowded=crowded)
        finally:
            desk.close()
            written.unlink(missing_ok=True)
            server.shutdown()
    return 0


def _engine() -> tuple[Handler, Callable[[bool], None] | None]:
    """Load what takes seconds (torch) while questions are taken already."""
    try:
        from engine.questions import Questions

        questions = Questions()
        return questions.answer, questions.crowded
    except Exception as error:
        traceback.print_exc()
        line = f"the engine could not be loaded: {' '.join(str(error).split())[:300]}"

        def refuse(question: dict[str, Any]) -> Iterator[Answer]:
            yield Answer(question, "error", error=line)

        return refuse, None


if __name__ == "__main__":
    raise SystemExit(main())
