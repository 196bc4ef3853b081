"""Mode Connectivity Repair (MCR): Bridging Mode Connectivity in Loss Landscapes. Zhao et al., ICLR 2020.

https://arxiv.org/abs/2005.00060

Between two trained networks there is a path through weight space along which all networks are good on clean images,
if the path is bent a little. Only the bend is learned, from clean images; its ends stay. One end is the suspect, the
other its fine-tuned copy. Clean accuracy is the same all along the path, but the backdoor sits at one end, and a
short way from it is already gone.

    w(t) = (1 - t)^2 w_suspect + 2 t (1 - t) b + t^2 w_tuned        (quadratic Bezier curve with three bends)
    min_b  E_{t ~ U(0, 1)} CE(f_{w(t)}(x), y);        the repaired model is w(0.1)

The running statistics of normalisation layers lie on no such curve: at each t they are estimated again on the clean
images. ``extras`` holds the path: ``path_t``, ``path_acc`` and ``path_loss`` (on the defense images), each (P,).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from engine.compute import BATCH, Compute
from engine.data.base import Images
from engine.repairs.base import Repair, Repaired
from engine.repairs.tuning import Tuning, hold, tune
from engine.scores.base import Evidence
from engine.spec import param

Weights = Mapping[str, Tensor]


def bezier(t: float, start: Weights, bend: Weights, end: Weights) -> dict[str, Tensor]:
    """The point of the curve at ``t`` in [0, 1]; gradients flow to ``bend``."""
    return {
        name: (1 - t) ** 2 * start[name] + 2 * t * (1 - t) * middle + t**2 * end[name] for name, middle in bend.items()
    }


@torch.no_grad()
def estimate_statistics(model: nn.Module, images: Images, compute: Compute) -> None:
    """Set the running statistics of ``model`` to the means over the batches of one pass."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [m.momentum for m in norms]
    for module in norms:
        module.reset_running_stats()
        module.momentum = None  # torch's word for a plain mean
    model.train()
    for part in images.x.split(BATCH):
        if len(part) > 1 or len(images) == 1:
            with compute.autocast():
                model(compute.images(part))
    for module, momentum in zip(norms, before, strict=True):
        module.momentum = momentum
    model.eval()


class MCR(Tuning, Repair):
    """The network a short way along a learned path from the suspect to its fine-tuned copy."""

    title: ClassVar[str] = "MCR"
    paper: ClassVar[str] = "https://arxiv.org/abs/2005.00060"

    lr: float = param(3e-5, label="Rate", help="Step size of the bend at the start.", gt=0, le=10)
    tuned_epochs: int = param(100, label="Epochs of the copy", help="Passes that fine-tune it.", ge=1, le=1000, step=1)
    tuned_lr: float = param(0.01, label="Rate of the copy", help="Step size of its fine-tuning.", gt=0, le=10)
    t: float = param(0.1, label="t", help="Which point of the path is taken; 0: the suspect.", ge=0, le=1, step=0.05)
    points: int = param(11, label="Points", help="Of the path, to be looked at.", ge=2, le=101, step=1)

    def run(self, model: nn.Module, evidence: Evidence) -> Repaired:
        hold(model, evidence)
        other, bend = copy.deepcopy(model), copy.deepcopy(model)
        how = self.model_copy(update={"epochs": self.tuned_epochs, "lr": self.tuned_lr})
        half = 0.9 * self.tuned_epochs / (self.tuned_epochs + self.epochs)
        tuned = tune(other, evidence, how, "endpoint", share=(0, half))
        start, end = ({k: p.detach().clone() for k, p in m.named_parameters()} for m in (model, other))
        with torch.no_grad():
            for name, middle in bend.named_parameters():
                middle.copy_((start[name] + end[name]) / 2)
        rng = evidence.rng("bend")

        def step(x: Tensor, y: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
            t = float(torch.rand((), generator=rng))
            weights = bezier(t, start, dict(bend.named_parameters()), end)
            with evidence.compute.autocast():
                logits = functional_call(bend, weights, (x,)).float()
            loss = F.cross_entropy(logits, y)
            loss.backward()
            return loss, logits

        bent = tune(bend, evidence, self, "bend", step=step, share=(half, 0.9), rng=rng)

        @torch.no_grad()
        def walk(t: float) -> None:
            """Put ``model`` at the point ``t`` of the path."""
            for name, value in bezier(t, start, dict(bend.named_parameters()), end).items():
                model.get_parameter(name).copy_(value)
            estimate_statistics(model, evidence.images, evidence.compute)

        path = np.linspace(0, 1, self.points, dtype=np.float32)
        seen = []
        for k, t in enumerate(path):
            walk(float(t))
            logits = evidence.compute.logits(model, evidence.images.x)
            right = (logits.argmax(1) == evidence.images.y).float().mean()
            seen.append((float(right), float(F.cross_entropy(logits, evidence.images.y))))
            evidence.progress(f"looking at t = {t:.2f} of the path", 0.9 + 0.1 * (k + 1) / len(path))
        walk(self.t)
        acc, loss = np.asarray(seen, np.float32).T.copy()
        extras = {"path_t": path, "path_acc": acc, "path_loss": loss}
        return Repaired(model, log={"endpoint": tuned, "tune": bent}, extras=extras)
