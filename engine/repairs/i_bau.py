"""Adversarial Unlearning of Backdoors via Implicit Hypergradient (I-BAU). Zeng et al., ICLR 2022.

https://arxiv.org/abs/2110.03735

If there is a backdoor, some single change of all pictures fools the network on every one of them. Such a change is
searched for without knowing the trigger, and the network is taught to answer as if it were not there. Each step of the
network must reckon with the change that would then be the worst: the implicit function theorem says how the worst
change moves with the weights, a few terms of a series are enough.

    min_theta  max_d  H(d, theta) = E[CE(f_theta(x + d), y)] - mu |d|^2
    gradient = dE/dtheta + (dP/dtheta)' v,   P(d) = d + s dH/dd,   v = sum_{k<K} ((dP/dd)')^k dE/dd

E is the loss of a batch in which a share of the images carries the change d. d is in units of the standard deviation
that the network normalises with, as in the official code, whose images are normalised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.models.base import Classifier
from engine.repairs.base import Repair, Repaired
from engine.repairs.tuning import hold
from engine.resume import passes
from engine.scores.base import Evidence
from engine.spec import param
from engine.train import batches


def hypergradient(
    inner: Callable[[Tensor], Tensor],
    outer: Callable[[Tensor], Tensor],
    change: Tensor,
    parameters: Sequence[Tensor],
    step: float,
    terms: int,
) -> tuple[Tensor, list[Tensor]]:
    """The value of ``outer`` and its gradient with ``change`` following the parameters uphill on ``inner``.

    ``inner`` and ``outer`` map a change to a number and depend on ``parameters``; see P, v and K above.
    """
    d, many = change.detach().requires_grad_(True), list(parameters)
    value = outer(d)
    found = torch.autograd.grad(value, [d, *many], allow_unused=True, materialize_grads=True)
    of_change, direct = found[0], found[1:]
    (slope,) = torch.autograd.grad(inner(d), d, create_graph=True)
    moved = d + step * slope
    v = torch.zeros_like(d)
    for _ in range(terms):
        (pulled,) = torch.autograd.grad(moved, d, v, retain_graph=True)
        v = pulled + of_change
    indirect = torch.autograd.grad(moved, many, v, allow_unused=True, materialize_grads=True)
    return value.detach(), [a + b for a, b in zip(direct, indirect, strict=True)]


class IBAU(Repair):
    """Rounds of: find one change that fools the network on all images, unlearn it."""

    title: ClassVar[str] = "I-BAU"
    paper: ClassVar[str] = "https://arxiv.org/abs/2110.03735"

    rounds: int = param(5, label="Rounds", help="Changes that are searched for and unlearned.", ge=1, le=100, step=1)
    lr: float = param(1e-4, label="Rate", help="Adam's step size.", gt=0, le=1)
    terms: int = param(5, label="Terms", help="K of the series in the hypergradient.", ge=1, le=50, step=1)
    step: float = param(0.1, label="Step of P", help="s in the map whose fixed point the change is.", gt=0, le=10)
    inner_lr: float = param(10.0, label="Search rate", help="Step size of the search for the change.", gt=0, le=1000)
    penalty: float = param(1e-3, label="Penalty", help="Weight mu of the squared length of the change.", ge=0, le=10)
    bound: float = param(10.0, label="Bound", help="Greatest Euclidean length of the change.", gt=0, le=1000)
    portion: float = param(0.01, label="Portion", help="Share of a batch that carries the change.", gt=0, le=1)
    batch: int = param(256, label="Batch size", help="Images per step.", ge=2, le=4096, step=1)

    def run(self, model: nn.Module, evidence: Evidence) -> Repaired:
        model.eval()  # the change must fool the network as it is used
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(parameters, self.lr)
        images, compute, rng = evidence.images, evidence.compute, evidence.rng("i_bau")
        unit = torch.ones((), device=compute.torch_device)
        if isinstance(model, Classifier):
            unit = model.normalize.std[:, : images.x.shape[1]]  # more values than channels where grey is repeated
        log: list[dict[str, float]] = []
        for turn in passes(evidence.keep, "i_bau", self.rounds, {"model": model}, optimizer, None, rng, log):
            change = self._search(model, evidence, unit, rng)
            loss_sum, seen = 0.0, 0
            for index in batches(len(images), self.batch, rng):
                x, y = compute.images(images.x[index]), images.y[index].to(compute.torch_device)
                carries = torch.zeros(len(y), 1, 1, 1)
                carries[torch.randperm(len(y), generator=rng)[: max(1, round(self.portion * len(y)))]] = 1
                some = carries.to(x.device)

                # Second derivatives in bfloat16 would be mostly rounding: no autocast here.
                def outer(d: Tensor, x: Tensor = x, y: Tensor = y, some: Tensor = some) -> Tensor:
                    return F.cross_entropy(model(x + some * d * unit).float(), y)

                def inner(d: Tensor, x: Tensor = x, y: Tensor = y) -> Tensor:
                    return F.cross_entropy(model(x + d * unit).float(), y) - self.penalty * d.square().sum()

                loss, gradients = hypergradient(inner, outer, change, parameters, self.step, self.terms)
                for p, g in zip(parameters, gradients, strict=True):
                    p.grad = g
                optimizer.step()
                hold(model, evidence)
                loss_sum, seen = loss_sum + float(loss) * len(y), seen + len(y)
            optimizer.zero_grad()
            log.append({"loss": loss_sum / seen, "length": float(change.norm())})
            share = (turn + 1) / self.rounds
            evidence.progress(f"unlearning a change, round {turn + 1} of {self.rounds}", share, loss=log[-1]["loss"])
        return Repaired(model, log={"tune": log})

    def _search(self, model: nn.Module, evidence: Evidence, unit: Tensor, rng: torch.Generator) -> Tensor:
        """One pass uphill from no change at all; the change (1, C, H, W), as long as the bound at most."""
        images, compute = evidence.images, evidence.compute
        change = torch.zeros(1, *images.x.shape[1:], device=compute.torch_device)
        for index in batches(len(images), self.batch, rng):
            d = change.requires_grad_(True)
            with compute.autocast():
                logits = model(compute.images(images.x[index]) + d * unit).float()
            height = F.cross_entropy(logits, images.y[index].to(logits.device)) - self.penalty * d.square().sum()
            (slope,) = torch.autograd.grad(height, d)
            change = (d + self.inner_lr * slope).detach()
        return change * min(1.0, self.bound / max(float(change.norm()), 1e-12))
