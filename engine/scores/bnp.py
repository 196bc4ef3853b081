"""BNP of "Pre-activation Distributions Expose Backdoor Neurons". Zheng, Tang, Li, Liu, NeurIPS 2022.

https://openreview.net/forum?id=wwW-1k1ljIg

A normalisation remembers mean and variance of all that it read during training, poisoned images included. On clean
images alone most channels see the same distribution again; a backdoor channel does not, because what filled its
memory was the trigger. Cut the channels whose two distributions, taken as Gaussian, differ most in their layer.

    D(u)     = log(s_r / s_c) + (s_c^2 + (m_c - m_r)^2) / (2 s_r^2) - 1/2      KL(clean || remembered)
               m_c, s_c: on the clean images;   m_r, s_r: the running statistics;   eps is added to both variances
    score(u) = (D(u) - mean of the layer) / standard deviation of the layer;   the official code cuts above 3

It sees nothing where the statistics hold no poison: after fine-tuning, or where weights were changed by hand.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from engine.compute import BATCH
from engine.explain.activations import evaluating
from engine.models.neurons import unit_modules, units
from engine.scores.base import Evidence, Score, Scores
from engine.scores.clp import standing_out


class BNP(Score):
    """How far a channel's clean inputs are from what its normalisation remembers, against the rest of its layer."""

    title: ClassVar[str] = "Batch-norm statistics (BNP)"
    paper: ClassVar[str] = "https://openreview.net/forum?id=wwW-1k1ljIg"
    native_rule: ClassVar[str] = "at least 3 standard deviations above the layer's mean (the official code's u)"
    needs: ClassVar[tuple[str, ...]] = ("images",)

    def run(self, model: nn.Module, evidence: Evidence) -> Scores:
        norms = [m for m in unit_modules(model) if isinstance(m, nn.BatchNorm2d) and m.track_running_stats]
        if not norms:
            raise ValueError(f"expected a network that normalises by running statistics for {self.title}, got none")
        clean = input_statistics(model, norms, evidence)
        values = torch.full((len(units(model)),), torch.nan)
        for layer, module in zip(units(model).layers, unit_modules(model), strict=True):
            if module in clean:
                assert isinstance(module, nn.BatchNorm2d)
                values[layer.span] = standing_out(divergence(*clean[module], module)).float().cpu()
        return Scores(values, native=3.0)


def divergence(mean: Tensor, variance: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """KL divergence of the Gaussians given by clean statistics (size,) from those that ``norm`` remembers."""
    assert norm.running_mean is not None and norm.running_var is not None
    ours, theirs = variance + norm.eps, norm.running_var.double() + norm.eps
    return 0.5 * (theirs / ours).log() + (ours + (mean - norm.running_mean).square()) / (2 * theirs) - 0.5


@torch.inference_mode()
def input_statistics(
    model: nn.Module, norms: list[nn.BatchNorm2d], evidence: Evidence
) -> dict[nn.Module, tuple[Tensor, Tensor]]:
    """Mean and variance (size,) float64 of what each normalisation reads on the clean images, in evaluation mode."""
    sums: dict[nn.Module, tuple[int, Tensor, Tensor]] = {}
    # Less what is remembered: from sums of squares of large numbers the variance would be lost.
    known: dict[nn.Module, Tensor] = {m: m.running_mean.double() for m in norms if m.running_mean is not None}

    def see(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].double() - known[norm][:, None, None]
        n, first, second = sums.get(norm, (0, torch.zeros(()), torch.zeros(())))
        sums[norm] = n + x[:, 0].numel(), x.sum((0, 2, 3)) + first, x.square().sum((0, 2, 3)) + second

    hooks = [norm.register_forward_pre_hook(see) for norm in norms]
    try:
        with evaluating(model), evidence.compute.autocast():
            for part in evidence.images.x.split(BATCH):
                model(evidence.compute.images(part))
    finally:
        for hook in hooks:
            hook.remove()
    found = {}
    for norm, (n, first, second) in sums.items():
        variance = (second - first.square() / n) / max(1, n - 1)
        found[norm] = first / n + known[norm], variance.clamp_min(0)
    return found
