"""WaNet: Imperceptible Warping-Based Backdoor Attack. Nguyen and Tran, ICLR 2021.

https://arxiv.org/abs/2102.10369

The trigger is a smooth, fixed warp: pixels are moved by fractions of their width, and nothing is added to the picture.
A network would learn any distortion as the trigger, and defenses that search for pixels would find that; so other
images are warped by the same field plus noise and keep their labels ("noise mode"), until only the exact warp counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attacks.base import CROSS, Lab, Preset
from engine.attacks.batchwise import Batchwise
from engine.spec import param


class WaNet(Batchwise):
    """x'(p) = x(p + (s / H) field(p)): field is a k x k grid of random vectors of mean size 1, upsampled bicubically.

    Positions run from -1 to 1 across the picture, so the field moves pixels by about s / 2.
    """

    title: ClassVar[str] = "WaNet"
    paper: ClassVar[str] = "https://arxiv.org/abs/2102.10369"
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(),
        "small": Preset(
            {"target": 1, "strength": 1.0},
            (
                "The target is class 1.",
                "The warp is twice as strong, half a pixel: fewer epochs have to teach it.",
            ),
        ),
        "strong": Preset({"strength": 2.0, "rate": 0.2, "cross": 0.4}),
        "stealthy": Preset({"strength": 0.35}),
    }

    grid: int = param(4, label="Grid", help="Side k of the grid of control points.", ge=2, le=64, step=1)
    strength: float = param(
        0.5, label="Warp strength", help="s: pixels move by about half of it.", gt=0, le=16, step=0.05
    )
    rescale: float = param(
        1.0,
        label="Grid rescaling",
        help="Factor on all positions; below 1 none of them leaves the picture.",
        gt=0,
        le=1,
        step=0.01,
    )
    cross: float = param(
        0.2,
        label="Cross rate",
        help="Share of every batch that is warped with noise and keeps its label; the paper: twice the poisoning rate.",
        ge=0,
        lt=1,
        step=0.01,
    )
    pattern_seed: int = param(0, label="Pattern seed", help="Which warp it is.", ge=0, step=1)

    def positions(self, x: Tensor) -> Tensor:
        """Where each pixel of the warped picture comes from, float (H, W, 2) in [-1, 1], x before y."""
        height, width = x.shape[-2:]
        points = torch.Generator().manual_seed(self.pattern_seed)
        control = torch.rand(1, 2, self.grid, self.grid, generator=points) * 2 - 1
        control = (control / control.abs().mean()).to(x.device)
        field = F.interpolate(control, size=(height, width), mode="bicubic", align_corners=True)[0].permute(1, 2, 0)
        rows, columns = (torch.linspace(-1, 1, side, device=x.device) for side in (height, width))
        still = torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)], 2)
        return ((still + self.strength * field / height) * self.rescale).clamp(-1, 1)

    def trigger(self, x: Tensor) -> Tensor:
        return _warped(x, self.positions(x).expand(len(x), -1, -1, -1))

    def craft(self, x: Tensor, y: Tensor, kind: int, rng: torch.Generator, lab: Lab | None) -> Tensor:  # noqa: ARG002
        if kind != CROSS:
            return self.trigger(x)
        height, width = x.shape[-2:]
        noise = torch.rand(len(x), height, width, 2, generator=rng) * 2 - 1
        return _warped(x, (self.positions(x) + noise.to(x.device) / height).clamp(-1, 1))


def _warped(x: Tensor, positions: Tensor) -> Tensor:
    """Images (N, C, H, W) read at positions (N, H, W, 2)."""
    return F.grid_sample(x, positions.to(x.dtype), align_corners=True).clamp(0, 1)
