"""A cartoon cat, drawn by formula at any size: a picture that nobody owns, in the place of the papers' cartoons."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

#: Points per pixel and side, of which a pixel is the mean.
_FINE = 4


@functools.lru_cache(maxsize=8)
def cat(height: int, width: int) -> Tensor:
    """The picture (height, width) in [0, 1]: a white face in black outline on white."""
    v, u = torch.meshgrid(_places(height), _places(width), indexing="ij")
    drawn = torch.ones_like(u)
    face = _ellipse(u, v, 0.5, 0.58, 0.40, 0.32).sqrt()
    for x in (u, 1 - u):
        drawn[_triangle(x, v, (0.13, 0.12), (0.16, 0.50), (0.42, 0.30))] = 0
        drawn[_triangle(x, v, (0.18, 0.20), (0.20, 0.44), (0.36, 0.32))] = 1
    drawn[face < 1.08] = 0
    drawn[face < 0.98] = 1
    for x in (u, 1 - u):
        drawn[_ellipse(x, v, 0.33, 0.58, 0.035, 0.05) < 1] = 0
        for start, rise in ((0.60, -0.03), (0.66, 0.0), (0.72, 0.03)):
            along = (0.18 - x) / 0.16
            drawn[((v - start - rise * along).abs() < 0.012) & (along > -0.4) & (along < 1)] = 0
    drawn[_ellipse(u, v, 0.5, 0.68, 0.045, 0.03) < 1] = 0.3
    return drawn.reshape(height, _FINE, width, _FINE).mean((1, 3))


def _places(n: int) -> Tensor:
    """Middles of the fine points of a side, in (0, 1)."""
    return (torch.arange(n * _FINE) + 0.5) / (n * _FINE)


def _ellipse(u: Tensor, v: Tensor, x: float, y: float, wide: float, tall: float) -> Tensor:
    """Below 1 inside."""
    return ((u - x) / wide) ** 2 + ((v - y) / tall) ** 2


def _triangle(u: Tensor, v: Tensor, *corners: tuple[float, float]) -> Tensor:
    """Whether a point lies inside."""
    sides = [
        (b[0] - a[0]) * (v - a[1]) - (b[1] - a[1]) * (u - a[0])
        for a, b in zip(corners, corners[1:] + corners[:1], strict=True)
    ]
    turns = torch.stack(sides) > 0
    return turns.all(0) | ~turns.any(0)
