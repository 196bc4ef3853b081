"""How images were normalised before a foreign network saw them: stated, or found out by trying what is usual.

The normalisation becomes the first layer of the imported model, so that everything outside speaks pixels in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.compute import Compute
from engine.data.base import DataSet, Images
from engine.models.base import Classifier, Normalize

AUTO = "auto"
_TRIED_ON = 2_000


@dataclass(frozen=True)
class Preprocess:
    """(x - mean) / std per channel, of pixels in [0, 1]."""

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def row(self) -> dict[str, Any]:
        return {"name": self.name, "mean": list(self.mean), "std": list(self.std)}

    def layer(self, channels: int) -> Normalize:
        return Normalize(_spread(self.mean, channels), _spread(self.std, channels))


KNOWN = (
    Preprocess("none", (0.0,), (1.0,)),
    Preprocess("half", (0.5,), (0.5,)),
    Preprocess("cifar10", (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
    Preprocess("cifar10-narrow", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    Preprocess("cifar100", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    Preprocess("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    Preprocess("tiny-imagenet", (0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
    Preprocess("mnist", (0.1307,), (0.3081,)),
    Preprocess("fashion-mnist", (0.2860,), (0.3530,)),
    Preprocess("byte", (0.0,), (1 / 255,)),
)


def _spread(values: tuple[float, ...], channels: int) -> Tensor:
    return torch.tensor(values).expand(channels).clone() if len(values) == 1 else torch.tensor(values)


def usable(preprocess: Preprocess, channels: int) -> bool:
    return len(preprocess.mean) in (1, channels)


def stated(text: str, channels: int) -> Preprocess:
    """One of :data:`KNOWN` by name, or ``MEAN,…/STD,…`` such as ``0.5,0.5,0.5/0.25,0.25,0.25``.

    Raises:
        ValueError: for anything else, and for numbers that do not fit the channels.
    """
    found = next((p for p in KNOWN if p.name == text), None)
    if found is None:
        mean, slash, std = text.partition("/")
        try:
            numbers = tuple(float(v) for v in mean.split(",")), tuple(float(v) for v in std.split(","))
        except ValueError:
            slash, numbers = "", ((), ())
        if not slash:
            names = ", ".join([AUTO, *(p.name for p in KNOWN)])
            raise ValueError(f"expected preprocess to be one of {names} or MEAN,…/STD,…, got {text[:80]!r}")
        found = Preprocess("stated", *numbers)
    if not usable(found, channels) or len(found.std) != len(found.mean):
        raise ValueError(
            f"expected {channels} means and as many deviations, got {len(found.mean)} and {len(found.std)}"
        )
    if not all(0 < s < 1e6 for s in found.std) or not all(abs(m) < 1e6 for m in found.mean):
        raise ValueError(f"expected finite means and positive deviations, got {text[:80]!r}")
    return found


def best(model: Classifier, data: DataSet, channels: int, compute: Compute) -> tuple[Preprocess, list[dict[str, Any]]]:
    """Try every known normalisation on clean pool images; the most accurate, and the ACC of each, best first.

    The test images are not used: they measure the model, and choose nothing.
    """
    images: Images = data.pool[:_TRIED_ON]
    rows: list[tuple[float, Preprocess]] = []
    for preprocess in KNOWN:
        if usable(preprocess, channels):
            model.normalize = preprocess.layer(channels)
            compute.model(model)
            right = compute.logits(model, images.x).argmax(1) == images.y
            rows.append((float(right.float().mean()), preprocess))
    rows.sort(key=lambda row: -row[0])
    return rows[0][1], [{**p.row(), "acc": acc, "n": len(images)} for acc, p in rows]
