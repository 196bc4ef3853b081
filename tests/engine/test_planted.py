"""The planted network is what every score is judged on, so it is judged first."""

from __future__ import annotations

import pytest
import torch

from engine.compute import Compute
from engine.metrics import TestSet, answers
from engine.models.masking import Mode, masked
from engine.models.neurons import no_units
from tests.tiny import Planted


def test_the_backdoor_works_and_hides(planted: Planted, compute: Compute) -> None:
    result = answers(planted.model, TestSet.of(planted.data.test, planted.attack), compute)
    assert result.acc.value >= 0.98
    assert result.asr is not None
    assert result.asr.value >= 0.99


@pytest.mark.parametrize("mode", ["scale", "silence"])
def test_cutting_the_planted_unit_removes_the_backdoor_and_nothing_else(
    planted: Planted, compute: Compute, mode: Mode
) -> None:
    cut = no_units(planted.model)
    cut[planted.unit] = True
    with masked(planted.model, cut, mode):
        result = answers(planted.model, TestSet.of(planted.data.test, planted.attack), compute)
    assert result.acc.value >= 0.98
    assert result.asr is not None
    assert result.ra is not None
    assert result.asr.value <= 0.05
    assert result.ra.value >= 0.6


def test_no_other_single_unit_is_the_backdoor(planted: Planted, compute: Compute) -> None:
    test = TestSet.of(planted.data.test, planted.attack)
    for unit in set(range(len(no_units(planted.model)))) - {planted.unit}:
        cut = no_units(planted.model)
        cut[unit] = True
        with masked(planted.model, cut):
            result = answers(planted.model, test, compute)
        assert result.asr is not None
        assert result.asr.value > 0.9, unit


def test_the_planted_unit_sleeps_on_clean_pictures_but_is_not_dead(planted: Planted, compute: Compute) -> None:
    net = planted.model.net
    x = compute.images(planted.data.pool.x)
    with torch.no_grad():
        second = net.bn2(net.conv2(net.first(planted.model.normalize(x)))).relu()  # type: ignore[operator, union-attr]
    means = second.mean((0, 2, 3))
    planted_channel = len(means) - 1
    assert int(means.argmin()) == planted_channel
    assert 0 < float(means[planted_channel]) < 0.05 * float(means.median())
