"""Run folders: the truth about what was computed.

A finished run is a folder with ``spec.json`` (what was asked), ``result.json`` (what came out), arrays as
safetensors, and ``manifest.json``, written last, with the hash and size of every file. A folder without a
manifest is unfinished, and nothing reads it. This module needs no torch, so that the dashboard can read runs.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from engine.paths import workspace
from engine.runs import checkpoints, process
from engine.runs.checkpoints import Keep
from engine.runs.files import sync_folder, write_atomic
from engine.spec import SCHEMA_VERSION, digest

MANIFEST = "manifest.json"
#: Written while a run is going on, and not part of what it found.
JOURNAL = ("events.jsonl", "log.txt", "job.json", "worker.json", "worker.lock", "cancel", checkpoints.FOLDER)
#: How a specification names a run of the workspace as a suspect: this and its id, the same on every machine.
BY_ID = "run:"
#: Files of an unfinished run lie in a folder of this name and the process id.
PART = ".part-"
#: The manifest of a run whose files are just being moved into its folder.
COMMIT = ".commit.json"


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run_id(spec: dict[str, Any], inputs: dict[str, str]) -> str:
    """Hash of the specification, the input hashes and the schema version: 16 hexadecimal digits."""
    return digest({"spec": spec, "inputs": inputs, "schema": SCHEMA_VERSION})[:16]


def json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def environment() -> dict[str, str]:
    """Versions that a result depends on."""
    names = ("torch", "torchvision", "numpy")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


@dataclass(frozen=True)
class Run:
    """A finished run, read from its folder."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.manifest["run"])

    @property
    def kind(self) -> str:
        return str(self.spec["kind"])

    @functools.cached_property
    def spec(self) -> dict[str, Any]:
        return self._json("spec.json")

    @functools.cached_property
    def result(self) -> dict[str, Any]:
        return self._json("result.json")

    def has(self, name: str) -> bool:
        return name in self.manifest["files"]

    def path(self, name: str) -> Path:
        """A file of the run, checked against its hash in the manifest.

        Raises:
            ValueError: if the run has no such file, or it is missing or was altered.
        """
        listed = self.manifest["files"].get(name)
        path = self.folder / name
        if listed is None:
            raise ValueError(f"expected {name} in run {self.folder}, got only {', '.join(self.manifest['files'])}")
        if not path.is_file():
            raise ValueError(f"expected {name} in {self.folder}, got nothing: the run folder is incomplete")
        if path.stat().st_size != listed["size"] or sha256_of(path) != listed["sha256"]:
            raise ValueError(f"expected {path} as its manifest records it, got an altered file (hash mismatch)")
        return path

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of a safetensors file of the run, such as ``arrays("scores")``."""
        return safetensors.numpy.load(self.path(f"{name}.safetensors").read_bytes())

    def verify(self) -> list[str]:
        """Check every file; returns the names."""
        return [self.path(name).name for name in self.manifest["files"]]

    def _json(self, name: str) -> dict[str, Any]:
        value = json.loads(self.path(name).read_text())
        assert isinstance(value, dict)
        return value


def open_run(folder: Path) -> Run:
    """Open a finished run folder.

    Raises:
        ValueError: in one line, if there is no finished run of this schema version.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ValueError(f"expected a run folder or demo:NAME, got {str(folder)!r}, which is no folder")
    if not path.is_file():
        raise ValueError(f"expected a finished run in {folder}, got a folder without {MANIFEST}")
    try:
        manifest = json.loads(path.read_text())
        schema = manifest["schema"]
        files = {str(name): (v["size"], v["sha256"]) for name, v in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"expected {path} to be the manifest of a run, got something else") from None
    if schema != SCHEMA_VERSION:
        raise ValueError(f"expected a run of schema {SCHEMA_VERSION} in {folder}, got schema {schema}")
    outside = [name for name in files if Path(name).name != name]
    if outside:
        raise ValueError(f"expected plain file names in {path}, got {outside[0]!r}")
    return Run(folder, manifest)


