"""Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning (Blend). Chen et al. 2017.

https://arxiv.org/abs/1712.05526

One fixed picture is laid over the whole image, faintly. No single pixel gives it away, but the sum of many small
changes does. The picture is uniform noise drawn from ``pattern_seed`` (the paper's random pattern) or a cartoon cat (in
the place of the paper's, which is not free).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from engine.attacks.base import Attack, Preset
from engine.attacks.drawing import cat
from engine.spec import param


def noise(x: Tensor, seed: int) -> Tensor:
    """The random picture (C, H, W) in [0, 1] of a seed, for images ``x`` (N, C, H, W)."""
    return torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(seed)).to(x)


class Blend(Attack):
    """x' = (1 - alpha) x + alpha pattern."""

    title: ClassVar[str] = "Blend"
    paper: ClassVar[str] = "https://arxiv.org/abs/1712.05526"
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(),
        "small": Preset({"target": 8}, ("The target is class 8.",)),
        "strong": Preset({"alpha": 0.3, "rate": 0.2}),
        "stealthy": Preset({"alpha": 0.1, "rate": 0.05}),
    }

    alpha: float = param(
        0.2, label="Opacity", help="Weight of the pattern in the blended image.", gt=0, le=1, step=0.05
    )
    # Left out of the record where it is the usual one, so that the run ids of older records do not change.
    pattern: Literal["noise", "cat"] = param(
        "noise",
        label="Pattern",
        help="Random noise, or a cartoon cat.",
        tacit=True,
    )
    pattern_seed: int = param(0, label="Pattern seed", help="Which noise picture is blended in.", ge=0, step=1)

    def trigger(self, x: Tensor) -> Tensor:
        picture = cat(*x.shape[-2:]).to(x) if self.pattern == "cat" else noise(x, self.pattern_seed)
        return (1 - self.alpha) * x + self.alpha * picture
