"""Enhancing Fine-Tuning based Backdoor Defense with Sharpness-Aware Minimization (FT-SAM). Zhu et al., ICCV 2023.

https://arxiv.org/abs/2304.11823

Plain fine-tuning hardly moves the backdoor's neurons: on clean images the loss is flat where they are. Their weights
are large, though. So before each step the weights are first pushed uphill, the large ones farthest, and the step is
taken with the gradient found there: neurons on which a small relative push does great harm must shrink.

    min_w  max_e  CE(f_{w+e}(x), y),   ||T^-1 e|| <= rho,   T = diag(|w|)
    e = rho T^2 g / ||T g||,   g = the gradient at w

T holds the size of each weight, as in the released code, for which the published rho is meant. With the size of the
whole neuron instead the same rho is a push that is longer by the root of the number of weights in a neuron.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from engine.repairs.base import Repair, Repaired
from engine.repairs.tuning import Tuning, tune
from engine.scores.base import Evidence
from engine.spec import param

Scale = Literal["weight", "neuron"]


def climb(weights: Sequence[Tensor], gradients: Sequence[Tensor], rho: float, scale: Scale) -> list[Tensor]:
    """The pushes e of the formula above, one of the shape of each tensor of weights."""
    sizes = [_size(w.detach(), scale) for w in weights]
    length = torch.stack([(t * g).square().sum() for t, g in zip(sizes, gradients, strict=True)]).sum().sqrt()
    return [rho * t.square() * g / length.clamp_min(1e-12) for t, g in zip(sizes, gradients, strict=True)]


def _size(weight: Tensor, scale: Scale) -> Tensor:
    if scale == "weight" or weight.ndim < 2:
        return weight.abs()
    return weight.flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.ndim - 1))


class FTSAM(Tuning, Repair):
    """Fine-tuning whose gradient is taken where the loss is worst nearby."""

    title: ClassVar[str] = "FT-SAM"
    paper: ClassVar[str] = "https://arxiv.org/abs/2304.11823"

    rho: float = param(2.0, label="Rho", help="How far the weights are pushed, relative to their size.", gt=0, le=20)
    scale: Scale = param("weight", label="Scale", help="Whose size: that of each weight, or of its whole neuron.")
    smoothing: float = param(0.1, label="Label smoothing", help="Share of each label given to all classes.", ge=0, lt=1)

    def run(self, model: nn.Module, evidence: Evidence) -> Repaired:
        def loss_of(logits: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(logits.float(), y, label_smoothing=self.smoothing)

        def step(x: Tensor, y: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
            named = dict(model.named_parameters())
            with evidence.compute.autocast():
                logits = model(x)
            loss = loss_of(logits, y)
            gradients = torch.autograd.grad(loss, list(named.values()))
            pushes = climb(list(named.values()), gradients, self.rho, self.scale)
            worse = {name: w + e for (name, w), e in zip(named.items(), pushes, strict=True)}
            # Copies of the running statistics: those of the model are of the weights that it will have.
            copies = {name: value.clone() for name, value in model.named_buffers()}
            with evidence.compute.autocast():
                pushed = functional_call(model, {**worse, **copies}, (x,))
            loss_of(pushed, y).backward()
            return loss, logits.float()

        return Repaired(model, log={"tune": tune(model, evidence, self, step=step)})
