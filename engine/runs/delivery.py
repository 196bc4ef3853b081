"""Finished runs on their way between machines: packed with their hashes, checked, committed once. Needs no torch."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from pathlib import Path

from engine.paths import workspace
from engine.runs.files import sync_folder, write_atomic
from engine.runs.store import MANIFEST, Run, find_run, open_run

Parcel = dict[str, bytes]
"""The files of a run by name, its manifest among them."""


def pack(run: Run) -> Parcel:
    """Every file of a run, checked against the manifest."""
    files = {name: run.path(name).read_bytes() for name in run.manifest["files"]}
    return {**files, MANIFEST: (run.folder / MANIFEST).read_bytes()}


def commit(parcel: Parcel, wanted: str) -> Run:
    """Put a run into the workspace as ``runs/ID``, complete or not at all; one that is there already stays.

    Raises:
        ValueError: in one line, if the parcel is not the run ``wanted``, or a file differs from its hash.
    """
    if known := find_run(wanted):
        return known
    home = workspace().resolve()
    folder, made = home / "runs" / wanted, home / f".new-{wanted}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        listed = {str(name) for name in json.loads(parcel[MANIFEST])["files"]}
    except (KeyError, ValueError, TypeError):
        raise ValueError(f"expected the files of run {wanted}, got something else") from None
    if listed | {MANIFEST} != parcel.keys() or any(Path(name).name != name for name in parcel):
        raise ValueError(f"expected the files that the manifest of run {wanted} lists, got others")
    folder.parent.mkdir(parents=True, exist_ok=True)
    made.mkdir()
    try:
        for name, data in parcel.items():
            write_atomic(made / name, data)
        run = open_run(made)
        run.verify()
        if run.id != wanted:
            raise ValueError(f"expected run {wanted}, got {run.id}")
        with contextlib.suppress(OSError):  # somebody was quicker
            os.replace(made, folder)
            sync_folder(folder.parent)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    if (known := find_run(wanted)) is None:
        raise ValueError(f"expected {folder} to be free, got an unfinished run in it; delete it first")
    return known
