"""Many cuts of one network in one forward pass: each picture of a batch is seen under a cut of its own.

A cut unit puts out the same number wherever it is: its bias where a normalisation keeps it (mode ``scale``), else 0. So
a batch in which that number is written over the cut units' outputs gives what as many models would, cut by
:func:`engine.models.masking.masked`.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn

from engine.compute import BATCH, Compute
from engine.explain.activations import evaluating
from engine.models.masking import Mode
from engine.models.neurons import Layer, unit_modules, units


@torch.inference_mode()
def logits_each(model: nn.Module, x: Tensor, cuts: Tensor, mode: Mode, compute: Compute, batch: int = BATCH) -> Tensor:
    """What a model says of picture n with the units of row n cut.

    Args:
        model: the classifier, left as it was.
        x: images (N, C, H, W), uint8 or float in [0, 1].
        cuts: bool (N, U) in the order of all units.

    Returns:
        Outputs (N, classes), float32 on the CPU.

    Raises:
        ValueError: if there is not one cut over all units for each picture.
    """
    found = units(model)
    if cuts.dtype != torch.bool or tuple(cuts.shape) != (len(x), len(found)):
        raise ValueError(
            f"expected a bool cut over {len(found):,} units for each of {len(x)} pictures, "
            f"got {cuts.dtype} {tuple(cuts.shape)}"
        )
    rows = []
    for pictures, part in zip(x.split(batch), cuts.split(batch), strict=True):
        with contextlib.ExitStack() as hooks, evaluating(model), compute.autocast():
            for layer, module in zip(found.layers, unit_modules(model), strict=True):
                if part[:, layer.span].any():
                    handle = module.register_forward_hook(_cutting(layer, part[:, layer.span], mode))
                    hooks.callback(handle.remove)
            rows.append(model(compute.images(pictures)).float().cpu())
    return torch.cat(rows)


def _cutting(layer: Layer, cut: Tensor, mode: Mode):  # type: ignore[no-untyped-def]
    """A forward hook that writes over the outputs of cut units; ``cut`` is bool (N, size)."""

    def hook(module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        first = output.ndim - 1 if layer.kind == "linear" else 1
        shape = [len(cut) if axis == 0 else layer.size if axis == first else 1 for axis in range(output.ndim)]
        left = torch.zeros(layer.size)
        if mode == "scale" and layer.kind == "norm" and isinstance(module.bias, Tensor):
            left = module.bias.detach()
        left = left.to(output).view([layer.size if axis == first else 1 for axis in range(output.ndim)])
        return torch.where(cut.to(output.device).view(shape), left, output)

    return hook
