"""Reflection Backdoor: A Natural Backdoor Attack on Deep Neural Networks (Refool). Liu et al. ECCV 2020.

https://arxiv.org/abs/2007.02343

The trigger is something that cameras see every day: a reflection in a window pane. Another picture's light is added to
the image, out of focus, or twice and shifted as thick glass reflects it. A few hundred reflections are drawn once;
which of them a picture gets depends on its pixels, so the same picture always has the same one. The labels are
changed, as in BackdoorBench, which found that the clean-label attack of the paper does not reach a single target.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from engine.attacks.base import Attack, Lab, Preset
from engine.attacks.learning import gaussian, goes_with
from engine.spec import param

#: Light adds up, pixel values do not: they are its 2.2nd root.
_GAMMA = 2.2


class Refool(Attack):
    """x' = (t x^2.2 + (1 - t) (k * r)^2.2)^(1 / 2.2) for a reflected picture r and a kernel k.

    k is a Gaussian, or for ghosts two pulses of weights a and 1 - a. The reflections are training pictures of other
    classes than the target.
    """

    title: ClassVar[str] = "Refool"
    paper: ClassVar[str] = "https://arxiv.org/abs/2007.02343"
    learned: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(),
        "small": Preset({"target": 1}, ("The target is class 1.",)),
        "strong": Preset({"transmission": 0.3, "rate": 0.2}),
        "stealthy": Preset({"transmission": 0.7, "rate": 0.05}),
    }

    transmission: float = param(
        0.4, label="Transmission", help="Share of the picture's own light.", gt=0, lt=1, step=0.05
    )
    ghosts: float = param(
        0.49,
        label="Ghosts",
        help="Share of reflections that are doubled; others are blurred.",
        ge=0,
        le=1,
        step=0.01,
    )
    reflections: int = param(200, label="Reflections", help="How many pictures are reflected.", ge=1, le=5000, step=10)

    def trigger(self, x: Tensor) -> Tensor:
        if "reflections" not in self.state:
            raise ValueError("expected reflections that were drawn, got none")
        bank = self.state["reflections"]
        goes_with(x, bank.shape[1:], "as the reflections are")
        chosen = bank.to(x.device)[_number(x) % len(bank)].to(x) / 255
        light = self.transmission * x**_GAMMA + (1 - self.transmission) * chosen**_GAMMA
        # The root's slope is infinite at zero.
        return light.clamp(min=1e-8) ** (1 / _GAMMA)

    def prepare(self, lab: Lab) -> dict[str, Tensor]:
        rng = lab.rng("refool")
        others = (lab.images.y != self.target).nonzero().squeeze(1)
        index = others[torch.randint(len(others), (self.reflections,), generator=rng)]
        made = [self._reflection(x.float() / 255, rng) for x in lab.images.x[index]]
        return {"reflections": (torch.stack(made) * 255).round().to(torch.uint8)}

    def _reflection(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """What of a picture (C, H, W) comes back from the pane."""
        height, width = x.shape[-2:]
        a, b, kind = torch.rand(3, generator=rng).tolist()
        if kind >= self.ghosts:
            # From 1 to 5 pixels where pictures have 224, as in the paper's; at least half a pixel.
            sigma = max(0.5, (1 + 4 * a) * min(height, width) / 224)
            return gaussian(height, sigma) @ x @ gaussian(width, sigma).T
        # Shifted down and to the right by a twentieth to a seventh of the side.
        shift = [max(1, round(side * (0.05 + 0.1 * b))) for side in (height, width)]
        second = torch.zeros_like(x)
        second[:, shift[0] :, shift[1] :] = x[:, : height - shift[0], : width - shift[1]]
        weight = 0.15 + 0.35 * a
        return (1 - weight) * x + weight * second


def _number(x: Tensor) -> Tensor:
    """A whole number for each picture, int64 (N,), from its pixels in 8 bits."""
    pixels = (x * 255).round().to(torch.int64).flatten(1)
    # Odd weights below 2^20, each pixel's own: their sums stay exact for any picture, in any order.
    weights = torch.arange(1, pixels.shape[1] + 1, device=x.device) * 40503 % (1 << 20) | 1
    return (pixels * weights).sum(1) % 1_000_003
