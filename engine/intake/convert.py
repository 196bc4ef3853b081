"""A checkpoint as safetensors: each tensor copied out of its storage, row by row.

Runs in the reading process. Tensors that lie row by row are copied as they are; others (``channels_last``, transposed,
slices) are gathered along their longest dimension, so that the inner loop is one strided copy of the interpreter.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from typing import BinaryIO, Literal

from engine.intake.checkpoint import SIZES, Tensor
from engine.intake.formats import contiguous
from engine.intake.limits import MAX_HEADER_BYTES, Refused

_CHUNK = 1 << 20
_WIDTH: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}


def write(tensors: list[Tensor], source: BinaryIO, target: BinaryIO, most: int) -> None:
    """Write ``tensors`` (by their paths) as one safetensors file of at most ``most`` bytes of data.

    Raises:
        Refused: for two tensors of one path, more bytes than ``most``, or truth values other than 0 and 1.
    """
    header: dict[str, object] = {}
    at = 0
    for tensor in tensors:
        if tensor.path in header:
            raise Refused(f"expected each tensor once, got {tensor.path[:80]!r} twice")
        header[tensor.path] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
        if at > most:
            raise Refused(f"expected tensors of at most {most:,} bytes, got more than the file could hold")
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    if len(head) > MAX_HEADER_BYTES:
        raise Refused(f"expected names of at most {MAX_HEADER_BYTES:,} bytes in all, got {len(head):,}")
    target.write(len(head).to_bytes(8, "little") + head)
    for tensor in tensors:
        for piece in data(tensor, source):
            if tensor.dtype == "BOOL" and piece.translate(None, b"\0\1"):
                raise Refused(f"expected truth values 0 and 1 in {tensor.path[:80]!r}, got others")
            target.write(piece)


def data(tensor: Tensor, source: BinaryIO) -> Iterator[bytes]:
    """The bytes of a tensor, row by row."""
    width = SIZES[tensor.dtype]
    if not tensor.nbytes:
        return
    if _plain(tensor):
        source.seek(tensor.start + tensor.offset * width)
        left = tensor.nbytes
        while left:
            piece = source.read(min(left, _CHUNK))
            if not piece:
                raise Refused("expected a complete file, got a truncated one")
            left -= len(piece)
            yield piece
        return
    source.seek(tensor.start)
    raw = source.read(tensor.storage_bytes)
    yield bytes(_gathered(tensor, memoryview(raw[: len(raw) - len(raw) % width]).cast(_WIDTH[width])))


def _plain(tensor: Tensor) -> bool:
    wanted = contiguous(tensor.shape)
    return all(n == 1 or s == w for n, s, w in zip(tensor.shape, tensor.stride, wanted, strict=True))


def _gathered(tensor: Tensor, source: memoryview) -> bytearray:
    numel, width = math.prod(tensor.shape), SIZES[tensor.dtype]
    result = bytearray(numel * width)
    target = memoryview(result).cast(_WIDTH[width])
    dims = list(zip(tensor.shape, tensor.stride, contiguous(tensor.shape), strict=True))
    dims = [d for d in dims if d[0] > 1]
    inner = max(range(len(dims)), key=lambda k: dims[k][0])
    n, step, out = dims.pop(inner)
    if numel // n > 4_000_000:
        raise Refused(f"expected {tensor.path[:80]!r} in rows that can be copied, got one scattered over its storage")
    for place in itertools.product(*(range(d[0]) for d in dims)):
        a = tensor.offset + sum(i * d[1] for i, d in zip(place, dims, strict=True))
        b = sum(i * d[2] for i, d in zip(place, dims, strict=True))
        target[b : b + (n - 1) * out + 1 : out] = source[a : a + (n - 1) * step + 1 : step]
    return result
