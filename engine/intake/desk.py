"""Where a page hands in a stranger's file. Needs no torch.

A thread writes the file down under a name of its own, a process looks at it (:mod:`engine.intake.clerk`), and only what
was accepted moves to ``uploads/<sha256>/`` of the workspace: a checkpoint as ``checkpoint``, arrays as ``data.npz``, a
zip of pictures as the folder ``images``, the picture of a trigger as ``trigger.png``. Of a refused file nothing stays,
nor of a picture that a suspect is asked about. Larger files may lie in ``inbox/`` of the workspace, where they are
looked at and left as they are.

:func:`hand_in` returns at once; :func:`look` says how far it is, under the ticket that the caller chose.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import sqlite3
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

from engine.intake import uploads
from engine.intake.limits import Refused
from engine.paths import workspace
from engine.runs import jobs, process

Kind = Literal["checkpoint", "data", "trigger", "picture"]
State = Literal["working", "done", "refused"]

MAX_CHECKPOINT_BYTES = 512 * 2**20
LIMITS: dict[Kind, int] = {
    "checkpoint": MAX_CHECKPOINT_BYTES,
    "data": uploads.MAX_ARCHIVE_BYTES,
    "trigger": uploads.MAX_PICTURE_BYTES,
    "picture": 20 * 2**20,
}
#: Seconds in which a checkpoint and a zip of a hundred thousand pictures are looked at, on a slow machine.
_PATIENCE = 900
#: Files of the inbox that a page offers, and folders in it that are looked into.
_MOST = 200
_PART = ".part-"
_STALE = 3600
_REMEMBERED = 64


@dataclass(frozen=True)
class Look:
    """How far the look at a file is: ``what`` is being done, roughly which ``share`` of it is; ``error`` is one line.

    ``value`` is what the clerk found, of a refused checkpoint too; of a trigger ``png`` (base64), ``width`` and
    ``height``, of a picture ``png``. ``path`` is where the accepted file lies: what an import is given.
    """

    state: State
    what: str = ""
    share: float = 0.05
    value: dict[str, Any] | None = None
    error: str = ""
    path: Path | None = None
    sha256: str = ""
    since: float = field(default_factory=time.monotonic)


_lock = threading.Lock()
_looks: OrderedDict[str, Look] = OrderedDict()
#: A look loads torch and may unpack much: two at a time, whoever asks.
_places = threading.Semaphore(2)


def uploads_folder() -> Path:
    return workspace().resolve() / "uploads"


def inbox_folder() -> Path:
    return workspace().resolve() / "inbox"


def inbox() -> dict[str, Path]:
    """Plain files in the inbox and in its folders, by the name that a page shows; links are left out."""
    found: dict[str, Path] = {}

    def scan(folder: Path, before: str) -> None:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                if entry.name.startswith(".") or not entry.name.isprintable() or len(found) >= _MOST:
                    continue
                if stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
                    found[before + entry.name] = Path(entry.path)
                elif not before and entry.is_dir(follow_symlinks=False):
                    scan(Path(entry.path), f"{entry.name}/")

    scan(inbox_folder(), "")
    return found


def hand_in(ticket: str, kind: Kind, source: BinaryIO | Path) -> None:
    """Have a file looked at: an upload, or a path in the inbox. A ticket that is known already changes nothing."""
    with _lock:
        if ticket in _looks:
            return
        _looks[ticket] = Look("working", "it waits its turn" if isinstance(source, Path) else "it is written down")
        while len(_looks) > _REMEMBERED:
            _looks.popitem(last=False)

    def say(**changes: Any) -> None:
        with _lock:
            known = ticket in _looks
            look = replace(_looks[ticket] if known else Look("working"), **changes)
            if known:
                _looks[ticket] = look
        if not known:  # put away meanwhile
            _discard(look)

    threading.Thread(target=_work, args=(kind, source, say), name="intake", daemon=True).start()


def look(ticket: str) -> Look | None:
    """How far a file is; None for a ticket that is not known (any more)."""
    with _lock:
        return _looks.get(ticket)


def forget(ticket: str) -> None:
    """Put a file away. What was kept of an upload goes with it, unless a job or somebody else's page is about it."""
    with _lock:
        gone = _looks.pop(ticket, None)
    if gone is not None:
        _discard(gone)


def _discard(gone: Look) -> None:
    with _lock:
        needed = any(other.path == gone.path for other in _looks.values())
    if needed or gone.path is None or not gone.sha256:
        return
    with contextlib.suppress(OSError, sqlite3.Error):
        if not any(str(gone.path) in (entry.argv or ()) for entry in jobs.entries()):
            shutil.rmtree(gone.path) if gone.path.is_dir() else gone.path.unlink()
            gone.path.parent.rmdir()


def keep_trigger(png: bytes) -> Path:
    """The picture of a trigger as :func:`engine.intake.uploads.placed` made it, where an import finds it."""
    return _settle(_written(png), "trigger.png", hashlib.sha256(png).hexdigest())


