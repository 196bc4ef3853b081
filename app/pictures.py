"""Pictures as PNG: scaled by whole factors without smoothing, so that a pixel of the data is a square on the screen."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from app.palette import LESS, MORE, Theme, rgb


def scaled(pixels: np.ndarray, side: int) -> np.ndarray:
    """A picture (H, W) or (H, W, 3) uint8, enlarged by the largest whole factor that keeps it within ``side``."""
    factor = max(1, side // max(pixels.shape[:2]))
    return pixels.repeat(factor, 0).repeat(factor, 1)


def png(pixels: np.ndarray, side: int) -> str:
    """As a ``data:`` address for an ``img``."""
    file = io.BytesIO()
    Image.fromarray(scaled(pixels, side)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def plain(picture: np.ndarray) -> np.ndarray:
    """(1 or 3, H, W) uint8 to (H, W) or (H, W, 3)."""
    return picture[0] if picture.shape[0] == 1 else picture.transpose(1, 2, 0)


def opened(encoded: str, alpha: bool = False) -> np.ndarray:
    """The pixels of a PNG in base64: (H, W) or (H, W, 3), with ``alpha`` always (H, W, 4)."""
    with Image.open(io.BytesIO(base64.b64decode(encoded)), formats=("PNG",)) as image:
        if alpha:
            return np.asarray(image.convert("RGBA"))
        return np.asarray(image.convert("L" if image.mode in ("L", "1", "I;16") else "RGB"))


def difference(clean: np.ndarray, triggered: np.ndarray, theme: Theme, gain: float = 10.0) -> np.ndarray:
    """What the trigger changed, times ``gain``: blue where it is darker, orange where it is lighter."""
    change = (triggered.astype(np.float32) - clean.astype(np.float32)) / 255 * gain
    if change.ndim == 3:
        change = change.mean(2)
    return diverging(change, 1.0, theme)


def diverging(values: np.ndarray, reach: float, theme: Theme) -> np.ndarray:
    """(H, W) numbers to blue (below 0), paper (0), orange (above 0); ``reach`` is where the colour is full."""
    share = np.clip(np.nan_to_num(values) / max(reach, 1e-12), -1, 1)[..., None]
    paper = np.array(rgb(theme.paper), np.float32)
    ends = np.where(share < 0, np.array(rgb(LESS), np.float32), np.array(rgb(MORE), np.float32))
    return np.round(paper + (ends - paper) * np.abs(share)).astype(np.uint8)


def common_range(*maps: Sequence[Sequence[float]] | np.ndarray | None) -> tuple[float, float]:
    """One range for pictures that are compared: from the least value, or 0, to the largest."""
    arrays: list[Any] = [np.asarray(m, float) for m in maps if m is not None]
    low = min(0.0, *(float(a.min()) for a in arrays)) if arrays else 0.0
    high = max((float(a.max()) for a in arrays), default=1.0)
    return low, max(high, low + 1e-9)
