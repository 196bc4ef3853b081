"""One's own data: a folder of images with a subfolder for each class, or an ``.npz`` of arrays.

* A folder holds the class folders, or ``train/`` and ``test/`` (or ``val/``) that do. Pictures are PNG, JPEG, WEBP
  or BMP; they become grey if all of them are, else colour (transparency is dropped). Pictures of one size, at most
  224 pixels a side, are taken as they are; otherwise the centre square of each is scaled to ``side``, by default
  the median of the shorter sides, between 32 and 224.
* An ``.npz`` holds ``x_train`` uint8 (N, H, W) or (N, H, W, C), ``y_train`` integer (N,), and may hold ``x_test``,
  ``y_test`` and ``class_names``. Other arrays in it are not read.

The files are a stranger's. Sizes are compared with what the headers promise before anything is allocated or
decoded, pickled arrays are not opened, links may not lead out of the folder, and each refusal is one ValueError
line that says what was expected and what came.
"""

from __future__ import annotations

from pathlib import Path

import torch

from engine.data import own_folder, own_npz
from engine.data.base import DataSet
from engine.data.own_limits import MAX_CLASSES, SIDES, Raw
from engine.data.splits import TEST_SHARE, shuffled, split_off, train_and_pool


def load(path: str | Path, side: int | None = None) -> DataSet:
    """Read and check one's own data; its name is its absolute path, which :func:`engine.data.load` accepts.

    Args:
        path: a folder or an ``.npz`` file, as the module describes.
        side: scale every picture of a folder to ``side`` x ``side`` pixels.

    Raises:
        ValueError: for anything that is not such data, in one line.
    """
    path = Path(path).absolute()
    if side is not None and not SIDES[0] <= side <= SIDES[1]:
        raise ValueError(f"expected side between {SIDES[0]} and {SIDES[1]}, got {side}")
    if path.is_dir():
        return _data_set(path, own_folder.read(path, side))
    if path.suffix.lower() != ".npz" or not path.is_file():
        raise ValueError(f"expected a folder of images or an .npz file, got {str(path)!r}")
    if side is not None:
        raise ValueError(f"expected no side for an .npz, whose images keep their size, got {side}")
    return _data_set(path, own_npz.read(path))


def _data_set(path: Path, raw: Raw) -> DataSet:
    """Check class names, sizes and counts, and divide the images."""
    names, train, test = raw.classes, raw.train, raw.test
    if not 2 <= len(names) <= MAX_CLASSES:
        raise ValueError(f"expected between 2 and {MAX_CLASSES:,} classes, got {len(names):,}")
    for name in names:
        if not name.isprintable() or not 1 <= len(name.strip()) <= 80:
            raise ValueError(f"expected class names of 1 to 80 printable characters, got {name[:80]!r}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"expected each class name once, got {twice!r} twice")
    _, channels, height, width = train.x.shape
    if min(height, width) < SIDES[0]:
        raise ValueError(f"expected images of at least {SIDES[0]}x{SIDES[0]} pixels, got {width}x{height}")
    enough, wanted = (3, "train, pool and test") if test is None else (2, "train and pool")
    for label, count in enumerate(torch.bincount(train.y, minlength=len(names)).tolist()):
        if count < enough:
            shortage = f"got {count} of {names[label]!r}"
            raise ValueError(f"expected at least {enough} training images of each class, for {wanted}, {shortage}")
    # A folder is read class by class, and an .npz may be sorted too.
    train = shuffled(train)
    if test is None:
        train, test = split_off(train, TEST_SHARE)
    else:
        test = shuffled(test)
    parts = {**train_and_pool(train), "test": test}
    return DataSet(str(path), names, (channels, height, width), parts.__getitem__, "your own data")