class Draft:
    """A run being written; see :func:`new_run`. ``keep`` takes what is worked out on the way."""

    def __init__(self, folder: Path, keep: Keep = checkpoints.NOTHING) -> None:
        self.folder = folder
        self.keep = keep
        self.result: dict[str, Any] | None = None

    def arrays(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        contiguous = {k: np.asarray(v, order="C") for k, v in arrays.items()}
        self.bytes(f"{name}.safetensors", safetensors.numpy.save(contiguous))

    def json(self, name: str, value: Any) -> None:
        self.bytes(name, json_bytes(value))

    def bytes(self, name: str, data: bytes) -> None:
        write_atomic(self.folder / name, data)


def run_folder(spec: dict[str, Any], inputs: dict[str, str], out: Path | None = None) -> Path:
    """Where a run goes: ``out``, else ``runs/<run id>`` in the workspace."""
    return out or workspace() / "runs" / run_id(spec, inputs)


def finished(spec: dict[str, Any], inputs: dict[str, str], out: Path | None = None) -> Run | None:
    """The run of this specification if it is there already.

    Raises:
        ValueError: if ``out`` holds something else than this run.
    """
    folder = run_folder(spec, inputs, out)
    if (folder / MANIFEST).exists():
        run = open_run(folder)
        if run.id != run_id(spec, inputs):
            raise ValueError(f"expected {folder} to be empty or to hold the same specification, got another run")
        run.verify()
        return run
    # What a killed process left behind is no one's; the next run of the folder clears it away.
    found = {e.name for e in folder.iterdir() if not e.name.startswith(PART)} if folder.is_dir() else set()
    if found - {*JOURNAL, *_left(folder)}:
        raise ValueError(f"expected {folder} to be empty or to hold the same specification, got other files")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"expected {folder} to be a folder, got a file")
    return None


def _left(folder: Path) -> list[str]:
    """Files of a run whose process was killed while it moved them here, or in the middle of writing one."""
    found = [entry.name for entry in folder.glob(".*.part")]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found += [str(name) for name in json.loads((folder / COMMIT).read_text())["files"]]
    if (folder / COMMIT).exists():
        found.append(COMMIT)
    return [name for name in found if Path(name).name == name]


@contextlib.contextmanager
def new_run(spec: dict[str, Any], inputs: dict[str, str], out: Path | None = None) -> Iterator[Draft]:
    """Write a run; files appear in its folder only when all of them are complete.

    The block must set ``draft.result``. If it raises, nothing stays but the journal of the job and, unless a
    ``ValueError`` says that the run is impossible, the pieces from which the same command goes on.
    """
    folder, started = run_folder(spec, inputs, out), time.time()
    created = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{PART}*"):
        pid = left.name.removeprefix(PART)
        if not pid.isdecimal() or process.began(int(pid)) is None:
            shutil.rmtree(left, ignore_errors=True)
    for name in _left(folder):
        (folder / name).unlink(missing_ok=True)
    part, keep = folder / f"{PART}{os.getpid()}", Keep(folder, run_id(spec, inputs))
    part.mkdir()
    try:
        draft = Draft(part, keep)
        yield draft
        assert draft.result is not None
        draft.json("spec.json", spec)
        draft.json("result.json", draft.result)
        files = {p.name: {"size": p.stat().st_size, "sha256": sha256_of(p)} for p in sorted(part.iterdir())}
        manifest = {
            "schema": SCHEMA_VERSION,
            "run": run_id(spec, inputs),
            "inputs": inputs,
            "environment": environment(),
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
            "seconds": round(time.time() - started, 2),
            "files": files,
        }
        write_atomic(folder / COMMIT, json_bytes(manifest))
        for name in files:
            os.replace(part / name, folder / name)
        os.replace(folder / COMMIT, folder / MANIFEST)
        sync_folder(folder)
        keep.clear()
    except ValueError:
        keep.clear()
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if created and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def find_run(run: str) -> Run | None:
    """The finished run of the workspace with this id, whatever its folder is called; None if there is none."""
    for folder in (_seen_at.get(run), workspace() / "runs" / Path(run).name):
        with contextlib.suppress(ValueError):
            if folder is not None and (found := open_run(folder)).id == run and folder.parent == workspace() / "runs":
                return found
    for found in all_runs():
        _seen_at[found.id] = found.folder
        if found.id == run:
            return found
    return None


#: Where a run was last, by id: folders of jobs are not called by it.
_seen_at: dict[str, Path] = {}


def all_runs(root: Path | None = None) -> list[Run]:
    """The finished runs of the workspace, newest first; unreadable folders are passed over."""
    found = []
    for folder in (root or workspace() / "runs").glob("*"):
        with contextlib.suppress(ValueError):
            found.append(open_run(folder))
    return sorted(found, key=lambda run: run.manifest["created"], reverse=True)
