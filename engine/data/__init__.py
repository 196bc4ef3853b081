"""Data sets by name, or by the path of one's own."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass

from engine.data import fashion_mnist, from_torchvision, own
from engine.data.base import DataSet, Images, draw
from engine.registry import Registry


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    ``open()`` gives the set without reading its images; ``offline()`` says whether they can be read now without a
    network.
    """

    title: str
    about: str
    licence: str
    origin: str
    open: Callable[[], DataSet]
    offline: Callable[[], bool]


def _full_offline() -> bool:
    return (fashion_mnist.DEBIAN / "train-images-idx3-ubyte.gz").exists() or from_torchvision.offline(
        "fashion-mnist:full"
    )


DATASETS: Registry[Source] = Registry("data set")
DATASETS.add(
    "fashion-mnist",
    Source(
        title="Fashion-MNIST, embedded",
        about="Clothes, 28x28 grey, 10 classes: 10,000 training and all 10,000 test images; comes with Unmask.",
        licence="MIT, Zalando SE",
        origin="https://github.com/zalandoresearch/fashion-mnist",
        open=fashion_mnist.embedded,
        offline=lambda: True,
    ),
)
DATASETS.add(
    "fashion-mnist:full",
    Source(
        title="Fashion-MNIST, complete",
        about="Clothes, 28x28 grey, 10 classes: 60,000 + 10,000, from Debian's package or a download.",
        licence="MIT, Zalando SE",
        origin="https://github.com/zalandoresearch/fashion-mnist",
        open=fashion_mnist.full,
        offline=_full_offline,
    ),
)
for _name, _title, _about, _origin, _open in (
    (
        "cifar10",
        "CIFAR-10",
        "Animals and vehicles, 32x32 colour, 10 classes: 50,000 + 10,000; a download of 170 MB.",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        from_torchvision.cifar10,
    ),
    (
        "gtsrb",
        "GTSRB",
        "German traffic signs scaled to 32x32 colour, 43 classes: 26,640 + 12,630; a download of 280 MB.",
        "https://benchmark.ini.rub.de",
        from_torchvision.gtsrb,
    ),
    (
        "mnist",
        "MNIST",
        "Handwritten digits, 28x28 grey, 10 classes: 60,000 + 10,000; a download of 12 MB.",
        "http://yann.lecun.com/exdb/mnist",
        from_torchvision.mnist,
    ),
    (
        "imagenette",
        "Imagenette",
        "Photographs scaled to 128x128 colour, 10 classes: 9,469 + 3,925; a download of 100 MB.",
        "https://github.com/fastai/imagenette",
        from_torchvision.imagenette,
    ),
):
    DATASETS.add(
        _name,
        Source(
            title=_title,
            about=_about,
            licence=from_torchvision.PUBLISHED[_name].licence,
            origin=_origin,
            open=_open,
            offline=lambda name=_name: from_torchvision.offline(name),  # type: ignore[misc]
        ),
    )


def load(name_or_path: str) -> DataSet:
    """A registered data set, whose images are read on first use, or one's own, which is read and checked at once.

    Args:
        name_or_path: one of :data:`DATASETS`, else the path of an image folder or an ``.npz`` file
            (:mod:`engine.data.own`).

    Raises:
        ValueError: for what is neither, with the known names, and for data that cannot be used, in one line.
    """
    if name_or_path in DATASETS:
        return DATASETS[name_or_path].open()
    if name_or_path.strip() and os.path.exists(name_or_path):
        return own.load(name_or_path)
    near = difflib.get_close_matches(name_or_path, DATASETS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    known = ", ".join(DATASETS)
    raise ValueError(
        f"expected data to be one of {known}, or the path of an .npz or image folder, got {name_or_path[:200]!r}{hint}"
    )


__all__ = ["DATASETS", "DataSet", "Images", "Source", "draw", "load"]
