"""What one's own data may measure at most, and what reading them gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.data.base import Images

MAX_BYTES = 4 * 2**30
"""Most memory that the images of a set may take, decoded, and the largest .npz."""
MAX_IMAGES = 1_000_000
MAX_CLASSES = 1_000
SIDES = (8, 224)
"""Smallest side of any image, largest to which a folder's images are scaled."""


@dataclass(frozen=True)
class Raw:
    """Images in the order in which they were found; ``test`` is None where the data define no test images."""

    classes: tuple[str, ...]
    train: Images
    test: Images | None


def pixels(x: np.ndarray) -> Tensor:
    """uint8 (N, H, W[, C]) as a tensor (N, C, H, W)."""
    if x.ndim == 3:
        x = x[..., None]
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
