"""The queue of jobs and the index of runs: one SQLite file in the workspace, a copy of what the run folders say.

Nothing is known here that a folder does not know: the file may be thrown away, and a new one is made from the folders
(:func:`engine.runs.jobs.reindex`). Write-ahead logging lets pages read while the supervisor writes, and needs a local
disk. Connections live as long as one operation. Needs no torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.paths import workspace

FILE = "queue.sqlite"
_VERSION = 1
_TABLE = """
CREATE TABLE IF NOT EXISTS runs (
    name TEXT PRIMARY KEY, label TEXT NOT NULL, kind TEXT NOT NULL, suspect TEXT, argv TEXT,
    submitted REAL NOT NULL, state TEXT NOT NULL, slot TEXT, run TEXT, seconds REAL
)"""
_COLUMNS = "name, label, kind, suspect, argv, submitted, state, slot, run, seconds"


@dataclass(frozen=True)
class Entry:
    """A folder of ``runs/`` as the index has it.

    ``argv`` is None for a run that is no job, ``run`` the run id where it is finished, ``slot`` the device that works
    on it, ``submitted`` in unix seconds; ``state`` is queued, running, paused, done, failed or cancelled.
    """

    name: str
    label: str
    kind: str
    suspect: str | None
    argv: tuple[str, ...] | None
    submitted: float
    state: str
    slot: str | None = None
    run: str | None = None
    seconds: float | None = None

    @property
    def folder(self) -> Path:
        return runs_folder() / self.name


def runs_folder() -> Path:
    return workspace().resolve() / "runs"


@contextlib.contextmanager
def _database() -> Iterator[sqlite3.Connection]:
    folder = workspace()
    folder.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(folder / FILE, timeout=10)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        with database:
            yield database
    finally:
        database.close()


def usable() -> bool:
    """Whether there is an index of this version; a file that is no database is put aside."""
    path = workspace() / FILE
    if not path.exists():
        return False
    try:
        with _database() as database:
            if database.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                return False
            database.execute(f"SELECT {_COLUMNS} FROM runs LIMIT 1")
            return True
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        for end in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                os.replace(f"{path}{end}", f"{path}.broken{end}")
        return False


def rebuild(found: Iterable[Entry]) -> None:
    """Replace everything at once; readers see the old index or the new one."""
    with _database() as database:
        database.execute("BEGIN IMMEDIATE")
        database.execute("DROP TABLE IF EXISTS runs")
        database.execute(_TABLE)
        database.executemany(f"INSERT INTO runs ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)", map(_row, found))
        database.execute(f"PRAGMA user_version={_VERSION}")


def put(entry: Entry, new: bool = False) -> None:
    """Write an entry; one that is ``new`` does not replace what somebody wrote in the meantime."""
    verb = "IGNORE" if new else "REPLACE"
    with _database() as database:
        database.execute(f"INSERT OR {verb} INTO runs ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)", _row(entry))


def claim(name: str, slot: str) -> bool:
    """Take a queued job for a slot; False if it is not queued any more."""
    with _database() as database:
        told = database.execute("UPDATE runs SET state='running', slot=? WHERE name=? AND state='queued'", (slot, name))
        return told.rowcount == 1


def remove(name: str) -> None:
    with _database() as database:
        database.execute("DELETE FROM runs WHERE name=?", (name,))


def entries(*states: str) -> list[Entry]:
    """What the index holds, newest first; only that in one of ``states`` if any are given."""
    where = f" WHERE state IN ({','.join('?' * len(states))})" if states else ""
    with _database() as database:
        rows = database.execute(f"SELECT {_COLUMNS} FROM runs{where} ORDER BY submitted DESC, name DESC", states)
        return [_entry(row) for row in rows]


def _row(entry: Entry) -> tuple[object, ...]:
    argv = None if entry.argv is None else json.dumps(list(entry.argv), ensure_ascii=False)
    return (
        entry.name, entry.label, entry.kind, entry.suspect, argv, entry.submitted, entry.state, entry.slot, entry.run,
        entry.seconds,
    )  # fmt: skip


def _entry(row: tuple[object, ...]) -> Entry:
    values = dict(zip(_COLUMNS.split(", "), row, strict=True))
    argv = values["argv"]
    values["argv"] = None if argv is None else tuple(json.loads(str(argv)))
    return Entry(**values)  # type: ignore[arg-type]
