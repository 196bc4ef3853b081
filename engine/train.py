"""One training loop: SGD with momentum, one-cycle learning rate, cross-entropy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from engine.compute import Compute
from engine.data.base import Images
from engine.group import ALONE, Group
from engine.resume import restore, snapshot
from engine.runs.checkpoints import NOTHING, Keep
from engine.spec import Spec, param

if TYPE_CHECKING:
    from engine.attacks.base import Procedure


class Progress(Protocol):
    """Called with what is being done, how much of it is done (0..1), and figures such as step, loss, acc, asr."""

    def __call__(self, what: str, share: float, **figures: float | None) -> None: ...


def silent(what: str, share: float, **figures: float | None) -> None:  # noqa: ARG001
    """The progress callback that reports nothing."""


def stage(progress: Progress, start: float, end: float, name: str = "") -> Progress:
    """The progress of a part: its 0..1 is ``start``..``end`` of the whole; what it does is said after its ``name``."""

    def report(what: str, share: float, **figures: float | None) -> None:
        progress(name + what, start + share * (end - start), **figures)

    return report


class Training(Spec):
    """How a model is trained."""

    epochs: int = param(4, label="Epochs", help="Passes over the training set.", ge=1, le=1000, step=1)
    lr: float = param(0.1, label="Peak learning rate", help="Highest rate of the one-cycle schedule.", gt=0, le=10)
    momentum: float = param(0.9, label="Momentum", help="SGD momentum.", ge=0, lt=1)
    weight_decay: float = param(5e-4, label="Weight decay", help="SGD weight decay.", ge=0, le=1)
    batch: int = param(128, label="Batch size", help="Images per step.", ge=2, le=4096, step=1)
    augment: bool = param(False, label="Augment", help="Random shift by up to 4 pixels and horizontal flip.")
    ema: float | None = param(
        None,
        label="Weight average",
        help="Decay of an exponential moving average of the weights, which becomes the model; none: the last weights.",
        gt=0,
        lt=1,
        tacit=True,
    )
    # Left out of the record where it is 1: the specification, and so the run id, of one process names none.
    nproc: int = param(1, label="Processes", help="Each takes its part of a batch.", ge=1, le=64, step=1, tacit=True)

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.batch < self.nproc:
            raise ValueError(f"expected batch to be at least nproc, {self.nproc}, got {self.batch}")
        return self


def batches(n: int, size: int, rng: torch.Generator, least: int = 2) -> Iterator[Tensor]:
    """Indices of one shuffled pass. A last batch below ``least`` is left out: BatchNorm cannot train on one image."""
    for index in torch.randperm(n, generator=rng).split(size):
        if len(index) >= min(least, n):
            yield index


def shift_and_flip(x: Tensor, rng: torch.Generator, pad: int = 4) -> Tensor:
    """Random crop after zero padding and horizontal flip, drawn per image; (N, C, H, W) -> the same shape."""
    n, _, height, width = x.shape
    padded = F.pad(x, (pad, pad, pad, pad))
    top, left = (torch.randint(0, 2 * pad + 1, (n,), generator=rng).to(x.device) for _ in range(2))
    rows = top[:, None] + torch.arange(height, device=x.device)
    columns = left[:, None] + torch.arange(width, device=x.device)
    flip = (torch.rand(n, generator=rng) < 0.5).to(x.device)
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    image = torch.arange(n, device=x.device)[:, None, None]
    # Advanced indices around a slice come first in the result: (N, H, W, C).
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


Probe = Callable[[nn.Module], dict[str, float | None]]
"""Measures a model between two epochs: ``acc`` and ``asr`` on a few test images, say."""


def train(
    model: nn.Module,
    images: Images,
    spec: Training,
    rng: torch.Generator,
    compute: Compute,
    progress: Progress = silent,
    keep: Keep = NOTHING,
    probe: Probe | None = None,
    group: Group = ALONE,
    procedure: Procedure | None = None,
) -> list[dict[str, float]]:
    """Train ``model`` in place; returns loss and accuracy of each epoch (running, in training mode).

    With a ``procedure`` the attacker decides what is learned from each batch. With a ``group`` all its processes call
    this with the same arguments, and the first one writes to ``keep``. A training that ``keep`` knows goes on where it
    was: on the CPU the result has the same bits as an undisturbed one's.
    """
    compute.model(model).train()
    optimizer = torch.optim.SGD(
        model.parameters(), spec.lr, spec.momentum, weight_decay=spec.weight_decay, nesterov=True, fused=True
    )
    if procedure is not None:
        for module in procedure.modules.values():
            compute.model(module).train()
        procedure.begin(model)
    least = max(2, spec.nproc)
    per_epoch = sum(1 for _ in batches(len(images), spec.batch, torch.Generator(), least))
    steps = spec.epochs * per_epoch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, spec.lr, total_steps=steps, pct_start=0.25)
    at, modules = _Position(), {"model": model}
    optimizers: dict[str, torch.optim.Optimizer] = {"": optimizer}
    average = None
    if spec.ema is not None:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(spec.ema), use_buffers=True)
        modules["average"] = average
    if procedure is not None:
        modules |= procedure.modules
        optimizers |= procedure.optimizers
    # On a GPU the whole set lies there; copying batches takes longer than computing them.
    device = compute.torch_device
    x_all, y_all = images.x.to(device), images.y.to(device)
    if saved := keep.read("train"):
        restore(modules, optimizers, schedule, rng, *saved)
        at = _Position(saved[1]["at"], torch.from_numpy(saved[0]["rng.epoch"].copy()))
    figures: dict[str, float | None] = dict(at.figures)
    whole = group.wrap(model)
    for epoch in range(at.done // per_epoch, spec.epochs):
        # Half-way through an epoch its order is drawn again, and the generator then put where it was.
        skip, now = at.done % per_epoch, rng.get_state()
        if skip:
            rng.set_state(at.epoch_began)
        else:
            at.epoch_began, at.loss_sum, at.right, at.seen = now, 0.0, 0, 0
        order = batches(len(images), spec.batch, rng, least)
        for index in itertools.islice(order, skip, None):
            if skip:
                rng.set_state(now)
                skip = 0
            place = index.to(device)
            x, y = compute.images(x_all[place]), y_all[place]
            if spec.augment:
                x = shift_and_flip(x, rng)
            for one in optimizers.values():
                one.zero_grad()
            if procedure is None:
                x, y = group.part(x), group.part(y)
                with compute.autocast():
                    logits = whole(x).float()
                # The processes' gradients are averaged: parts of other sizes weigh as much as they have images.
                loss = F.cross_entropy(logits, y) * (len(y) * group.size / len(index))
            else:
                with compute.autocast():
                    loss, logits, y = procedure.loss(model, x, y, rng, at.done / steps)
            loss.backward()
            for one in optimizers.values():
                one.step()
            if procedure is not None:
                procedure.stepped(model, (at.done + 1) / steps)
            if average is not None:
                average.update_parameters(model)
            schedule.step()
            lost, right, seen = group.sum(
                float(loss.detach()) / group.size, int((logits.detach().argmax(1) == y).sum()), len(y)
            )
            at.loss_sum += lost * seen
            at.right += int(right)
            at.seen += int(seen)
            at.done += 1
            if at.done % 10 == 0 or at.done == steps:
                mean = at.loss_sum / at.seen
                progress(
                    f"epoch {epoch + 1} of {spec.epochs}, loss {mean:.3f}",
                    at.done / steps,
                    step=at.done,
                    steps=steps,
                    loss=mean,
                    **{"acc": at.right / at.seen, **figures},
                )
            if at.done % per_epoch == 0:
                at.history.append({"loss": at.loss_sum / at.seen, "acc": at.right / at.seen})
                if procedure is not None:
                    procedure.epoch_ended(model, at.done / steps)
                if probe is not None:
                    at.figures = figures = probe(model)
            if group.rank == 0 and (keep.due or (at.done == steps and (keep.worth or group.size > 1))):
                arrays, state = snapshot(modules, optimizers, schedule, rng)
                arrays["rng.epoch"] = at.epoch_began.numpy()
                keep.write("train", arrays, {**state, "at": at.values()})
    if average is not None:
        model.load_state_dict(average.module.state_dict())
    return at.history


class _Position:
    """Where a training is: steps done, sums over the present epoch, and the generator's state when that began."""

    def __init__(self, values: dict[str, Any] | None = None, epoch_began: Tensor | None = None) -> None:
        values = values or {}
        self.done: int = values.get("done", 0)
        self.loss_sum: float = values.get("loss_sum", 0.0)
        self.right: int = values.get("right", 0)
        self.seen: int = values.get("seen", 0)
        self.history: list[dict[str, float]] = values.get("history", [])
        self.figures: dict[str, float | None] = values.get("figures", {})
        self.epoch_began = torch.Generator().get_state() if epoch_began is None else epoch_began

    def values(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "epoch_began"}
