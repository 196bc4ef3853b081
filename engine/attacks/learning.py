"""What attacks share that work their trigger out on a clean model, or with a network of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

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


def picture(state: Mapping[str, Tensor], key: str, x: Tensor) -> Tensor:
    """The part of a trigger's state that is a picture (C, H, W), on the device and of the type of the images ``x``.

    Raises:
        ValueError: in one line, before the trigger was learned, or for images of another shape.
    """
    if key not in state:
        raise ValueError(f"expected a trigger that was learned, got one without its {key}")
    if state[key].shape != x.shape[1:]:
        expected, got = ("x".join(map(str, shape)) for shape in (state[key].shape, x.shape[1:]))
        raise ValueError(f"expected images of {expected}, on which the trigger was learned, got {got}")
    return state[key].to(x)


def gaussian(side: int, sigma: float) -> Tensor:
    """The matrix (side, side) that blurs the columns of a picture: weights exp(-d^2 / 2 sigma^2), of sum 1 a row.

    Next to a border only what is inside counts. ``gaussian(H, s) @ x @ gaussian(W, s).T`` blurs pictures (..., H, W).
    """
    places = torch.arange(side, dtype=torch.float32)
    weights = (-((places[:, None] - places[None, :]) ** 2) / (2 * sigma**2)).exp()
    return weights / weights.sum(1, keepdim=True)
