"""Reversible masks: cut units of a network inside a ``with`` block, and only there.

Mode ``scale`` zeroes the normalisation weight and keeps the bias, so a cut channel emits a constant (RNP's
convention). Mode ``silence`` zeroes the unit's output. Without normalisation the two are one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from engine.models.neurons import module_prefix, unit_modules, units

Mode = Literal["scale", "silence"]
MODES: tuple[Mode, ...] = ("scale", "silence")


def _check(model: nn.Module, cut: Tensor, mode: str) -> None:
    n = len(units(model))
    if cut.dtype != torch.bool or tuple(cut.shape) != (n,):
        raise ValueError(f"expected a bool cut over {n:,} units, got {cut.dtype} {tuple(cut.shape)}")
    if mode not in MODES:
        raise ValueError(f"expected mode to be scale or silence, got {mode!r}")


@torch.no_grad()
def apply_cut(model: nn.Module, cut: Tensor, mode: Mode = "scale") -> None:
    """Cut the units for good: zero the weights that :func:`masked` zeroes for a while."""
    _check(model, cut, mode)
    for layer, module in zip(units(model).layers, unit_modules(model), strict=True):
        part = cut[layer.span].to(module.weight.device)  # type: ignore[arg-type]
        if not part.any():
            continue
        module.weight[part] = 0  # type: ignore[operator]
        if module.bias is not None and (mode == "silence" or layer.kind != "norm"):
            module.bias[part] = 0  # type: ignore[operator]


@contextlib.contextmanager
def masked(model: nn.Module, cut: Tensor, mode: Mode = "scale") -> Iterator[nn.Module]:
    """Cut the units of ``cut`` (U,) bool inside the block; afterwards every parameter is bit-equal to before."""
    _check(model, cut, mode)
    saved = []
    for layer, module in zip(units(model).layers, unit_modules(model), strict=True):
        if cut[layer.span].any():
            saved += [(p, p.detach().clone()) for p in (module.weight, module.bias) if isinstance(p, Tensor)]
    try:
        apply_cut(model, cut, mode)
        yield model
    finally:
        with torch.no_grad():
            for parameter, value in saved:
                parameter.copy_(value)


def scaled_weights(model: nn.Module, mask: Tensor, first: int = 0) -> dict[str, Tensor]:
    """Parameters with each unit's weight multiplied by its soft mask (U,), for ``torch.func.functional_call``.

    With ``first``, the first unit of a layer, ``mask`` is (U - first,): earlier layers stay as they are.
    Of a normalisation only the weight is scaled, as in RNP: its bias stays. Without normalisation the bias is scaled
    too, so that a mask of 0 is the cut. Gradients flow to ``mask``.
    """
    prefix, scaled = module_prefix(model), {}
    for layer, module in zip(units(model).layers, unit_modules(model), strict=True):
        if layer.offset < first:
            continue
        weight = module.weight
        assert isinstance(weight, Tensor)
        scales = mask[layer.offset - first : layer.offset - first + layer.size]
        part = scales.reshape(-1, *[1] * (weight.ndim - 1))
        scaled[f"{prefix}{layer.name}.weight"] = weight.detach() * part
        if layer.kind != "norm" and isinstance(module.bias, Tensor):
            scaled[f"{prefix}{layer.name}.bias"] = module.bias.detach() * scales
    return scaled
