"""Where in the picture a unit fires: its feature map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.compute import Compute
from engine.explain.activations import channels, evaluating, watching
from engine.models.neurons import Layer, units


@torch.inference_mode()
def unit_maps(model: nn.Module, unit: int, x: Tensor, compute: Compute | None = None) -> Tensor:
    """The output of one unit on some pictures, in float32.

    Args:
        model: the classifier, left as it was.
        unit: its number in the order of all units.
        x: images (N, C, H, W), uint8 or float in [0, 1].

    Returns:
        float32 (N, h, w) on the CPU, at the layer's own resolution; (N, 1, 1) for a unit of a linear layer.

    Raises:
        ValueError: for a number that is no unit.
    """
    compute = compute or Compute(exact=True)
    layer = units(model).layer_of(unit)
    seen: list[Tensor] = []

    def see(_layer: Layer, output: Tensor) -> None:
        part = channels(output, layer)[:, unit - layer.offset].float().cpu()
        side = output.shape[2:] if output.ndim == 4 else (1, part.shape[1])
        seen.append(part.reshape(len(part), *side).clone())

    with evaluating(model), watching(model, see, only=layer):
        model(compute.images(x))
    return seen[-1]


@torch.inference_mode()
def unit_means(model: nn.Module, unit: int, x: Tensor, compute: Compute) -> Tensor:
    """Mean output of one unit on every image: one column of ``mean_outputs``, float32 (N,) on the CPU."""
    layer = units(model).layer_of(unit)
    seen: list[Tensor] = []

    def see(_layer: Layer, output: Tensor) -> None:
        seen.append(channels(output, layer)[:, unit - layer.offset].float().mean(1).cpu())

    with evaluating(model), compute.autocast(), watching(model, see, only=layer):
        for part in x.split(250):
            model(compute.images(part))
    return torch.cat(seen)


@torch.inference_mode()
def mean_map(model: nn.Module, layer: Layer, x: Tensor, compute: Compute) -> Tensor:
    """The output of a layer, averaged over its units and over pictures (N, C, H, W): float32 (h, w) on the CPU.

    (1, positions) for a linear layer.
    """
    total: list[Tensor] = []

    def see(_layer: Layer, output: Tensor) -> None:
        part = channels(output, layer).float().mean(1).sum(0).cpu()
        side = output.shape[2:] if output.ndim == 4 else (1, len(part))
        part = part.reshape(*side)
        total[:] = [part if not total else total[0] + part]

    with evaluating(model), compute.autocast(), watching(model, see, only=layer):
        for images in x.split(250):
            model(compute.images(images))
    return total[0] / len(x)
