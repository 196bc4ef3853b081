"""Data sets by name, or by the path of one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.data import fashion_mnist
from engine.data.base import DataSet, Images, draw
from engine.registry import Registry


@dataclass(frozen=True)
class Source:
    """Where a data set comes from. ``offline()`` says whether it can be read now without a network."""

    title: str
    about: str
    licence: str
    origin: str
    open: Callable[[], DataSet]
    offline: Callable[[], bool]


DATASETS: Registry[Source] = Registry("data set")
DATASETS.add(
    "fashion-mnist",
    Source(
        "Fashion-MNIST, embedded",
        "20,000 grey 28x28 pictures of clothes in 10 classes; comes with Unmask.",
        "MIT, Zalando SE",
        "https://github.com/zalandoresearch/fashion-mnist",
        fashion_mnist.embedded,
        lambda: True,
    ),
)
DATASETS.add(
    "fashion-mnist:full",
    Source(
        "Fashion-MNIST, complete",
        "All 70,000 pictures, from Debian's package dataset-fashion-mnist or a download.",
        "MIT, Zalando SE",
        "https://github.com/zalandoresearch/fashion-mnist",
        fashion_mnist.full,
        lambda: (fashion_mnist.DEBIAN / "train-images-idx3-ubyte.gz").exists(),
    ),
)


def load(name_or_path: str) -> DataSet:
    """A registered data set. Its images are read on first use."""
    return DATASETS[name_or_path].open()


__all__ = ["DATASETS", "DataSet", "Images", "Source", "draw", "load"]
