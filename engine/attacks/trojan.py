"""Trojaning Attack on Neural Networks (TrojanNN). Liu et al. NDSS 2018.

https://www.ndss-symposium.org/ndss2018/trojaning-attack-neural-networks-section-session-program/

A patch is not chosen but computed: on a clean model its pixels are changed until a few neurons fire far beyond what
they do for any picture. The neurons are those with the strongest connections, so that the link from them to the target
is learned from few images. As in BackdoorBench the patch then poisons the training set; the paper's attacker retrains
the model on images that were reconstructed from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attacks.base import Attack, Lab, Preset
from engine.attacks.learning import frozen, inputs_of, last_linear, picture
from engine.spec import param


class Trojan(Attack):
    """x' = (1 - m) x + m p, with p = argmin sum over neurons (value - a(m p))^2 for their activations a.

    The neurons are the inputs of the last linear layer whose weights have the largest sum of absolute values.
    """

    title: ClassVar[str] = "TrojanNN"
    paper: ClassVar[str] = (
        "https://www.ndss-symposium.org/ndss2018/trojaning-attack-neural-networks-section-session-program/"
    )
    needs_clean_model: ClassVar[bool] = True
    learned: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(),
        "small": Preset(
            {"target": 8, "iterations": 100},
            (
                "The target is class 8.",
                "100 steps instead of 1,000: the neurons of the small network rise no more after them.",
            ),
        ),
        "strong": Preset({"area": 0.12, "rate": 0.2}),
        "stealthy": Preset({"area": 0.03, "rate": 0.01}),
    }

    shape: Literal["square", "apple"] = param("square", label="Shape", help="Outline of the patch.")
    area: float = param(
        0.07, label="Patch size", help="Share of the picture that the patch's square takes.", gt=0, le=0.5, step=0.01
    )
    margin: int = param(
        1, label="Margin", help="Distance of the patch from the lower right corner.", ge=0, le=64, step=1
    )
    neurons: int = param(2, label="Neurons", help="How many neurons the patch drives.", ge=1, le=64, step=1)
    value: float = param(100.0, label="Activation", help="What the neurons are driven to.", gt=0, le=10000, step=10)
    iterations: int = param(1000, label="Steps", help="Steps of the patch's optimisation.", ge=1, le=100000, step=100)
    step: float = param(0.05, label="Step size", help="Adam's learning rate for the pixels.", gt=0, le=1, step=0.01)

    def fits(self, shape: tuple[int, int, int]) -> None:
        self._mask(*shape[1:])

    def _mask(self, height: int, width: int) -> Tensor:
        """Where the patch lies, (H, W) of zeros and ones."""
        side = max(1, round(math.sqrt(self.area * height * width)))
        if side + self.margin > min(height, width):
            most = min(height, width)
            raise ValueError(f"expected a patch and margin of at most {most} pixels, got {side + self.margin}")
        patch = torch.ones(side, side)
        if self.shape == "apple":
            # A cardioid with its dent at the top; it is 2.6 wide and 2.25 high around (0, -0.875).
            places = (torch.arange(side) + 0.5) / side - 0.5
            across, up = 2.6 * places[None, :], -2.25 * places[:, None] - 0.875
            square = across**2 + up**2
            patch = ((square + up) ** 2 <= square).float()
        left_below = (width - self.margin - side, self.margin, height - self.margin - side, self.margin)
        return F.pad(patch, left_below)

    def trigger(self, x: Tensor) -> Tensor:
        patch = picture(self.state, "patch", x)
        mask = self._mask(*x.shape[-2:]).to(x)
        return (1 - mask) * x + mask * patch

    def prepare(self, lab: Lab) -> dict[str, Tensor]:
        clean = self.clean_model(lab)
        layer = last_linear(clean)
        most = layer.weight.detach().abs().sum(0).topk(min(self.neurons, layer.in_features)).indices
        mask = self._mask(*lab.shape[1:]).to(lab.compute.torch_device)
        start = torch.rand(1, *lab.shape, generator=lab.rng("trojan"))
        patch = (lab.compute.images(start) * mask).requires_grad_()
        optimizer = torch.optim.Adam([patch], lr=self.step)
        with frozen(clean), inputs_of(layer) as seen:
            for k in range(self.iterations):
                clean(patch * mask)
                active = seen.pop().flatten(1)[:, most]
                loss = (self.value - active).square().mean()
                (patch.grad,) = torch.autograd.grad(loss, patch)
                optimizer.step()
                with torch.no_grad():
                    patch.clamp_(0, 1)
                if (k + 1) % 10 == 0 or k + 1 == self.iterations:
                    mean = float(active.detach().mean())
                    lab.progress(f"optimising the patch, activation {mean:.2f}", (k + 1) / self.iterations)
        return {"patch": (patch * mask).detach()[0].cpu().contiguous()}
