"""Faster exact evaluation of many cuts: what comes before the first unit that any of them touches is computed once.

A network that names its ``stages``, whose composition is its forward pass, is split in front of the stage that holds
that unit; what the stages before it say of the images is kept. The others run with the same numbers in the same batches
as before, so the answers have the same bits as a whole pass. Networks without stages run whole.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.compute import Compute
from engine.explain.activations import evaluating
from engine.metrics import Answers, TestSet, judged
from engine.models.fused import stages, through
from engine.models.neurons import unit_modules, units

#: Bytes kept at most for one set of images; a larger one is not worth its memory and runs whole.
MOST = 1 << 30


class Fold:
    """The logits of a model on the same images, under cuts of units from ``first`` on.

    Args:
        first: index of a unit; none before it is cut while :meth:`logits` is asked.
        x: images (N, C, H, W), uint8 or float in [0, 1].
    """

    def __init__(self, model: nn.Module, first: int, x: Tensor, compute: Compute) -> None:
        self._model, self._compute = model, compute
        self._at, self._parts = upstream(model, first, x, compute)

    @property
    def nbytes(self) -> int:
        """Bytes that are kept beside the images."""
        return sum(part.nbytes for part in self._parts) if self._at else 0

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """Outputs (N, classes) as float32 on the CPU, in evaluation mode, of the model as it is now."""
        see = self._compute.images
        with evaluating(self._model), self._compute.autocast():
            rest = self._compute.stages(self._model)[self._at :]
            parts = [through(rest, part if self._at else see(part)).float().cpu() for part in self._parts]
        return torch.cat(parts)


class FoldedTest:
    """What :func:`engine.metrics.answers` says of a test set, again and again under cuts of units from ``first`` on."""

    def __init__(self, model: nn.Module, first: int, test: TestSet, compute: Compute) -> None:
        self._test = test
        self._clean = Fold(model, first, test.clean.x, compute)
        self._triggered = None if test.triggered is None else Fold(model, first, test.triggered, compute)

    def answers(self) -> Answers:
        return judged(self._test, self._clean.logits(), None if self._triggered is None else self._triggered.logits())


@torch.inference_mode()
def upstream(model: nn.Module, first: int, x: Tensor, compute: Compute) -> tuple[int, list[Tensor]]:
    """What a model, in evaluation mode, says of images before its first stage that holds a unit from ``first`` on.

    Returns:
        The number of stages before, 0 where they are not worth their memory, and what they say of each slice of the
        images: the slices themselves for 0.
    """
    with evaluating(model), compute.autocast():
        at, run = _touched(model, first, compute.images(x[:1])), compute.stages(model)
        if at and through(run[:at], compute.images(x[:1])).nbytes * len(x) > MOST:
            at = 0
        return at, [through(run[:at], compute.images(part)) if at else part for part in x.split(compute.batch)]


def _touched(model: nn.Module, first: int, example: Tensor) -> int:
    """How many of the model's stages come before the one that holds unit ``first``."""
    later = [
        module
        for layer, module in zip(units(model).layers, unit_modules(model), strict=True)
        if layer.offset + layer.size > first
    ]
    touched: list[nn.Module] = []
    hooks = [module.register_forward_pre_hook(lambda module, _: touched.append(module)) for module in later]
    try:
        x, at = example, 0
        for at, stage in enumerate(stages(model)):
            x = stage(x)
            if touched:
                return at
        return at + 1
    finally:
        for hook in hooks:
            hook.remove()
