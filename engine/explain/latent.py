"""Where pictures lie in a network's own space: its features, and the plane of the first two principal components.

A backdoored network keeps a cluster for each class; triggered pictures of all classes lie in or beside that of the
target. Activation clustering (Chen et al., "Detecting Backdoor Attacks on Deep Neural Networks by Activation
Clustering", SafeAI 2019, https://arxiv.org/abs/1811.03728) and spectral signatures look at the same space.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.attacks.learning import inputs_of, last_linear
from engine.compute import BATCH, Compute
from engine.explain.activations import channels, evaluating, watching
from engine.models.neurons import Layer, units


def layer_named(model: nn.Module, name: str) -> Layer:
    """A layer of units by its name.

    Raises:
        ValueError: in one line, if the network has none of this name.
    """
    found = {layer.name: layer for layer in units(model).layers}
    if name not in found:
        raise ValueError(f"expected a layer of this network, such as {next(reversed(found))!r}, got {name!r}")
    return found[name]


@torch.inference_mode()
def features(
    model: nn.Module, x: Tensor, compute: Compute, layer: str | None = None, batch: int = BATCH
) -> tuple[Tensor, Tensor]:
    """What the network makes of pictures, and what it answers.

    Args:
        model: the classifier, left as it was.
        x: images (N, C, H, W), uint8 or float in [0, 1].
        layer: a layer of units, whose outputs are averaged over the positions; without it the inputs of the last
            linear layer are taken, in a ResNet the channels of its last stage.

    Returns:
        float32 (N, D) and the class numbers int64 (N,), both on the CPU.

    Raises:
        ValueError: for a name that is no layer, or a network without a linear layer.
    """
    only = None if layer is None else layer_named(model, layer)
    pooled: list[Tensor] = []
    rows, said = [], []

    def see(layer: Layer, output: Tensor) -> None:
        pooled.append(channels(output, layer).float().mean(2))

    with evaluating(model), compute.autocast():
        watch = inputs_of(last_linear(model)) if only is None else watching(model, see, only=only)
        with watch as last:
            seen = pooled if last is None else last
            for part in x.split(batch):
                said.append(model(compute.images(part)).float().argmax(1).cpu())
                rows.append(seen[-1].flatten(1).float().cpu())
                seen.clear()
    return torch.cat(rows), torch.cat(said)


@dataclass(frozen=True)
class Basis:
    """A plane in feature space: ``mean`` (D,), orthonormal ``axes`` (D, 2), the ``shares`` (2,) of variance, 0..1."""

    mean: Tensor
    axes: Tensor
    shares: Tensor

    def project(self, x: Tensor) -> Tensor:
        """Features (N, D) as places (N, 2)."""
        return (x.to(self.mean) - self.mean) @ self.axes


def pca(x: Tensor) -> Basis:
    """The plane through features (N, D) that keeps most of their variance, float64.

    By an exact singular value decomposition, with the sign of each axis such that its largest entry is positive, so
    that the same features give the same picture. A direction without variance is an axis of zeros.

    Raises:
        ValueError: for fewer than two rows.
    """
    if len(x) < 2:
        raise ValueError(f"expected at least two pictures to fit a plane to, got {len(x)}")
    x = x.double()
    mean = x.mean(0)
    _, spread, directions = torch.linalg.svd(x - mean, full_matrices=False)
    kept, axes = min(2, len(spread)), x.new_zeros(x.shape[1], 2)
    axes[:, :kept] = directions[:kept].T
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    axes = axes * torch.where(largest < 0, -1.0, 1.0)
    power, shares = spread.square(), x.new_zeros(2)
    total = float(power.sum())
    if total > 0 and math.isfinite(total):
        shares[:kept] = power[:kept] / total
    return Basis(mean, axes * (shares > 1e-12), shares)


def nearest(x: Tensor, clean: Tensor, truth: Tensor) -> Tensor:
    """The class whose clean centre is nearest to each row of features.

    Args:
        x: features (N, D).
        clean: features (M, D) of clean pictures with the classes ``truth`` int64 (M,).

    Returns:
        int64 (N,): class numbers, only of classes that ``truth`` has.
    """
    present = truth.unique()
    centres = torch.stack([clean[truth == k].double().mean(0) for k in present])
    return present[torch.cdist(x.double(), centres).argmin(1)]
