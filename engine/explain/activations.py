"""What units put out: their mean on each image, and how much a trigger changes it.

A unit's output is what its module gives, before any activation function: a channel (N, H, W) of a normalisation or
a convolution, a number per image of a linear layer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from engine.compute import BATCH, Compute
from engine.models.neurons import Layer, unit_modules, units


def channels(output: Tensor, layer: Layer) -> Tensor:
    """A layer's output as (N, size, positions): channels come second in images, last in linear layers."""
    if layer.kind == "linear":
        return output.flatten(1, -2).transpose(1, 2) if output.ndim > 2 else output.unsqueeze(2)
    return output.flatten(2)


@contextlib.contextmanager
def watching(model: nn.Module, see: Callable[[Layer, Tensor], None], only: Layer | None = None) -> Iterator[None]:
    """Call ``see`` with each layer of units (or ``only`` one) and its output whenever the model runs in the block.

    The output may be overwritten by the next module: whoever needs it later takes a copy. No hook stays behind.
    """
    hooks = []
    try:
        for layer, module in zip(units(model).layers, unit_modules(model), strict=True):
            if only is None or layer == only:
                hooks.append(module.register_forward_hook(lambda _m, _x, out, layer=layer: see(layer, out)))
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode; afterwards each module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, mode in modes:
            module.training = mode


@torch.inference_mode()
def mean_outputs(model: nn.Module, x: Tensor, compute: Compute, batch: int = BATCH, *, rectify: bool = False) -> Tensor:
    """Mean output of every unit on every image, over the positions.

    Args:
        model: the classifier, left as it was.
        x: images (N, C, H, W), uint8 or float in [0, 1].
        rectify: count what is below 0 as 0, as the activation function behind the unit does.

    Returns:
        float32 (N, U) on the CPU, in the order of all units.
    """
    seen: dict[str, Tensor] = {}

    def see(layer: Layer, output: Tensor) -> None:
        out = channels(output, layer).float()
        seen[layer.name] = (out.relu() if rectify else out).mean(2).cpu()

    rows = []
    with evaluating(model), compute.autocast(), watching(model, see):
        for part in x.split(batch):
            model(compute.images(part))
            rows.append(torch.cat([seen[layer.name] for layer in units(model).layers], dim=1))
    return torch.cat(rows)


@torch.inference_mode()
def spread(model: nn.Module, x: Tensor, compute: Compute, batch: int = BATCH) -> Tensor:
    """Standard deviation of each unit's output over all positions of all images.

    Args:
        x: images (N, C, H, W), uint8 or float in [0, 1].

    Returns:
        float32 (U,) on the CPU, at least 0.
    """
    found: dict[str, tuple[Tensor, Tensor, int]] = {}

    def see(layer: Layer, output: Tensor) -> None:
        out = channels(output, layer).double()
        one, two, n = found.get(layer.name, (out.new_zeros(()), out.new_zeros(()), 0))
        found[layer.name] = one + out.sum((0, 2)), two + out.square().sum((0, 2)), n + len(out) * out.shape[2]

    with evaluating(model), compute.autocast(), watching(model, see):
        for part in x.split(batch):
            model(compute.images(part))
    parts = [found[layer.name] for layer in units(model).layers]
    return torch.cat([(two / n - (one / n).square()).clamp_min(0).sqrt() for one, two, n in parts]).float().cpu()


@torch.inference_mode()
def activation_change(
    model: nn.Module, clean: Tensor, triggered: Tensor, compute: Compute, batch: int = BATCH
) -> Tensor:
    """Trigger-activated change: how far a trigger moves each unit's output.

    Zheng et al., "Data-free Backdoor Removal based on Channel Lipschitzness", ECCV 2022,
    https://arxiv.org/abs/2208.03111: TAC_k = mean over images of || f_k(x) - f_k(x with the trigger) ||_2, where
    f_k(x) is the feature map of channel k.

    Args:
        clean: images (N, C, H, W), uint8 or float in [0, 1].
        triggered: the same images with the trigger, of the same shape.

    Returns:
        float32 (U,) on the CPU, at least 0.

    Raises:
        ValueError: if the two do not have the same shape, or hold no image.
    """
    if clean.shape != triggered.shape or not len(clean):
        raise ValueError(
            f"expected as many triggered images as clean ones, got {tuple(triggered.shape)} for {tuple(clean.shape)}"
        )
    total: dict[str, Tensor] = {}

    def see(layer: Layer, output: Tensor) -> None:
        without, with_trigger = channels(output, layer).double().chunk(2)
        change = (with_trigger - without).norm(dim=2).sum(0).cpu()
        total[layer.name] = total.get(layer.name, torch.zeros(())) + change

    with evaluating(model), compute.autocast(), watching(model, see):
        # Both copies go through together, so that no feature map has to be kept.
        for a, b in zip(clean.split(batch // 2), triggered.split(batch // 2), strict=True):
            model(torch.cat([compute.images(a), compute.images(b)]))
    return (torch.cat([total[layer.name] for layer in units(model).layers]) / len(clean)).float()
