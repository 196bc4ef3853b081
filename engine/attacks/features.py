"""What the last linear layer of a classifier sees: in a ResNet the channels of its last stage, averaged."""

from __future__ import annotations

from torch import Tensor, nn


def last_layer(model: nn.Module) -> nn.Linear:
    """The linear layer that makes the logits.

    Raises:
        ValueError: for a network without one.
    """
    found = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not found:
        raise ValueError("expected a network that ends in a linear layer, got one without")
    return found[-1]


def features(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The inputs of the last layer (N, D) and the logits (N, classes), float32, for images (N, C, H, W) in [0, 1]."""
    seen: list[Tensor] = []
    hook = last_layer(model).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        logits = model(x).float()
    finally:
        hook.remove()
    return seen[-1].flatten(1).float(), logits
