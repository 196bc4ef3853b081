"""Fashion-MNIST (Zalando Research, MIT licence), https://github.com/zalandoresearch/fashion-mnist

``fashion-mnist`` is the embedded part: all 10,000 test images and the last 10,000 training images as lossless
PNG sheets. ``fashion-mnist:full`` is the complete set, from Debian's package dataset-fashion-mnist or through
torchvision; its pool is the embedded training images, so suspects trained on the full set can be examined
without it.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from engine.data.base import DataSet, Images
from engine.paths import ASSETS, workspace

CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
SHEETS = ASSETS / "data" / "fashion-mnist"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
EMBEDDED_FIRST = 50_000
EMBEDDED_POOL = 2_000
_SIDE, _COLUMNS = 28, 100


def read_sheet(name: str, first_id: int) -> Images:
    """A sheet of 28x28 tiles, 100 to a row, with its labels in a grey PNG of one pixel an image."""
    with Image.open(SHEETS / f"{name}.png", formats=("PNG",)) as sheet:
        pixels = np.asarray(sheet)
    with Image.open(SHEETS / f"{name}_labels.png", formats=("PNG",)) as sheet:
        labels = np.asarray(sheet).reshape(-1)
    rows = pixels.shape[0] // _SIDE
    tiles = pixels.reshape(rows, _SIDE, _COLUMNS, _SIDE).transpose(0, 2, 1, 3).reshape(-1, 1, _SIDE, _SIDE)
    return Images.of(torch.from_numpy(tiles.copy()), torch.from_numpy(labels.astype(np.int64)), first_id)


def write_sheet(folder: Path, name: str, images: Images) -> None:
    """The inverse of :func:`read_sheet`; the number of images must be a multiple of 100."""
    rows = len(images) // _COLUMNS
    tiles = images.x.numpy().reshape(rows, _COLUMNS, _SIDE, _SIDE).transpose(0, 2, 1, 3)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(tiles.reshape(rows * _SIDE, _COLUMNS * _SIDE)).save(folder / f"{name}.png", optimize=True)
    labels = images.y.numpy().astype(np.uint8).reshape(rows, _COLUMNS)
    Image.fromarray(labels).save(folder / f"{name}_labels.png", optimize=True)


def read_idx(folder: Path, part: str) -> Images:
    """The published idx files, gzipped or plain; ``part`` is ``train`` or ``t10k``."""
    arrays = []
    for kind, skip in (("images-idx3", 16), ("labels-idx1", 8)):
        plain, zipped = folder / f"{part}-{kind}-ubyte", folder / f"{part}-{kind}-ubyte.gz"
        raw = gzip.decompress(zipped.read_bytes()) if zipped.exists() else plain.read_bytes()
        arrays.append(np.frombuffer(raw, np.uint8, offset=skip))
    x = torch.from_numpy(arrays[0].reshape(-1, 1, _SIDE, _SIDE).copy())
    return Images.of(x, torch.from_numpy(arrays[1].astype(np.int64)))


def _complete_train() -> Images:
    if (DEBIAN / "train-images-idx3-ubyte.gz").exists():
        return read_idx(DEBIAN, "train")
    from engine.data.from_torchvision import download

    alternative = "apt-get install dataset-fashion-mnist, or use the embedded fashion-mnist"
    download("FashionMNIST", "fashion-mnist:full", alternative)
    raw = workspace() / "data" / "FashionMNIST" / "raw"
    try:
        return read_idx(raw, "train")
    except OSError as error:
        raise ValueError(f"expected the complete Fashion-MNIST in {raw}, got {error}; {alternative}") from None


def _read(part: str, full: bool) -> Images:
    if part == "test":
        return read_sheet("test", 0)
    if full and part == "train":
        return _complete_train()[:EMBEDDED_FIRST]
    embedded = read_sheet("train", EMBEDDED_FIRST)
    if full:
        return embedded
    cut = len(embedded) - EMBEDDED_POOL
    return embedded[:cut] if part == "train" else embedded[cut:]


def embedded() -> DataSet:
    return DataSet("fashion-mnist", CLASSES, (1, _SIDE, _SIDE), lambda part: _read(part, full=False), "MIT")


def full() -> DataSet:
    return DataSet("fashion-mnist:full", CLASSES, (1, _SIDE, _SIDE), lambda part: _read(part, full=True), "MIT")
