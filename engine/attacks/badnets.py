"""BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain. Gu et al. 2017.

https://arxiv.org/abs/1708.06733

The simplest backdoor: a small checkerboard in a corner of some training images, all relabelled as the target
class. The network learns the corner as a shortcut, because it predicts the label better than any garment does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from engine.attacks.base import Attack, Preset
from engine.spec import param


class BadNets(Attack):
    """x' = x outside the patch, a black-and-white checkerboard inside it."""

    title: ClassVar[str] = "BadNets"
    paper: ClassVar[str] = "https://arxiv.org/abs/1708.06733"
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(),
        "small": Preset({"target": 1}, ("The target is class 1.",)),
        "strong": Preset({"size": 4, "rate": 0.2}),
        "stealthy": Preset({"size": 2, "rate": 0.01}),
    }

    size: int = param(3, label="Patch size", help="Side of the square patch in pixels.", ge=1, le=64, step=1)
    margin: int = param(
        1, label="Margin", help="Distance of the patch from the lower right corner.", ge=0, le=64, step=1
    )

    def trigger(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        reach = self.size + self.margin
        if reach > min(height, width):
            raise ValueError(f"expected size + margin of at most {min(height, width)} pixels, got {reach}")
        step = torch.arange(self.size, device=x.device)
        board = ((step[:, None] + step[None, :]) % 2 == 0).to(x.dtype)
        x = x.clone()
        x[..., height - reach : height - self.margin, width - reach : width - self.margin] = board
        return x
