"""The loop that repairs share: a few passes over clean images, with what was cut held at zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.data.base import Images
from engine.models.masking import apply_cut
from engine.resume import Schedule, passes
from engine.scores.base import Evidence
from engine.spec import Spec, param
from engine.train import batches, shift_and_flip

Step = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Given images (N, C, H, W), labels (N,) on the device and their numbers (N,), leaves gradients on the model's
parameters (by ``backward``) and returns loss and logits (N, classes)."""


class Tuning(Spec):
    """How a repair descends; the defaults are those of BackdoorBench's fine-tuning.

    The schedule ``drop`` divides the rate by 10 after the first tenth of the epochs. A suspect's running statistics
    were taken with poisoned images among the clean ones; beside those of clean images alone a trigger stands out.
    """

    epochs: int = param(100, label="Epochs", help="Passes over the clean images.", ge=1, le=1000, step=1)
    lr: float = param(0.01, label="Rate", help="Step size at the start.", gt=0, le=10)
    momentum: float = param(0.9, label="Momentum", help="SGD momentum; Adam's first decay.", ge=0, lt=1)
    weight_decay: float = param(5e-4, label="Weight decay", help="Weight decay of the optimizer.", ge=0, le=1)
    batch: int = param(256, label="Batch size", help="Images per step.", ge=2, le=4096, step=1)
    augment: bool = param(True, label="Augment", help="Random shift by up to 4 pixels and horizontal flip.")
    schedule: Literal["cosine", "constant", "drop"] = param(
        "cosine", label="Schedule", help="Of the rate, over all epochs; drop: a tenth of it after a tenth of them."
    )
    optimizer: Literal["sgd", "adam"] = param("sgd", label="Optimizer", help="What takes the steps.")
    statistics: Literal["batch", "kept"] = param(
        "batch",
        label="Statistics",
        help="What batch normalisation divides by while it learns: those of each batch, which then become the model's "
        "own, or kept: the suspect's.",
    )

    def steps(self, parameters: list[nn.Parameter]) -> tuple[torch.optim.Optimizer, Schedule | None]:
        """What moves the parameters, and how its rate changes from epoch to epoch."""
        optimizer: torch.optim.Optimizer
        if self.optimizer == "adam":
            betas = (self.momentum, 0.999)
            optimizer = torch.optim.Adam(parameters, self.lr, betas, weight_decay=self.weight_decay)
        else:
            optimizer = torch.optim.SGD(parameters, self.lr, self.momentum, weight_decay=self.weight_decay)
        if self.schedule == "cosine":
            return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
        if self.schedule == "drop":
            first = max(1, self.epochs // 10)
            return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1.0 if done < first else 0.1)
        return optimizer, None


def tune(
    model: nn.Module,
    evidence: Evidence,
    how: Tuning,
    name: str = "tune",
    *,
    images: Images | None = None,
    step: Step | None = None,
    modules: Mapping[str, nn.Module] | None = None,
    enough: Callable[[list[dict[str, float]]], bool] | None = None,
    after: Callable[[list[dict[str, float]]], dict[str, float]] | None = None,
    share: tuple[float, float] = (0.0, 1.0),
    rng: torch.Generator | None = None,
) -> list[dict[str, float]]:
    """Train ``model`` in place on clean images; returns loss and accuracy of each pass (running, in training mode).

    A tuning that ``evidence.keep`` knows under ``name`` goes on where it was.

    Args:
        images: instead of the defense images.
        step: the gradients of a batch; those of the cross-entropy if not given.
        modules: others that the step changes, to be kept with the model.
        enough: given the rows so far, whether to stop before all epochs are done.
        after: given the rows before, what else a pass's row holds: measured when its last step is done.
        share: which part of the whole work this is, for the progress.
        rng: what the batches are drawn with, where the step draws from it, too: it is kept with the model.
    """
    images, compute = images or evidence.images, evidence.compute
    model.train()
    if how.statistics == "kept":
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer, schedule = how.steps(parameters)
    rng = rng or evidence.rng(name)
    log: list[dict[str, float]] = []

    def plain(x: Tensor, y: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
        with compute.autocast():
            logits = model(x).float()
        loss = F.cross_entropy(logits, y)
        loss.backward()
        return loss, logits

    gradients = step or plain

    def over() -> bool:
        return enough is not None and enough(log)

    whole = {"model": model, **(modules or {})}
    for turn in passes(evidence.keep, name, how.epochs, whole, optimizer, schedule, rng, log, over):
        loss_sum, right, seen = 0.0, 0, 0
        for index in batches(len(images), how.batch, rng):
            x = compute.images(images.x[index])
            if how.augment:
                x = shift_and_flip(x, rng)
            y = images.y[index].to(compute.torch_device)
            optimizer.zero_grad()
            loss, logits = gradients(x, y, index)
            optimizer.step()
            hold(model, evidence)
            loss_sum += float(loss.detach()) * len(y)
            right += int((logits.detach().argmax(1) == y).sum())
            seen += len(y)
        if schedule is not None:
            schedule.step()
        log.append({"loss": loss_sum / seen, "acc": right / seen, **(after(log) if after else {})})
        done = share[0] + (share[1] - share[0]) * (turn + 1) / how.epochs
        evidence.progress(f"{name}, pass {turn + 1} of {how.epochs}", done, loss=log[-1]["loss"])
    return log


def afresh(evidence: Evidence, purpose: str) -> tuple[nn.Module, Evidence]:
    """A new network on the device, its weights drawn for ``purpose``, and the evidence to tune it with.

    The cut is not in it: that is of the suspect's units, and the new network has others.
    """
    assert evidence.fresh is not None
    return evidence.compute.model(evidence.fresh(evidence.rng(purpose))), replace(evidence, cut=None)


def hold(model: nn.Module, evidence: Evidence) -> None:
    """Cut again what was cut before the repair."""
    if evidence.cut is not None:
        apply_cut(model, evidence.cut, evidence.mode)
