"""Reading an untrusted checkpoint: a process of its own looks at it, and a description and safetensors come back.

Nothing of the file is opened here but its bytes, and those only to hash and to hand over. What comes back is the
answer of a process that read hostile input, so it is checked like any other input.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.intake.limits import MAX_FILE_BYTES, READER_MEMORY, Refused
from engine.paths import ROOT
from engine.runs import process

VERDICTS = ("plain", "foreign", "hostile", "refused")
"""Only known records; foreign names that were left alone; names of modules that run things; not readable at all."""
_SECONDS = 10
_MAX_REPORT = 64 * 2**20
_START = "import sys; sys.path.insert(0, {root!r}); from engine.intake.child import main; main(sys.argv[1:])"


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds; ``report`` is the reading process's document.

    ``tensors`` is the safetensors file with every tensor under its path, where one was asked for and could be made.
    """

    file: Path
    size: int
    sha256: str
    report: dict[str, Any]
    tensors: Path | None

    @property
    def verdict(self) -> str:
        return str(self.report["verdict"])

    def groups(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Tensors by the table that they stand in (``""`` is the outermost), then by name."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for row in self.report["tensors"]:
            found.setdefault(row["group"], {})[row["name"]] = row
        return found


def read(path: Path, tensors: Path | None = None) -> Checkpoint:
    """Describe a file, and write its tensors to ``tensors`` if that is given and the file can be read.

    Raises:
        ValueError: in one line, if there is no such file or no way to confine a process here. A file that is hostile or
            broken is no error: its report says so.
    """
    if not process.can_confine():
        raise ValueError("expected a system on which a process's memory can be limited (Linux, macOS), got another")
    if not path.is_file():
        raise ValueError(f"expected a file, got {str(path)!r}, which is {'a folder' if path.is_dir() else 'none'}")
    with path.open("rb") as source:
        size = source.seek(0, 2)
        if size > MAX_FILE_BYTES:
            raise Refused(f"expected a file of at most {MAX_FILE_BYTES:,} bytes, got {size:,}")
        source.seek(0)
        digest = hashlib.file_digest(source, "sha256").hexdigest()
        source.seek(0)
        part = None if tensors is None else tensors.with_name(tensors.name + ".part")
        try:
            report = _report(source, size, part)
            if part is not None and tensors is not None and report["verdict"] in ("plain", "foreign"):
                part.replace(tensors)
                return Checkpoint(path, size, digest, report, tensors)
        finally:
            if part is not None:
                part.unlink(missing_ok=True)
    return Checkpoint(path, size, digest, report, None)


def _report(source: Any, size: int, tensors: Path | None) -> dict[str, Any]:
    memory = READER_MEMORY + (2 * size if size > 64 * 2**20 else 0)
    seconds = _SECONDS + size // (32 * 2**20)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as discard:
        target = tensors.open("wb") if tensors is not None else discard
        with target:
            number = target.fileno() if tensors is not None else -1
            files = (out.fileno(),) if tensors is None else (out.fileno(), number)
            arguments = [str(n) for n in (number, out.fileno(), memory, seconds)]
            command = [sys.executable, "-I", "-c", _START.format(root=str(ROOT)), *arguments]
            code = process.run_confined(command, stdin=source, files=files, memory=memory, seconds=seconds)
        out.seek(0)
        data = out.read(_MAX_REPORT + 1)
    if code != 0:
        what = "took too long" if code is None else "was ended by its limits" if code < 0 else "failed"
        return _refusal(f"expected a readable checkpoint, got one whose reading {what}")
    try:
        return _checked(json.loads(data)) if len(data) <= _MAX_REPORT else _refusal("expected a short report, got more")
    except (ValueError, KeyError, TypeError, RecursionError):
        return _refusal("expected a readable checkpoint, got one whose reading failed")


def _refusal(reason: str) -> dict[str, Any]:
    return {
        "format": "unknown",
        "tensors": [],
        "content": [],
        "content_total": 0,
        "globals": [],
        "verdict": "refused",
        "reason": reason,
        "backdoorbench": None,
    }


def _checked(report: Any) -> dict[str, Any]:
    """The parts of a report that decisions rest on, with the types that they must have."""
    if type(report) is not dict or report.keys() != _refusal("").keys() or report["verdict"] not in VERDICTS:
        raise ValueError
    for row in report["tensors"]:
        if not all(isinstance(row[k], str) for k in ("name", "group", "path", "dtype")):
            raise ValueError
        if not all(isinstance(n, int) for n in row["shape"]):
            raise ValueError
    return dict(report)
