"""The reading process, which :mod:`engine.intake.reader` starts.

It gets the file as standard input, an open file for the tensors and one for the report, and nothing else. Once
everything that it needs is imported, it limits its own memory and time and installs an audit hook that ends it at the
first import, call of the operating system or opened file: should the reading ever be led astray, there is nowhere to
go.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any, BinaryIO

from engine.intake import backdoorbench, checkpoint, convert, formats, pickles
from engine.intake.archive import STORED, Archive
from engine.intake.limits import MAX_PICKLE_BYTES, Refused
from engine.runs import process

LOCKED = 86
"""Exit code of a reader that the audit hook ended."""


def main(arguments: list[str]) -> None:
    """``TENSORS REPORT MEMORY SECONDS``: two file descriptors (the first -1: tensors are not wanted), two limits."""
    tensors, report, memory, seconds = (int(a) for a in arguments)
    source = os.fdopen(0, "rb", closefd=False)
    target = os.fdopen(tensors, "wb", closefd=False) if tensors >= 0 else None
    size = source.seek(0, 2)
    gc.disable()
    process.confine(memory=memory, seconds=seconds, file_bytes=2 * size + 128 * 2**20)
    lock()
    document = describe(source, size, target)
    if target is not None:
        target.flush()
    data = json.dumps(document, ensure_ascii=True, allow_nan=False).encode()
    while data:
        data = data[os.write(report, data) :]
    # Nothing is taken apart: what a file nested deeply would be taken apart recursively.
    os._exit(0)


def lock() -> None:
    """From now on the process ends at the first import, call of the operating system or opened file."""
    sys.addaudithook(_lock)


def _lock(event: str, _args: tuple[Any, ...]) -> None:
    if event not in ("builtins.id", "array.__new__"):
        os._exit(LOCKED)


def describe(source: BinaryIO, size: int, target: BinaryIO | None) -> dict[str, Any]:
    """The report on one file; its tensors go to ``target`` unless the file is refused."""
    document: dict[str, Any] = {
        "format": formats.sniff(source),
        "tensors": [],
        "content": [],
        "content_total": 0,
        "globals": [],
        "verdict": "plain",
        "reason": None,
        "backdoorbench": None,
    }
    names: set[str] = set()
    try:
        _read(source, size, target, document, names)
    except (Refused, MemoryError) as refusal:
        reason = str(refusal) or "expected a file that can be read in limited memory, got a larger one"
        document |= {"verdict": "refused", "reason": reason, "tensors": [], "backdoorbench": None}
    document["globals"] = [{"name": name, "kind": checkpoint.kind_of(name)} for name in sorted(names)]
    running = [row["name"] for row in document["globals"] if row["kind"] == "running"]
    if running:
        reason = f"expected data, got a pickle that asks to run {running[0]}; nothing was run"
        document |= {"verdict": "hostile", "reason": reason}
    elif document["verdict"] == "plain" and any(row["kind"] == "foreign" for row in document["globals"]):
        document["verdict"] = "foreign"
    return document


def _read(source: BinaryIO, size: int, target: BinaryIO | None, document: dict[str, Any], names: set[str]) -> None:
    if document["format"] == "safetensors":
        tensors, metadata = formats.safetensors(source, size)
        document["content"] = [
            {"path": pickles.printable(k[:200]), "type": "str", "value": pickles.printable(v[:200])}
            for k, v in metadata.items()
        ][:200]
        document["content_total"] = len(metadata)
    elif document["format"] == "zip":
        tensors = _torch_zip(source, document, names)
    else:
        raise formats.refuse(document["format"])
    if target is not None:
        convert.write(tensors, source, target, 2 * size + 2**20)
    document["tensors"] = [
        {"name": t.name, "group": t.group, "path": t.path, "shape": list(t.shape), "dtype": t.dtype} for t in tensors
    ]


def _torch_zip(source: BinaryIO, document: dict[str, Any], names: set[str]) -> list[checkpoint.Tensor]:
    # Programs are partly compressed; they should be told what they are.
    archive = Archive(source, deflated=True)
    document["format"], prefix = formats.in_zip(archive)
    if document["format"] != "torch-zip":
        raise formats.refuse(document["format"])
    packed = next((entry.name for entry in archive.entries.values() if entry.method != STORED), None)
    if packed is not None:
        raise Refused(f"expected stored entries, as torch writes them, got the compressed {packed[:80]!r}")
    order = f"{prefix}byteorder"
    if order in archive.entries and archive.read(order, 16) != b"little":
        raise Refused("expected a checkpoint in little-endian byte order, got another")
    data = archive.read(f"{prefix}data.pkl", MAX_PICKLE_BYTES)
    try:
        root = pickles.read(data, names)
    except Refused:
        pickles.names_behind(data, names)
        raise
    content = checkpoint.Content(root, archive, prefix)
    document["content"], document["content_total"] = content.rows, content.total
    for key in content.storages:
        for _ in archive.chunks(archive.entries[f"{prefix}data/{key}"]):
            pass
    document["backdoorbench"] = backdoorbench.fields(root)
    return content.tensors
