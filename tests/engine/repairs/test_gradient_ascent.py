"""Gradient ascent: bounded, felt where the network is sure, and the guard holds what clean images need."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from engine.attacks.badnets import BadNets
from engine.compute import Compute
from engine.data.base import Images
from engine.metrics import TestSet, answers
from engine.repairs import REPAIRS, Repaired
from engine.repairs.gradient_ascent import GradientAscent, fisher
from engine.scores import Evidence
from tests.tiny import Planted

#: The planted network is surer of its trigger than a trained one: its logits are 80 apart.
FEW: dict[str, Any] = {"epochs": 5, "lr": 0.01, "temperature": 20, "batch": 50, "augment": False}


def repaired(planted: Planted, compute: Compute, **more: Any) -> Repaired:
    evidence = Evidence(planted.data.pool, 0, compute, planted.attack.bound(4))
    return REPAIRS["gradient_ascent"].build({**FEW, **more})(planted.model, evidence)


def test_the_climb_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [10.0, 0.0]], requires_grad=True)  # losses log 2 and 10
    climbed, height = GradientAscent(temperature=1, bound=5).height(logits, torch.tensor([0, 1]))
    assert float(height) == pytest.approx((0.6931472 + 5) / 2)
    (gradient,) = torch.autograd.grad(climbed, logits)
    torch.testing.assert_close(gradient, torch.tensor([[-0.25, 0.25], [0.0, 0.0]]))  # the second is past the bound


def test_a_temperature_gives_a_slope_where_the_network_is_certain() -> None:
    slopes = []
    for temperature in (1.0, 20.0):
        logits = torch.tensor([[120.0, 0.0]], requires_grad=True)
        climbed, _ = GradientAscent(temperature=temperature).height(logits, torch.tensor([0]))
        slopes.append(float(torch.autograd.grad(climbed, logits)[0].abs().max()))
    assert slopes[0] == 0
    assert slopes[1] == pytest.approx(float(torch.tensor(-6.0).sigmoid()), rel=1e-4)


def test_the_guard_keeps_what_clean_images_need(planted: Planted, compute: Compute) -> None:
    test = TestSet.of(planted.data.test, planted.attack)
    bare, guarded = (repaired(planted, compute, ewc=ewc) for ewc in (0, 30))
    for found in (bare, guarded):
        asr = answers(found.model, test, compute).asr
        assert asr is not None
        assert asr.value < 0.05
    suspect = copy.deepcopy(planted.model).requires_grad_(True)
    weights = fisher(suspect, planted.data.pool, Evidence(planted.data.pool, 0, compute))
    before, moved = dict(planted.model.named_parameters()), []
    for found in (bare, guarded):
        now = dict(found.model.named_parameters())
        moved.append(sum(float((weights[k] * (now[k] - before[k]).detach() ** 2).sum()) for k in now))
    assert moved[1] < 0.5 * moved[0]
    assert answers(guarded.model, test, compute).acc.value > 0.95


def test_fisher_of_a_linear_network_by_hand(compute: Compute) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    images = Images.of(torch.tensor([[[[255, 0]]], [[[0, 51]]]], dtype=torch.uint8), torch.tensor([0, 1]))
    found = fisher(model, images, Evidence(images, 0, compute))
    # The answers are 1/2 each: d CE / d logits is -1/2 for the true class and 1/2 for the other, both squared 1/4.
    weight, bias = torch.tensor([[0.25, 0.25 * 0.04]] * 2), torch.tensor([0.5, 0.5])
    mean = (weight.sum() + bias.sum()) / 6
    torch.testing.assert_close(found["1.weight"], weight / mean)
    torch.testing.assert_close(found["1.bias"], bias / mean)


def test_a_heavy_guard_does_not_diverge(planted: Planted, compute: Compute) -> None:
    found = repaired(planted, compute, ewc=1e6, epochs=2)
    before = dict(planted.model.named_parameters())
    assert max(float((p - before[k]).abs().max()) for k, p in found.model.named_parameters()) < 1


def test_images_that_the_rule_does_not_change_are_not_unlearned(planted: Planted, compute: Compute) -> None:
    """There are none of the source class here: what is left is fine-tuning."""
    absent = BadNets(size=3, margin=1, target=3, rule="source", source=0).bound(4)
    images = planted.data.pool[(planted.data.pool.y != 0).nonzero().squeeze(1)]
    evidence = Evidence(images, 0, compute, absent)
    plain = {key: value for key, value in FEW.items() if key != "temperature"}
    tuned = REPAIRS["fine_tuning"].build(plain, schedule="constant", weight_decay=0)(planted.model, evidence).model
    found = REPAIRS["gradient_ascent"].build(FEW)(planted.model, evidence).model
    for p, q in zip(found.parameters(), tuned.parameters(), strict=True):
        assert torch.equal(p, q)
