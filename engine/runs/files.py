"""Writing files so that nothing is torn, also where the disk is full. Needs no torch."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

from engine.paths import workspace

#: Bytes that must be free before a job is started: a run that cannot be written is not worth computing.
RESERVE = 256 << 20
#: A file in the workspace whose only use is to be removed when the last word of a job finds no room.
BALLAST, BALLAST_BYTES = "ballast", 4 << 20


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old or the new content, also after a power cut."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename last; where a folder cannot be opened (Windows) the system sees to it."""
    with contextlib.suppress(OSError):
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one behind it, says that the disk or this user's share of it is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def free_bytes(folder: Path) -> int:
    """What is free on the disk of a folder; of its nearest parent that is there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def lay_ballast() -> None:
    """Put the ballast in its place, if there is room."""
    path = workspace() / BALLAST
    with contextlib.suppress(OSError):
        if not path.exists() and free_bytes(workspace()) > RESERVE:
            write_atomic(path, bytes(BALLAST_BYTES))


def drop_ballast() -> bool:
    """Make room for a few last words; False if that was done before."""
    try:
        (workspace() / BALLAST).unlink()
    except OSError:
        return False
    return True