# --- the thread of one file ------------------------------------------------------------------------------------------


def _work(kind: Kind, source: BinaryIO | Path, say: Callable[..., None]) -> None:
    try:
        with _places:
            say(**_looked(kind, source, say))
    except (ValueError, OSError) as error:
        say(state="refused", error=" ".join(str(error).split())[:600])
    except Exception as error:  # a page that waits must hear of it
        say(state="refused", error=f"looking at this file failed ({type(error).__name__})")


def _looked(kind: Kind, source: BinaryIO | Path, say: Callable[..., None]) -> dict[str, Any]:
    if isinstance(source, Path):
        say(what="a process of its own reads it", share=0.4)
        return {**_verdict(_clerk("checkpoint", source)), "path": source}
    if kind == "trigger":
        say(what="a process of its own decodes it", share=0.4)
        encoded = uploads.trigger(_bytes(source, LIMITS[kind]))
        width, height = uploads.size_of(encoded)
        return {"state": "done", "value": {"png": encoded, "width": width, "height": height}}
    if kind == "picture":
        say(what="a process of its own decodes it", share=0.4)
        return {"state": "done", "value": {"png": uploads.picture(_bytes(source, LIMITS[kind]))}}
    part = _new_part()
    try:
        sha256 = _copy(source, part / "upload", LIMITS[kind])
        if kind == "checkpoint":
            say(what="a process of its own reads it", share=0.4)
            # The name under which it is kept is the one that its description gives.
            file = (part / "upload").rename(part / "checkpoint")
            value = _clerk("checkpoint", file)
            if (found := _verdict(value))["state"] == "refused":
                return found
        elif _holds_arrays(part / "upload"):
            say(what="its arrays are checked", share=0.4)
            file = (part / "upload").rename(part / "data.npz")
            value = _clerk("arrays", file)
        else:
            say(what="its pictures are decoded, in processes of their own", share=0.3)
            file = part / "images"
            value = _clerk("images", part / "upload", file)
        return {"state": "done", "value": value, "path": _settle(part, file.name, sha256), "sha256": sha256}
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _verdict(report: dict[str, Any]) -> dict[str, Any]:
    """A report on a checkpoint, refused in the reader's own words where it is hostile or cannot be read."""
    if report["verdict"] in ("plain", "foreign"):
        return {"state": "done", "value": report}
    error = report["reason"] or f"expected a readable checkpoint, got one that is {report['verdict']}"
    return {"state": "refused", "value": report, "error": error}


def _clerk(kind: str, *paths: Path) -> dict[str, Any]:
    more = {"UNMASK_HOME": str(workspace().resolve()), "OMP_NUM_THREADS": "1"}
    code, said, told = process.answer(["engine.intake.clerk", kind, *(str(p) for p in paths)], _PATIENCE, more)
    if code == 0:
        return dict(json.loads(said))
    lines = told.strip().splitlines()
    if code == 2 and lines and lines[-1].startswith("error: "):
        raise Refused(lines[-1].removeprefix("error: "))
    raise Refused(f"expected a file that can be looked at, got one whose reading ended with code {code}")


# --- files -----------------------------------------------------------------------------------------------------------


def _new_part() -> Path:
    """A folder for what is not accepted yet; those that a killed process left are removed on the way."""
    home = uploads_folder()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in home.glob(f"{_PART}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE:
                shutil.rmtree(left, ignore_errors=True)
    part = home / f"{_PART}{secrets.token_hex(8)}"
    part.mkdir(mode=0o700)
    return part


def _copy(source: BinaryIO, target: Path, limit: int) -> str:
    """Write an upload down; its SHA-256."""
    digest, total = hashlib.sha256(), 0
    source.seek(0)
    with target.open("xb") as file:
        while chunk := source.read(1 << 20):
            total += len(chunk)
            if total > limit:
                raise Refused(f"expected an upload of at most {limit:,} bytes, got more; put it in {inbox_folder()}")
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _written(data: bytes) -> Path:
    part = _new_part()
    with (part / "trigger.png").open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return part


def _settle(part: Path, name: str, sha256: str) -> Path:
    """Move an accepted file to its place, unless the same is there already."""
    home = uploads_folder() / sha256
    try:
        home.mkdir(exist_ok=True, mode=0o700)
        if not (home / name).exists():
            os.replace(part / name, home / name)
        return home / name
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _bytes(source: BinaryIO, limit: int) -> bytes:
    source.seek(0)
    data = source.read(limit + 1)
    if len(data) > limit:
        raise Refused(f"expected a picture of at most {limit:,} bytes, got more")
    return data


def _holds_arrays(path: Path) -> bool:
    """Whether a zip starts with an array, as an ``.npz`` does; all else is for the reader of zips to judge."""
    with path.open("rb") as file:
        head = file.read(512)
    return head[:4] == b"PK\x03\x04" and head[30 : 30 + int.from_bytes(head[26:28], "little")].endswith(b".npy")
