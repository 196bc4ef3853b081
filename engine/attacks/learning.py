"""What attacks share that work their trigger out on a clean model, or with a network of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode and without gradients of its own; both are as before afterwards."""
    was_training, parameters = model.training, [p for p in model.parameters() if p.requires_grad]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        model.train(was_training)
        for parameter in parameters:
            parameter.requires_grad_(True)


def last_linear(model: nn.Module) -> nn.Linear:
    """The layer that gives the answers.

    Raises:
        ValueError: if the network has no linear layer.
    """
    found = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not found:
        raise ValueError(f"expected a network with a linear layer, got {type(model).__name__} without one")
    return found[-1]


@contextlib.contextmanager
def inputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What comes into a layer, one tensor for each time that the model is called."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        yield seen
    finally:
        hook.remove()


def features(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The inputs of the last linear layer (N, D) and the logits (N, classes), float32, for images (N, C, H, W).

    In a ResNet those inputs are the channels of its last stage, averaged.
    """
    with inputs_of(last_linear(model)) as seen:
        logits = model(x).float()
    return seen[-1].flatten(1).float(), logits


def picture(state: Mapping[str, Tensor], key: str, x: Tensor) -> Tensor:
    """The part of a trigger's state that is a picture (C, H, W), on the device and of the type of the images ``x``.

    Raises:
        ValueError: in one line, before the trigger was learned, or for images of another shape.
    """
    if key not in state:
        raise ValueError(f"expected a trigger that was learned, got one without its {key}")
    goes_with(x, state[key].shape, "on which the trigger was learned")
    return state[key].to(x)


def goes_with(x: Tensor, shape: Iterable[int], why: str) -> None:
    """Refuse, in one line, images ``x`` (N, C, H, W) that are not of the ``shape`` (C, H, W) that a trigger is for."""
    if tuple(x.shape[1:]) != tuple(shape):
        expected, got = ("x".join(map(str, one)) for one in (shape, x.shape[1:]))
        raise ValueError(f"expected images of {expected}, {why}, got {got}")


def gaussian(side: int, sigma: float) -> Tensor:
    """The matrix (side, side) that blurs the columns of a picture: weights exp(-d^2 / 2 sigma^2), of sum 1 a row.

    Next to a border only what is inside counts. ``gaussian(H, s) @ x @ gaussian(W, s).T`` blurs pictures (..., H, W).
    """
    places = torch.arange(side, dtype=torch.float32)
    weights = (-((places[:, None] - places[None, :]) ** 2) / (2 * sigma**2)).exp()
    return weights / weights.sum(1, keepdim=True)
