"""Adversarial Neuron Pruning Purifies Backdoored Deep Models (ANP). Wu and Wang, NeurIPS 2021.

https://arxiv.org/abs/2110.14430

Shake every neuron a little in the worst direction and a backdoored network answers with its target class, trigger or
not: the backdoor's neurons are more sensitive than the others. So learn one mask per filter that keeps the clean
images right even while the neurons are shaken; it turns down the neurons that make shaking dangerous.

    min_m  alpha L(m, 0) + (1 - alpha) max_{delta, xi in [-eps, eps]^U} L(m + delta, xi),      m in [0, 1]^U
    L(a, b) = E[CE(f(x; a * gamma, (1 + b) * beta), y)] over clean (x, y)
    score   = 1 - m; cut are the filters whose mask ends at or below 0.2 (recalled, not checked)

The inner maximum is taken as in the official code by ``steps`` signed gradient steps, eps in all, from a random place
in the box. As there, nothing brings them back into it: they may end at twice eps, half as far in the mean. Batches are
drawn with replacement, and the normalisations use the batch's own statistics. Without normalisation the bias is masked
with the weight.
"""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from engine.models.masking import scaled_weights
from engine.models.neurons import module_prefix, unit_modules, units
from engine.resume import passes
from engine.scores.base import Evidence, Score, Scores
from engine.spec import param
from engine.train import shift_and_flip

#: Iterations that make one row of the log; what is needed to go on is kept between two.
ROW = 20


class ANP(Score):
    """One minus the mask that keeps a network right while its neurons are perturbed."""

    title: ClassVar[str] = "Adversarial neuron perturbation (ANP)"
    paper: ClassVar[str] = "https://arxiv.org/abs/2110.14430"
    native_rule: ClassVar[str] = "mask at or below 0.2 (recalled from the paper, not checked)"

    epsilon: float = param(
        0.4,
        label="Epsilon",
        help="Relative change of a weight or bias: by chance, and once more in the steps.",
        ge=0,
        le=2,
    )
    steps: int = param(1, label="Steps", help="Signed gradient steps to the worst perturbation.", ge=1, le=20, step=1)
    alpha: float = param(0.2, label="Alpha", help="Share of the unperturbed loss.", ge=0, le=1, step=0.05)
    mask_lr: float = param(0.2, label="Mask rate", help="SGD rate of the masks.", gt=0, le=10)
    iterations: int = param(2000, label="Iterations", help="Steps of the masks.", ge=1, le=20000, step=100)
    batch: int = param(128, label="Batch size", help="Images per step, drawn with replacement.", ge=2, le=1024, step=1)
    augment: bool = param(True, label="Augment", help="Random shift and flip, as in the official code.")

    def run(self, model: nn.Module, evidence: Evidence) -> Scores:
        work = evidence.compute.model(copy.deepcopy(model)).train().requires_grad_(False)
        device, rng = evidence.compute.torch_device, evidence.rng("anp")
        masks = nn.ParameterList([torch.ones(len(units(model)), device=device)])
        mask = masks[0]
        optimizer = torch.optim.SGD([mask], lr=self.mask_lr, momentum=0.9)
        log: list[dict[str, float]] = []
        for row in passes(
            evidence.keep, "anp", -(-self.iterations // ROW), {"masks": masks}, optimizer, None, rng, log
        ):
            sums = {"loss": 0.0, "perturbed": 0.0}
            todo = min(ROW, self.iterations - row * ROW)
            for _ in range(todo):
                x, y = self._draw(evidence, rng)
                noise = self.worst(work, mask.detach(), x, y, evidence, rng)
                plain, robust = (_loss(work, mask, shaken, x, y, evidence) for shaken in (None, noise))
                optimizer.zero_grad()
                (self.alpha * plain + (1 - self.alpha) * robust).backward()
                optimizer.step()
                with torch.no_grad():
                    mask.clamp_(0, 1)
                sums["loss"] += float(plain.detach()) / todo
                sums["perturbed"] += float(robust.detach()) / todo
            log.append(sums)
            done = row * ROW + todo
            evidence.progress(f"masks, step {done:,} of {self.iterations:,}", done / self.iterations, loss=sums["loss"])
        return Scores(1 - mask.detach().cpu().float(), native=0.8, log={"masks": log})

    def worst(
        self, model: nn.Module, mask: Tensor, x: Tensor, y: Tensor, evidence: Evidence, rng: torch.Generator
    ) -> Tensor:
        """Perturbations (2, U) in [-2 epsilon, 2 epsilon], of weights and biases, that raise the loss on a batch."""
        noise = self.epsilon * (2 * torch.rand(2, len(mask), generator=rng) - 1).to(mask.device)
        for _ in range(self.steps):
            noise.requires_grad_(True)
            (slope,) = torch.autograd.grad(_loss(model, mask, noise, x, y, evidence), noise)
            noise = noise.detach() + self.epsilon / self.steps * slope.sign()
        return noise

    def _draw(self, evidence: Evidence, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        index = torch.randint(len(evidence.images), (self.batch,), generator=rng)
        x = evidence.compute.images(evidence.images.x[index])
        if self.augment:
            x = shift_and_flip(x, rng)
        return x, evidence.images.y[index].to(evidence.compute.torch_device)


def perturbed_weights(model: nn.Module, mask: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """Parameters under a mask (U,) and perturbations (2, U), for ``torch.func.functional_call``."""
    changed, prefix = scaled_weights(model, mask + noise[0]), module_prefix(model)
    for layer, module in zip(units(model).layers, unit_modules(model), strict=True):
        if isinstance(module.bias, Tensor):
            scale = (1.0 if layer.kind == "norm" else mask[layer.span]) + noise[1, layer.span]
            changed[f"{prefix}{layer.name}.bias"] = module.bias.detach() * scale
    return changed


def _loss(model: nn.Module, mask: Tensor, noise: Tensor | None, x: Tensor, y: Tensor, evidence: Evidence) -> Tensor:
    weights = scaled_weights(model, mask) if noise is None else perturbed_weights(model, mask, noise)
    with evidence.compute.autocast():
        logits = functional_call(model, weights, (x,)).float()
    return F.cross_entropy(logits, y)
