"""Rethinking the Backdoor Attacks' Triggers: A Frequency Perspective (LF). Zeng et al. ICCV 2021.

https://arxiv.org/abs/2104.03413

Patches, noise and grids betray themselves in a picture's spectrum by energy in high frequencies, where photographs
have none. This trigger is smooth: one perturbation for all pictures, low-pass filtered at every step of its
optimisation, that leads a clean model towards the target already. So little is left for the poisoned model to learn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attacks.base import Attack, Lab, Preset
from engine.attacks.learning import frozen, gaussian, picture
from engine.spec import param


class LF(Attack):
    """x' = x + r, clipped; r = argmin sum loss(f(x + r), target) over r = eps (d * g) / max |d * g|, g a Gaussian.

    The paper adds up steps of DeepFool picture by picture and filters their sum; here Adam descends the same loss over
    random batches, through the filter. Both stop when four pictures of five are taken for the target.
    """

    title: ClassVar[str] = "Low frequency (LF)"
    paper: ClassVar[str] = "https://arxiv.org/abs/2104.03413"
    needs_clean_model: ClassVar[bool] = True
    learned: ClassVar[bool] = True
    # The perturbation is optimised towards one class.
    rules: ClassVar[tuple[str, ...]] = ("all_to_one", "source")
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(),
        "small": Preset(
            {"target": 1, "steps": 60, "batch": 100},
            (
                "The target is class 1.",
                "At most 60 steps of 100 pictures instead of 1,000 of 200: it misleads hardly more after them.",
            ),
        ),
        "strong": Preset({"eps": 0.2, "rate": 0.2}),
        "stealthy": Preset({"eps": 0.05, "rate": 0.02}),
    }

    eps: float = param(0.1, label="Strength", help="Largest change of a pixel by the trigger.", gt=0, le=1, step=0.01)
    sigma: float = param(
        2.0, label="Smoothness", help="Standard deviation of the Gaussian filter in pixels.", gt=0, le=64, step=0.5
    )
    enough: float = param(
        0.8,
        label="Stop at",
        help="Share of a batch that the clean model takes for the target, from which the trigger is good enough.",
        gt=0,
        le=1,
        step=0.05,
    )
    steps: int = param(1000, label="Steps", help="Most steps of the optimisation.", ge=1, le=100000, step=100)
    batch: int = param(200, label="Batch size", help="Pictures a step.", ge=1, le=4096, step=10)

    def trigger(self, x: Tensor) -> Tensor:
        return (x + picture(self.state, "perturbation", x)).clamp(0, 1)

    def prepare(self, lab: Lab) -> dict[str, Tensor]:
        clean = self.clean_model(lab)
        rng, device = lab.rng("lf"), lab.compute.torch_device
        rows, columns = (gaussian(side, self.sigma).to(device) for side in lab.shape[1:])
        others = (lab.images.y != self.target).nonzero().squeeze(1)
        free = torch.randn(1, *lab.shape, generator=rng).to(device).requires_grad_()
        optimizer = torch.optim.Adam([free], lr=0.1)
        smooth = free.detach()
        with frozen(clean):
            for k in range(self.steps):
                index = others[torch.randint(len(others), (self.batch,), generator=rng)]
                smooth = rows @ free @ columns.T
                smooth = self.eps * smooth / smooth.abs().max()
                with lab.compute.autocast():
                    logits = clean((lab.compute.images(lab.images.x[index]) + smooth).clamp(0, 1)).float()
                wanted = torch.full((len(index),), self.target, device=device)
                fooled = float((logits.detach().argmax(1) == wanted).float().mean())
                lab.progress(f"optimising the perturbation, {fooled:.0%} fooled", (k + 1) / self.steps)
                if fooled >= self.enough:
                    break
                (free.grad,) = torch.autograd.grad(F.cross_entropy(logits, wanted), free)
                optimizer.step()
        return {"perturbation": smooth.detach()[0].cpu().contiguous()}
