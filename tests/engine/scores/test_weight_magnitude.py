"""Weight magnitude: the shortest filter comes first, whatever the layer's scale."""

from __future__ import annotations

import copy

import pytest
import torch

from engine.compute import Compute
from engine.scores import Evidence
from engine.scores.weight_magnitude import WeightMagnitude
from tests.tiny import Planted, TinyNet


def test_minus_the_l1_norm_in_units_of_the_layers_mean(planted: Planted, compute: Compute) -> None:
    model = copy.deepcopy(planted.model)
    net = model.net
    assert isinstance(net, TinyNet)
    with torch.no_grad():
        net.conv1.weight.copy_(
            torch.ones(8, 1, 3, 3) * -torch.arange(8.0).reshape(8, 1, 1, 1)
        )  # 9 k each, 31.5 in mean
        net.conv2.weight *= 1000
    evidence = Evidence(planted.data.pool, 0, compute)
    values = WeightMagnitude()(model, evidence).values
    assert values[:8].tolist() == pytest.approx([-9 * k / 31.5 for k in range(8)])
    assert int(values.argmax()) == 0
    torch.testing.assert_close(values[8:], WeightMagnitude()(planted.model, evidence).values[8:])
