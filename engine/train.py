"""One training loop: SGD with momentum, one-cycle learning rate, cross-entropy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.compute import Compute
from engine.data.base import Images
from engine.spec import Spec, param

Progress = Callable[[str, float], None]
"""Called with what is being done, and how much of it is done (0..1)."""


def silent(_what: str, _share: float) -> None:
    """The progress callback that reports nothing."""


class Training(Spec):
    """How a model is trained."""

    epochs: int = param(4, label="Epochs", help="Passes over the training set.", ge=1, le=1000, step=1)
    lr: float = param(0.1, label="Peak learning rate", help="Highest rate of the one-cycle schedule.", gt=0, le=10)
    momentum: float = param(0.9, label="Momentum", help="SGD momentum.", ge=0, lt=1)
    weight_decay: float = param(5e-4, label="Weight decay", help="SGD weight decay.", ge=0, le=1)
    batch: int = param(128, label="Batch size", help="Images per step.", ge=2, le=4096, step=1)
    augment: bool = param(False, label="Augment", help="Random shift by up to 4 pixels and horizontal flip.")


def batches(n: int, size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Indices of one shuffled pass. A last batch of one image is left out: BatchNorm cannot train on it."""
    for index in torch.randperm(n, generator=rng).split(size):
        if len(index) > 1 or n == 1:
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


def train(
    model: nn.Module,
    images: Images,
    spec: Training,
    rng: torch.Generator,
    compute: Compute,
    progress: Progress = silent,
) -> list[dict[str, float]]:
    """Train ``model`` in place; returns loss and accuracy of each epoch (running, in training mode)."""
    compute.model(model).train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay, nesterov=True
    )
    steps = spec.epochs * sum(1 for _ in batches(len(images), spec.batch, torch.Generator()))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, spec.lr, total_steps=steps, pct_start=0.25)
    history, done = [], 0
    for epoch in range(spec.epochs):
        loss_sum = right = seen = 0.0
        for index in batches(len(images), spec.batch, rng):
            x, y = compute.images(images.x[index]), images.y[index].to(compute.torch_device)
            if spec.augment:
                x = shift_and_flip(x, rng)
            with compute.autocast():
                logits = model(x).float()
            loss = F.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            loss_sum += float(loss.detach()) * len(index)
            right += int((logits.detach().argmax(1) == y).sum())
            seen += len(index)
            done += 1
            if done % 10 == 0 or done == steps:
                progress(f"epoch {epoch + 1} of {spec.epochs}, loss {loss_sum / seen:.3f}", done / steps)
        history.append({"loss": loss_sum / seen, "acc": right / seen})
    return history
