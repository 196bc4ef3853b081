"""One's own data in a folder of images: every header is looked at before any picture is decoded.

The layout is described in :mod:`engine.data.own`.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from engine.data.base import Images
from engine.data.own_limits import MAX_BYTES, MAX_IMAGES, SIDES, Raw, pixels

MAX_FILE_BYTES = 64 * 2**20
MAX_PIXELS = 64_000_000
_DEFAULT_SIDES = (32, 224)
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_BESIDE = (".txt", ".md", ".csv", ".json", ".db", ".ini")
_GREY = ("1", "L")
_COLOUR = ("LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


@dataclass(frozen=True)
class _Picture:
    """One image file: its path and class, and what its header says."""

    path: Path
    label: int
    size: tuple[int, int]
    grey: bool


def read(root: Path, side: int | None) -> Raw:
    """The images of a folder, by class and file name; ``side`` as in :func:`engine.data.own.load`.

    Raises:
        ValueError: in one line, for anything but the folder that :mod:`engine.data.own` describes.
    """
    home = root.resolve()
    names = {entry.name for entry in _folders(root, home)}
    test_name = next((name for name in ("test", "val") if "train" in names and name in names), None)
    divided = test_name is not None or names == {"train"}
    if divided and names - {"train", test_name}:
        extra = sorted(names - {"train", test_name})[0]
        raise ValueError(f"expected nothing beside train and {test_name} in {root.name!r}, got the folder {extra!r}")
    train_root = root / "train" if divided else root
    classes = tuple(sorted(entry.name for entry in _folders(train_root, home)))
    if len(classes) < 2:
        raise ValueError(f"expected a folder of at least 2 class folders, got {len(classes)} in {train_root.name!r}")
    pictures = {"train": _scan(train_root, home, classes)}
    if test_name is not None:
        unknown = sorted({entry.name for entry in _folders(root / test_name, home)} - set(classes))
        if unknown:
            raise ValueError(f"expected the classes of train in {test_name}, got the unknown class {unknown[0]!r}")
        pictures["test"] = _scan(root / test_name, home, classes)
    for part, found in pictures.items():
        if not found:
            where = root.name if not divided else f"{root.name}/{part if part == 'train' else test_name}"
            raise ValueError(f"expected images in the class folders of {where!r}, got none")
    everything = [picture for found in pictures.values() for picture in found]
    size, crop = _target_size(everything, side)
    grey = all(picture.grey for picture in everything)
    total = len(everything) * size[0] * size[1] * (1 if grey else 3)
    if total > MAX_BYTES:
        raise ValueError(f"expected at most {MAX_BYTES:,} bytes of images, got {total:,}: choose a smaller side")
    parts = {part: _decode_all(found, size, crop, grey, home) for part, found in pictures.items()}
    return Raw(classes, parts["train"], parts.get("test"))


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """Entries of a folder by name, without hidden ones and those that archives and systems leave behind."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith((".", "__"))), key=lambda e: e.name)
    except OSError as error:
        raise ValueError(f"expected a readable folder, got {folder.name!r}: {error.strerror}") from None


def _inside(path: Path, home: Path) -> None:
    try:
        target = path.resolve()
    except (OSError, RuntimeError):
        raise ValueError(f"expected no endless link, got {path.name!r}") from None
    if not target.is_relative_to(home):
        raise ValueError(f"expected nothing outside the folder, got the link {path.name!r} that leads out of it")


def _folders(folder: Path, home: Path) -> list[os.DirEntry[str]]:
    _inside(folder, home)
    found = [entry for entry in _visible(folder) if entry.is_dir()]
    for entry in found:
        _inside(Path(entry.path), home)
    return found


def _scan(root: Path, home: Path, classes: tuple[str, ...]) -> list[_Picture]:
    """The pictures of every class folder, by class and name, from their headers alone."""
    found: list[_Picture] = []
    for label, name in enumerate(classes):
        if not (root / name).is_dir():
            continue
        for entry in _visible(root / name):
            path = Path(entry.path)
            if path.suffix.lower() in _BESIDE or entry.name == "Thumbs.db":
                continue
            _inside(path, home)
            if not entry.is_file() or path.suffix.lower() not in _SUFFIXES:
                raise ValueError(f"expected PNG, JPEG, WEBP or BMP files in {name!r}, got {entry.name!r}")
            if len(found) >= MAX_IMAGES:
                raise ValueError(f"expected at most {MAX_IMAGES:,} images, got more")
            found.append(_look(path, label, home))
    return found


def _look(path: Path, label: int, home: Path) -> _Picture:
    shown = str(path.relative_to(home)) if path.is_relative_to(home) else path.name
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ValueError(f"expected image files of at most {MAX_FILE_BYTES:,} bytes, got {size:,} in {shown!r}")
    try:
        with _opened(path) as picture:
            width, height = picture.size
            mode = picture.mode
    except Exception as error:
        raise ValueError(f"expected {shown!r} to be a PNG, JPEG, WEBP or BMP image, got {_broken(error)}") from None
    if width * height > MAX_PIXELS:
        raise ValueError(f"expected images of at most {MAX_PIXELS:,} pixels, got {width}x{height} in {shown!r}")
    if min(width, height) < SIDES[0]:
        raise ValueError(f"expected images of at least {SIDES[0]}x{SIDES[0]} pixels, got {width}x{height} in {shown!r}")
    if mode not in _GREY + _COLOUR:
        raise ValueError(f"expected images of 8 bits a channel, got mode {mode} in {shown!r}")
    return _Picture(path, label, (width, height), mode in _GREY)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A picture whose header is read; a suspicious size is an error, other remarks on the file are not repeated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=_FORMATS) as picture:
            yield picture


def _broken(error: Exception) -> str:
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return "one of too many pixels"
    return "a broken file or another format"


def _target_size(pictures: list[_Picture], side: int | None) -> tuple[tuple[int, int], bool]:
    """((width, height), whether pictures are cut to their centre square and scaled)."""
    sizes = {picture.size for picture in pictures}
    if side is None and len(sizes) == 1 and max(next(iter(sizes))) <= SIDES[1]:
        return sizes.pop(), False
    if side is None:
        median = statistics.median_low(min(picture.size) for picture in pictures)
        side = min(max(median, _DEFAULT_SIDES[0]), _DEFAULT_SIDES[1])
    return (side, side), True


def _decode_all(pictures: list[_Picture], size: tuple[int, int], crop: bool, grey: bool, home: Path) -> Images:
    channels = 1 if grey else 3
    x = np.empty((len(pictures), size[1], size[0], channels), np.uint8)
    for i, picture in enumerate(pictures):
        try:
            with _opened(picture.path) as file:
                if file.size != picture.size:
                    raise OSError("changed while it was read")
                decoded = file.convert("L" if grey else "RGB")
            if crop:
                decoded = ImageOps.fit(decoded, size, Image.Resampling.BILINEAR)
            x[i] = np.asarray(decoded).reshape(size[1], size[0], channels)
        except Exception:
            shown = str(picture.path.relative_to(home)) if picture.path.is_relative_to(home) else picture.path.name
            raise ValueError(f"expected a complete image, got {shown!r}, which cannot be decoded") from None
    return Images.of(pixels(x), torch.tensor([picture.label for picture in pictures]))
