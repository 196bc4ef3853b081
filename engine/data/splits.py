"""How a set that defines only training (and perhaps test) images is divided: by one fixed shuffle.

The pool is the last tenth of the shuffled training images, at most 10,000, and holds each class at least once;
a set without test images first gives up a fifth of itself for them. The shuffle does not depend on any run's
seed, so the same images are the pool for every suspect, and each image keeps the number that it had.
"""

from __future__ import annotations

import torch

from engine.data.base import Images

POOL_SHARE, POOL_MOST = 0.1, 10_000
TEST_SHARE = 0.2
_SEED = 0


def shuffled(images: Images) -> Images:
    """The images in the fixed random order: a set sorted by class has no fair first thousand."""
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(_SEED))]


def split_off(images: Images, share: float, most: int | None = None) -> tuple[Images, Images]:
    """(rest, part): ``part`` is the last ``share`` of the images, at most ``most``, but one of each class at least.

    Every class with two images or more is on both sides: its first image stays, its last one goes.
    """
    n = len(images)
    goes, stays = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
    for c in images.y.unique():
        places = (images.y == c).nonzero().squeeze(1)
        if len(places) >= 2:
            stays[places[0]] = goes[places[-1]] = True
    missing = min(round(share * n), most or n) - int(goes.sum())
    if missing > 0:
        goes[(~goes & ~stays).nonzero().squeeze(1)[-missing:]] = True
    return images[(~goes).nonzero().squeeze(1)], images[goes.nonzero().squeeze(1)]


def train_and_pool(images: Images) -> dict[str, Images]:
    """Divide shuffled training images into the parts ``train`` and ``pool``."""
    train, pool = split_off(images, POOL_SHARE, POOL_MOST)
    return {"train": train, "pool": pool}
