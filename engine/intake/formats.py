"""What kind of file lies there, from its first bytes; and why the kinds that are not read are not."""

from __future__ import annotations

import json
import math
import struct
from typing import Any, BinaryIO

from engine.intake.archive import Archive
from engine.intake.checkpoint import SIZES, Tensor
from engine.intake.limits import MAX_DIMS, MAX_HEADER_BYTES, MAX_KEY_CHARS, MAX_TENSORS, Refused

_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_CONVERT = (
    "convert it in a sandbox of your own, such as a container without network: "
    "torch.save(torch.load(OLD, weights_only=True, map_location='cpu'), NEW)"
)


def sniff(file: BinaryIO) -> str:
    """``zip``, ``safetensors``, ``torch-legacy``, ``pickle`` or another name; only the first two are read."""
    file.seek(0)
    head = file.read(512)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head.startswith(_LEGACY):
        return "torch-legacy"
    if len(head) >= 10 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40:
        return "safetensors"
    if head[257:262] == b"ustar":
        return "tar"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    kinds = (
        (b"\x89HDF", "hdf5"),
        (b"\x1f\x8b", "gzip"),
        (b"\x93NUMPY", "npy"),
        (b"7z\xbc\xaf", "7z"),
        (b"GGUF", "gguf"),
    )
    return next((name for magic, name in kinds if head.startswith(magic)), "unknown" if head else "empty")


def refuse(kind: str) -> Refused:
    """The line that refuses a kind of file which is not read."""
    if kind in ("torch-legacy", "tar", "pickle"):
        what = {
            "torch-legacy": "torch's legacy format",
            "tar": "torch's oldest format or a tar",
            "pickle": "a bare pickle",
        }
        return Refused(f"expected a torch zip checkpoint or safetensors, got {what[kind]}; {_CONVERT}")
    if kind == "torchscript":
        hint = "load it in a sandbox of your own and save its state_dict() with torch.save"
        return Refused(f"expected a checkpoint of weights, got a TorchScript program; {hint}")
    if kind == "exported":
        hint = "save the state_dict() of the model with torch.save"
        return Refused(f"expected a checkpoint of weights, got an exported program (.pt2); {hint}")
    return Refused(f"expected a torch zip checkpoint or safetensors, got {_article(kind)}")


def _article(kind: str) -> str:
    return {"unknown": "another format", "empty": "an empty file", "zip": "another kind of zip archive"}.get(kind, kind)


def in_zip(archive: Archive) -> tuple[str, str]:
    """(kind, prefix): what an archive is, and the folder in it that torch writes everything into."""
    names = archive.entries
    found = sorted((n for n in names if n == "data.pkl" or n.endswith("/data.pkl")), key=lambda n: n.count("/"))
    prefix = found[0].removesuffix("data.pkl") if found else ""
    inner = [name.removeprefix(prefix) for name in names]
    if any(n == "constants.pkl" or n.startswith("code/") for n in inner):
        return "torchscript", prefix
    if any(n.endswith(("archive_format", "/models/model.json")) or n.startswith("models/") for n in names):
        return "exported", prefix
    if not found:
        return "zip", ""
    if len(found) > 1 or prefix.count("/") > 1:
        raise Refused("expected one data.pkl at the top of the archive, got several or a deeper one")
    return "torch-zip", prefix


def safetensors(file: BinaryIO, size: int) -> tuple[list[Tensor], dict[str, str]]:
    """The tensors of a safetensors file, whose places must fill the file without a gap, and its metadata.

    Raises:
        Refused: for anything else.
    """
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8))
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise Refused(f"expected a safetensors header within the file and {MAX_HEADER_BYTES:,} bytes, got {length:,}")
    try:
        header = json.loads(file.read(length).decode(), object_pairs_hook=_once, parse_constant=_constant)
    except Refused:
        raise
    except (ValueError, RecursionError):
        raise Refused("expected a safetensors header in JSON, got something else") from None
    if type(header) is not dict or len(header) > MAX_TENSORS:
        raise Refused(f"expected a table of at most {MAX_TENSORS:,} tensors in the header, got something else")
    metadata = header.pop("__metadata__", {})
    if type(metadata) is not dict or any(type(v) is not str for v in metadata.values()):
        raise Refused("expected texts in the metadata, got something else")
    found = [_row(name, row, 8 + length) for name, row in header.items()]
    found.sort(key=lambda tensor: (tensor.start, tensor.nbytes))
    end = 8 + length
    for tensor in found:
        if tensor.start != end:
            raise Refused(f"expected tensors without gap or overlap, got {tensor.name[:80]!r} elsewhere")
        end += tensor.nbytes
    if end != size:
        raise Refused(f"expected a file of {end:,} bytes, as its header says, got {size:,}")
    return found, metadata


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Refused("expected each name once in the safetensors header, got one twice")
    return found


def _constant(text: str) -> Any:
    raise Refused(f"expected plain JSON in the safetensors header, got {text}")


def _row(name: str, row: Any, base: int) -> Tensor:
    if type(row) is not dict or row.keys() != {"dtype", "shape", "data_offsets"}:
        raise Refused(f"expected dtype, shape and data_offsets of {name[:80]!r}, got something else")
    dtype, shape, offsets = row["dtype"], row["shape"], row["data_offsets"]
    if type(dtype) is not str or dtype not in SIZES:
        raise Refused(f"expected tensors of plain numbers, got {str(dtype)[:40]!r} for {name[:80]!r}")
    numbers = [*shape, *offsets] if type(shape) is list and type(offsets) is list and len(offsets) == 2 else [-1]
    if len(numbers) > MAX_DIMS + 2 or any(type(n) is not int or not 0 <= n < 2**48 for n in numbers):
        raise Refused(f"expected sizes and offsets of {name[:80]!r} as whole numbers, got something else")
    if not name or len(name) > MAX_KEY_CHARS or not name.isprintable():
        raise Refused(f"expected tensors with printable names of at most {MAX_KEY_CHARS} characters, got another name")
    start, end = offsets
    size = math.prod(shape) * SIZES[dtype]
    if end - start != size:
        raise Refused(f"expected {size:,} bytes for {name[:80]!r}, as its shape says, got {end - start:,}")
    return Tensor("", name, dtype, tuple(shape), base + start, size, 0, contiguous(tuple(shape)))


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides, in elements, of a tensor that lies row by row."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))
