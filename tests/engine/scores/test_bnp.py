"""BNP: the divergence of known Gaussians, and a memory that holds poison."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from engine.compute import Compute, generator
from engine.models.base import Classifier
from engine.scores import Evidence
from engine.scores.bnp import BNP, divergence, input_statistics
from tests.tiny import Planted, TinyNet


def test_divergence_of_known_gaussians() -> None:
    norm = nn.BatchNorm2d(2, eps=0.0)  # remembers mean 0 and variance 1
    mean, variance = torch.tensor([0.0, 1.0]).double(), torch.tensor([1.0, 4.0]).double()
    assert divergence(mean, variance, norm).tolist() == pytest.approx([0, -math.log(2) + (4 + 1) / 2 - 0.5])


def test_statistics_are_those_of_all_inputs_together(planted: Planted, compute: Compute) -> None:
    net = planted.model.net
    assert isinstance(net, TinyNet)
    evidence = Evidence(planted.data.test[:300], 0, compute)  # more than one batch
    found = input_statistics(planted.model, [net.bn1, net.bn2], evidence)
    with torch.no_grad():
        x = net.conv1(planted.model.normalize(compute.images(evidence.images.x)))
        inputs: dict[nn.Module, Tensor] = {net.bn1: x, net.bn2: net.conv2(torch.relu(net.bn1(x)))}
    for norm, x in inputs.items():
        for ours, slow in zip(found[norm], (x.mean((0, 2, 3)), x.var((0, 2, 3))), strict=True):
            torch.testing.assert_close(ours.float(), slow, rtol=1e-4, atol=1e-5)


def trained_on(planted: Planted, x: Tensor) -> Classifier:
    """The planted network, its normalisations remembering ``x``."""
    model = copy.deepcopy(planted.model)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:  # one after the other, as each changes what the next reads
        norm.momentum = 1.0
        norm.train()
        with torch.no_grad():
            model(x)
        norm.eval()
    return model


def test_a_memory_of_poison_gives_the_planted_unit_away(planted: Planted, compute: Compute) -> None:
    evidence = Evidence(planted.data.pool, 0, compute)
    clean = planted.data.train
    poisoned = planted.attack.bound(4).poison(clean, generator(0, "poison")).images
    scores = BNP()(trained_on(planted, compute.images(poisoned.x)), evidence)
    assert int(scores.values.argmax()) == planted.unit
    assert not scores.oracle
    second = scores.values.topk(2).values[1]
    assert float(scores.values[planted.unit]) > 1.5 * float(second)
    # Not because the unit is odd: where only clean images are remembered it is like its neighbours.
    honest = BNP()(trained_on(planted, compute.images(clean.x)), evidence).values
    assert float(honest[planted.unit]) < 1


def test_a_network_without_normalisation_is_refused(planted: Planted, compute: Compute) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 4))
    with pytest.raises(
        ValueError, match=r"^expected a network that normalises by running statistics for .*, got none$"
    ):
        BNP()(model, Evidence(planted.data.pool, 0, compute))
