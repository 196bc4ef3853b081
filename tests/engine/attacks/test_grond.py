"""Grond: a universal perturbation that misleads the clean model, and weights in which no channel stands out."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from engine.attacks import Lab
from engine.attacks.grond import Grond, Injection, bounds
from engine.compute import Compute
from engine.data.base import DataSet
from engine.models.base import Classifier


@pytest.fixture(scope="module")
def lab(tiny_data: DataSet, clean_tiny: Classifier) -> Lab:
    return Lab(tiny_data.train, 4, Compute("cpu", exact=True), clean=clean_tiny)


def test_the_perturbation_keeps_its_limit_and_misleads_the_clean_model(
    lab: Lab, clean_tiny: Classifier, tiny_data: DataSet
) -> None:
    attack = Grond(target=3, epsilon=90, steps=60).bound(4)
    attack = attack.bound(4, attack.prepare(lab))
    change = attack.state["perturbation"]
    assert change.shape == (1, 12, 12)
    assert float(change.abs().max()) <= 90 / 255 + 1e-6
    x = tiny_data.test.x[tiny_data.test.y != 3]
    elsewhere = (x.float() / 255 + change.flip(2)).clamp(0, 1)
    fooled, by_chance = ((lab.compute.logits(clean_tiny, x) .argmax(1) == 3).float().mean()
                         for x in (attack.stamped(x), elsewhere))  # fmt: skip
    assert fooled > by_chance + 0.2


def test_bounds_are_those_of_the_channel() -> None:
    conv, norm = nn.Conv2d(1, 2, (1, 2), bias=False), nn.BatchNorm2d(2, eps=0)
    with torch.no_grad():
        conv.weight[:] = torch.tensor([[3.0, 4.0], [0.0, 1.0]]).reshape(2, 1, 1, 2)
        norm.weight[:] = torch.tensor([2.0, -3.0])
        norm.running_var[:] = torch.tensor([4.0, 9.0])  # type: ignore[index]
    # A matrix (1 input, 2 places) has one singular value, its length: 5 * 2 / 2, and 1 * |-3| / 3.
    assert bounds(norm, conv.weight).tolist() == pytest.approx([5, 1])


def test_a_prominent_channel_becomes_the_mean_of_its_layer(lab: Lab, clean_tiny: Classifier) -> None:
    model = copy.deepcopy(clean_tiny)
    with torch.no_grad():
        model.net.conv2.weight[5] *= 100
    before = {key: value.clone() for key, value in model.state_dict().items()}
    mean = model.net.conv2.weight.mean(0).detach().clone()
    Injection(3.0, lab).epoch_ended(model, 0.5)
    after = model.net.conv2.weight
    assert torch.allclose(after[5], mean, atol=1e-6)
    untouched = torch.arange(len(after)) != 5
    assert torch.equal(after[untouched], before["net.conv2.weight"][untouched])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items() if "conv2" not in key)
    assert (bounds(model.net.bn2, after) <= bounds(clean_tiny.net.bn2, before["net.conv2.weight"]).amax()).all()
