"""CIFAR-10, GTSRB, MNIST and Imagenette through torchvision's own loaders, as uint8 arrays.

Files lie unpacked under ``data/`` in the workspace, where they may also be put by hand. A download happens in a
folder of its own and is moved into place when it is complete, so that a broken one leaves nothing that looks like
a data set. GTSRB and Imagenette are thousands of small files: they are decoded once and kept as arrays.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from engine import torchvision_compat as _compat  # noqa: F401  (must come before any torchvision import)
from engine.data.base import DataSet, Images
from engine.data.splits import shuffled, train_and_pool
from engine.paths import workspace
from engine.runs import process

_TIMEOUT = 30.0
_INSTEAD = "give the path of an .npz or image folder instead, or use the embedded fashion-mnist"


@dataclass(frozen=True)
class Published:
    """One data set of torchvision: its class, the folder that its files unpack to, how its two splits are asked for.

    ``resize`` turns a stored picture into the size of ``shape`` where pictures differ; such sets are kept decoded.
    """

    class_name: str
    folder: str
    train: dict[str, Any]
    test: dict[str, Any]
    shape: tuple[int, int, int] = (1, 28, 28)
    classes: tuple[str, ...] = ()
    licence: str = ""
    resize: Callable[[Image.Image, tuple[int, int]], Image.Image] | None = None
    common: dict[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> Path:
        return folder() / self.folder


def _scale(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture.resize(size, Image.Resampling.BILINEAR)


def _centre_square(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return ImageOps.fit(picture, size, Image.Resampling.BILINEAR)


_PARTS: dict[str, Any] = {"train": {"train": True}, "test": {"train": False}}
_SIGNS = (
    "speed limit 20, speed limit 30, speed limit 50, speed limit 60, speed limit 70, speed limit 80, "
    "end of speed limit 80, speed limit 100, speed limit 120, no overtaking, no overtaking by trucks, "
    "right of way at crossing, priority road, give way, stop, no vehicles, no trucks, no entry, danger, "
    "bend to the left, bend to the right, double bend, uneven road, slippery road, road narrows, road works, "
    "traffic lights, pedestrians, children, bicycles, ice or snow, wild animals, end of all limits, turn right, "
    "turn left, straight ahead, straight or right, straight or left, keep right, keep left, roundabout, "
    "end of no overtaking, end of no overtaking by trucks"
)

PUBLISHED: dict[str, Published] = {
    "fashion-mnist:full": Published("FashionMNIST", "FashionMNIST", **_PARTS),
    "cifar10": Published(
        "CIFAR10",
        "cifar-10-batches-py",
        **_PARTS,
        shape=(3, 32, 32),
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        licence="none stated by its authors, who ask to be cited",
    ),
    "gtsrb": Published(
        "GTSRB",
        "gtsrb",
        {"split": "train"},
        {"split": "test"},
        shape=(3, 32, 32),
        classes=tuple(_SIGNS.split(", ")),
        licence="none stated; the benchmark asks to be cited",
        resize=_scale,
    ),
    "mnist": Published(
        "MNIST",
        "MNIST",
        **_PARTS,
        classes=tuple("0123456789"),
        licence="CC BY-SA 3.0 as commonly stated, Y. LeCun and C. Cortes",
    ),
    "imagenette": Published(
        "Imagenette",
        "imagenette2-160",
        {"split": "train"},
        {"split": "val"},
        shape=(3, 128, 128),
        classes=(
            "tench",
            "English springer",
            "cassette player",
            "chain saw",
            "church",
            "French horn",
            "garbage truck",
            "gas pump",
            "golf ball",
            "parachute",
        ),
        licence="photographs of ImageNet: research and teaching only",
        resize=_centre_square,
        common={"size": "160px"},
    ),
}


def folder() -> Path:
    """Where data sets lie, downloaded or put there by hand."""
    return workspace() / "data"


def offline(name: str) -> bool:
    """Whether the files of a data set are there, so that it can be read without a network."""
    return PUBLISHED[name].place.is_dir()


def _torchvision_class(class_name: str) -> Any:
    # Imported late: it takes a second that the embedded data need not wait for.
    import torchvision

    return getattr(torchvision.datasets, class_name)


def _reason(error: BaseException) -> str:
    """An error in a few words; of a failed connection only what it failed with."""
    text = " ".join(str(error).split())
    connection = re.search(r"<urlopen error (?:\[\w+ -?\d+\] )?(.+?)>", text)
    return connection[1] if connection else text[:160] or type(error).__name__


@contextlib.contextmanager
def _staging(place: Path) -> Iterator[Path]:
    """A folder beside ``place`` to download into; whatever is left in it afterwards goes, whatever happened.

    A process that is killed cannot clean up, so its folder carries its number and the next download removes it.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    for stale in place.parent.glob(".partial-*"):
        owner = stale.name.split("-")[1]
        if not owner.isdecimal() or process.began(int(owner)) is None:
            shutil.rmtree(stale, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=f".partial-{os.getpid()}-", dir=place.parent))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """No connection may hang for ever; torchvision sets no time limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _move(complete: Path, place: Path) -> None:
    try:
        os.replace(complete, place)
    except OSError:
        if not place.is_dir():  # otherwise another process was quicker
            raise


def download(class_name: str, name: str, alternative: str) -> Path:
    """Make sure that the files of a data set are there; returns the root folder that torchvision expects.

    Raises:
        ValueError: one line that says what is missing, where it was expected and what else can be done.
    """
    published = PUBLISHED[name]
    assert published.class_name == class_name
    if published.place.is_dir():
        return folder()
    try:
        # stdout belongs to the command's one JSON document.
        with _staging(published.place) as staging, _patience(_TIMEOUT), contextlib.redirect_stdout(sys.stderr):
            for split in (published.train, published.test):
                _torchvision_class(class_name)(str(staging), download=True, **split, **published.common)
            complete = staging / published.folder
            for archive in (*complete.rglob("*.zip"), *complete.rglob("*.gz")):
                archive.unlink()
            _move(complete, published.place)
    except Exception as error:
        raise ValueError(
            f"expected the files of {name} in {published.place}, got none, and the download failed"
            f" ({_reason(error)}): put them there by hand, unpacked, or {alternative}"
        ) from None
    return folder()


def _samples(name: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """All images (N, H, W[, C]) and labels (N,) of the part ``train`` or ``test``, in their published order."""
    published = PUBLISHED[name]
    root = download(published.class_name, name, _INSTEAD)
    split = published.train if part == "train" else published.test
    # Beside the files, so that removing their folder removes it too.
    cache = published.place / f".decoded-{published.shape[1]}-{part}.npz"
    if published.resize is not None and cache.is_file():
        with contextlib.suppress(Exception), np.load(cache, allow_pickle=False) as kept:
            return kept["x"], kept["y"]
    try:
        source = _torchvision_class(published.class_name)(str(root), **split, **published.common)
        if published.resize is None:
            return np.asarray(source.data), np.asarray(source.targets)
        _, height, width = published.shape
        x = np.empty((len(source), height, width, 3), np.uint8)
        y = np.empty(len(source), np.int64)
        for i, (picture, label) in enumerate(source):
            x[i], y[i] = np.asarray(published.resize(picture, (width, height))), label
    except Exception as error:
        raise ValueError(
            f"expected the complete files of {name} in {published.place}, got {_reason(error)}:"
            f" remove that folder to download them anew, or {_INSTEAD}"
        ) from None
    with contextlib.suppress(OSError):  # a full disk costs the next start some seconds, nothing else
        _keep(cache, x, y)
    return x, y


def _keep(cache: Path, x: np.ndarray, y: np.ndarray) -> None:
    handle, partial = tempfile.mkstemp(dir=cache.parent, prefix=".decoding-")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, x=x, y=y)
        os.replace(partial, cache)
    finally:
        Path(partial).unlink(missing_ok=True)


def _read(name: str, part: str) -> Images:
    published = PUBLISHED[name]
    x, y = _samples(name, "test" if part == "test" else "train")
    channels_last = x.reshape(len(x), *published.shape[1:], published.shape[0])
    pixels = torch.from_numpy(np.ascontiguousarray(channels_last.transpose(0, 3, 1, 2)))
    images = Images.of(pixels, torch.from_numpy(y.astype(np.int64)))
    if part == "test":
        return images if published.resize is None else shuffled(images)
    return train_and_pool(shuffled(images))[part]


def _open(name: str) -> DataSet:
    published = PUBLISHED[name]
    return DataSet(name, published.classes, published.shape, lambda part: _read(name, part), published.licence)


def cifar10() -> DataSet:
    """50,000 / 10,000 colour pictures of 32x32 pixels, 10 classes; the pool is 5,000 training images."""
    return _open("cifar10")


def gtsrb() -> DataSet:
    """26,640 / 12,630 traffic signs with some surroundings, scaled to 32x32, 43 classes.

    Frames of one track are near copies, and torchvision does not tell tracks apart: pool and training images share
    tracks, so accuracy on the pool is higher than on the test images.
    """
    return _open("gtsrb")


def mnist() -> DataSet:
    """60,000 / 10,000 grey digits of 28x28 pixels; the pool is 6,000 training images."""
    return _open("mnist")


def imagenette() -> DataSet:
    """9,469 / 3,925 photographs of 10 classes; the centre square, scaled to 128x128."""
    return _open("imagenette")
