"""One's own data in an ``.npz``: each array is judged by its header before any of it is read.

The format is described in :mod:`engine.data.own`. Archives may promise more than they hold, hold more than memory
does, or carry pickles; numpy would allocate first and notice later.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from engine.data.base import Images
from engine.data.own_limits import MAX_BYTES, MAX_CLASSES, MAX_IMAGES, Raw, pixels


@dataclass(frozen=True)
class _Header:
    """What the start of an array in the archive says about it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def _header(stream: IO[bytes], key: str, size: int) -> _Header:
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"expected {key} in numpy format 1.0 or 2.0, got {version[0]}.{version[1]}")
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError(f"expected {key} as plain numbers or text, got pickled objects, which are not opened")
    promised = int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize
    if promised > size:
        raise ValueError(f"expected {promised:,} bytes of {key}, as its header says, got {size:,}")
    return _Header(shape, dtype)


class _Archive:
    """The arrays of an .npz, each checked by its header before it is read."""

    def __init__(self, file: zipfile.ZipFile) -> None:
        self.file = file
        self.members = {info.filename.removesuffix(".npy"): info for info in file.infolist()}

    def __contains__(self, key: str) -> bool:
        return key in self.members

    def header(self, key: str) -> _Header:
        info = self.members[key]
        with self.file.open(info) as stream:
            return _header(stream, key, info.file_size)

    def read(self, key: str) -> np.ndarray:
        with self.file.open(self.members[key]) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)


def read(path: Path) -> Raw:
    """The images and labels of an ``.npz``, in its order.

    Raises:
        ValueError: in one line, for anything but the arrays that :mod:`engine.data.own` describes.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"expected an .npz of at most {MAX_BYTES:,} bytes, got {size:,}")
    try:
        with zipfile.ZipFile(path) as file:
            return _read(path, _Archive(file))
    except ValueError as error:
        # numpy's own complaints about a broken header come as ValueError too, some of several lines.
        text = " ".join(str(error).split())
        raise ValueError(text if text.startswith("expected") else _unreadable(path, text)) from None
    except Exception as error:
        raise ValueError(_unreadable(path, " ".join(str(error).split()) or type(error).__name__)) from None


def _unreadable(path: Path, reason: str) -> str:
    return f"expected {path.name!r} to be a readable .npz archive of arrays, got an error: {reason[:160]}"


def _read(path: Path, archive: _Archive) -> Raw:
    needed = ["x_train", "y_train"]
    if "x_test" in archive or "y_test" in archive:
        needed += ["x_test", "y_test"]
    missing = [key for key in needed if key not in archive]
    if missing:
        found = ", ".join(repr(key)[:40] for key in list(archive.members)[:8]) or "nothing"
        raise ValueError(f"expected the arrays {', '.join(needed)} in {path.name!r}, got {found}")
    headers = {key: archive.header(key) for key in needed}
    _check_headers(headers)
    names = _class_names(archive)
    labels = {key: archive.read(key) for key in needed if key.startswith("y_")}
    classes = len(names) if names else _count_classes(labels)
    for key, y in labels.items():
        if len(y) and not 0 <= int(y.min()) <= int(y.max()) < classes:
            got = int(y.min()) if int(y.min()) < 0 else int(y.max())
            raise ValueError(f"expected labels between 0 and {classes - 1} in {key}, got {got}")
    parts = {
        part: Images.of(pixels(archive.read(f"x_{part}")), torch.from_numpy(labels[f"y_{part}"].astype(np.int64)))
        for part in ("train", "test")
        if f"x_{part}" in headers
    }
    return Raw(names or tuple(str(c) for c in range(classes)), parts["train"], parts.get("test"))


def _check_headers(headers: dict[str, _Header]) -> None:
    form = "uint8 (N, H, W) or (N, H, W, C) with C 1 or 3"
    total = 0
    for key, header in headers.items():
        shape, dtype = header.shape, header.dtype
        if key.startswith("x_"):
            if dtype != np.uint8 or len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
                raise ValueError(f"expected {key} as {form}, got {dtype} {shape}")
            if not 1 <= shape[0] <= MAX_IMAGES:
                raise ValueError(f"expected between 1 and {MAX_IMAGES:,} images in {key}, got {shape[0]:,}")
            total += int(np.prod([int(n) for n in shape], dtype=object))
        elif dtype.kind not in "iu" or shape != headers[f"x{key[1:]}"].shape[:1]:
            n = headers[f"x{key[1:]}"].shape[0]
            raise ValueError(f"expected {key} as integers ({n},), one for each image, got {dtype} {shape}")
    if total > MAX_BYTES:
        raise ValueError(f"expected at most {MAX_BYTES:,} bytes of images, got {total:,}")
    if "x_test" in headers and headers["x_test"].shape[1:] != headers["x_train"].shape[1:]:
        expected, got = headers["x_train"].shape[1:], headers["x_test"].shape[1:]
        raise ValueError(f"expected test images of the training images' shape {expected}, got {got}")


def _class_names(archive: _Archive) -> tuple[str, ...]:
    if "class_names" not in archive:
        return ()
    header = archive.header("class_names")
    if header.dtype.kind != "U" or len(header.shape) != 1 or not 2 <= header.shape[0] <= MAX_CLASSES:
        form = f"2 to {MAX_CLASSES:,} texts"
        raise ValueError(f"expected class_names as {form}, got {header.dtype} {header.shape}")
    if header.dtype.itemsize > 4 * 1_000:
        raise ValueError(f"expected class names of at most 80 characters, got {header.dtype}")
    return tuple(str(name) for name in archive.read("class_names"))


def _count_classes(labels: dict[str, np.ndarray]) -> int:
    classes = 1 + max(int(y.max()) for y in labels.values())
    if classes > MAX_CLASSES:
        raise ValueError(f"expected labels between 0 and {MAX_CLASSES - 1:,}, got {classes - 1:,}")
    return classes
