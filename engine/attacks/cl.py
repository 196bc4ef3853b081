"""Label-Consistent Backdoor Attacks (CL). Turner, Tsipras and Madry 2019.

https://arxiv.org/abs/1912.02771

No label is touched, yet the trigger is learned: images of the target class are first made hard to recognise, by an
adversarial perturbation against a clean model, and then marked in the corners. What an inspector sees still is the
class that the label says; what the network finds reliable is the mark.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attacks.base import Attack, Lab, Preset
from engine.attacks.learning import frozen
from engine.spec import param

_BATCH = 250


class CL(Attack):
    """x' = mark(x + d) with d = argmax loss(f(x + d), y) over |d| <= eps in training; x' = mark(x) at test time.

    d is found by projected gradient descent from a random start, within the pixels' range.
    """

    title: ClassVar[str] = "Label-consistent (CL)"
    paper: ClassVar[str] = "https://arxiv.org/abs/1912.02771"
    clean_label: ClassVar[bool] = True
    needs_clean_model: ClassVar[bool] = True
    rules: ClassVar[tuple[str, ...]] = ("all_to_one",)
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(),
        "small": Preset(
            {"pgd_step": 4 / 255, "steps": 10},
            ("10 steps of 4/255 instead of 100 of 1.5/255: the clean model recognises nothing after them, either.",),
        ),
        "strong": Preset({"eps": 32 / 255, "pgd_step": 3 / 255}),
        "stealthy": Preset({"rate": 0.25, "amplitude": 32 / 255}),
    }

    rate: float = param(
        0.8, label="Poisoning rate", help="Share of the target class that is poisoned.", gt=0, le=1, step=0.05
    )
    eps: float = param(
        16 / 255, label="Perturbation", help="Largest change of a pixel by the perturbation.", ge=0, le=1, step=0.01
    )
    steps: int = param(100, label="PGD steps", help="Steps of projected gradient descent.", ge=1, le=1000, step=10)
    pgd_step: float = param(
        1.5 / 255, label="PGD step size", help="Change of a pixel in a step.", gt=0, le=1, step=0.005
    )
    size: int = param(3, label="Mark size", help="Side of the mark in each corner, in pixels.", ge=1, le=64, step=1)
    amplitude: float = param(
        1.0, label="Mark amplitude", help="How much a mark brightens or darkens a pixel.", gt=0, le=1, step=0.05
    )

    def trigger(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if 2 * self.size > min(height, width):
            raise ValueError(f"expected a mark size of at most {min(height, width) // 2} pixels, got {self.size}")
        step = torch.arange(self.size, device=x.device)
        board = torch.where((step[:, None] + step[None, :]) % 2 == 0, self.amplitude, -self.amplitude).to(x)
        marks = torch.zeros(height, width, dtype=x.dtype, device=x.device)
        # Mirrored, so that all corners look alike from outside.
        marks[: self.size, : self.size] = board
        marks[: self.size, -self.size :] = board.flip(1)
        marks[-self.size :, : self.size] = board.flip(0)
        marks[-self.size :, -self.size :] = board.flip(0, 1)
        return (x + marks).clamp(0, 1)

    def craft(self, x: Tensor, y: Tensor, kind: int, rng: torch.Generator, lab: Lab | None) -> Tensor:  # noqa: ARG002
        assert lab is not None
        start = (2 * torch.rand(x.shape, generator=rng) - 1) * self.eps
        parts, done = [], 0
        for images, labels, moved in zip(x.split(_BATCH), y.split(_BATCH), start.split(_BATCH), strict=True):
            parts.append(self._perturbed(images, labels, moved, lab))
            done += len(images)
            lab.progress(f"perturbing {done:,} of {len(x):,} images", done / len(x))
        return self.stamped(torch.cat(parts))

    def _perturbed(self, x: Tensor, y: Tensor, start: Tensor, lab: Lab) -> Tensor:
        clean = self.clean_model(lab)
        x, y = lab.compute.images(x), y.to(lab.compute.torch_device)
        found = (x + lab.compute.images(start)).clamp(0, 1)
        with frozen(clean):
            for _ in range(self.steps):
                found.requires_grad_()
                with lab.compute.autocast():
                    loss = F.cross_entropy(clean(found).float(), y, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, found)
                moved = found.detach() + self.pgd_step * gradient.sign()
                found = torch.minimum(torch.maximum(moved, x - self.eps), x + self.eps).clamp(0, 1)
        return found.detach().cpu()
