"""The data on which attacks are tried beside Fashion-MNIST: ``python -m tests.benchmarks.attacks --on NAME``.

The repository ships none of them, for their licences. Each comes by its registered name, where its files are there or
can be downloaded, or from an ``.npz`` that ``--file`` names (:mod:`engine.data.own` describes it).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from engine.data import load
from engine.data.base import Images
from engine.paths import workspace


@dataclass(frozen=True)
class Ground:
    """Data, network and training of some attacks and their clean twin.

    ``side`` is the size to which the pictures are scaled first, ``settings`` are options of the ``attack`` command;
    ``attacks`` are all that are wanted, the first ones first, and ``lacking`` says why not all of them are there.
    """

    about: str
    settings: tuple[str, ...]
    attacks: tuple[str, ...]
    side: int | None = None
    lacking: str = ""

    def options(self) -> list[str]:
        """The options of the ``attack`` command, but for data, attack and seed."""
        model, *pairs = self.settings
        return ["--model", model, *(word for pair in pairs for word in ("--set", pair)), "--twin", "train"]


def prepared(name: str, side: int | None, file: Path | None) -> str:
    """What ``--data`` is given: the data set's name or file, or a file of its own in the workspace if it is scaled."""
    source = str(file.absolute()) if file else name
    if side is None:
        return source
    path = workspace() / "data" / f"{name}-{side}.npz"
    if not path.exists():
        data = load(source)
        # As they were before they were divided, so that the scaled file is divided in the same way.
        parts = {"train": _in_order(data.train, data.pool), "test": _in_order(data.test)}
        arrays = {f"x_{part}": _scaled(images.x, side) for part, images in parts.items()}
        arrays |= {f"y_{part}": images.y.numpy() for part, images in parts.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, class_names=np.array(data.classes), allow_pickle=False, **arrays)
    return str(path)


def _in_order(*parts: Images) -> Images:
    together = Images(*(torch.cat([getattr(part, key) for part in parts]) for key in ("x", "y", "ids")))
    return together[together.ids.argsort()]


def _scaled(x: torch.Tensor, side: int) -> np.ndarray:
    """Pictures uint8 (N, 3, H, W) as (N, side, side, 3)."""
    pictures = (Image.fromarray(one) for one in x.permute(0, 2, 3, 1).numpy())
    return np.stack([np.asarray(one.resize((side, side), Image.Resampling.BILINEAR)) for one in pictures])
