"""One process of :mod:`tests.intake_pool`: confined and locked like the reading process, but for many small files."""

from __future__ import annotations

import gc
import io
import json
import os
import struct

from engine.intake import child
from engine.runs import process


def main(memory: int) -> None:
    gc.disable()
    process.confine(memory=memory, seconds=600, file_bytes=0)
    child.lock()
    while head := _exactly(8):
        (size,) = struct.unpack("<Q", head)
        target = io.BytesIO()
        report = child.describe(io.BytesIO(_exactly(size)), size, target)
        data = json.dumps(report, allow_nan=False).encode()
        tensors = target.getvalue() if report["verdict"] in ("plain", "foreign") else b""
        _write(struct.pack("<QQ", len(data), len(tensors)) + data + tensors)
    os._exit(0)


def _exactly(n: int) -> bytes:
    found = b""
    while len(found) < n:
        piece = os.read(0, n - len(found))
        if not piece:
            return b""
        found += piece
    return found


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]
