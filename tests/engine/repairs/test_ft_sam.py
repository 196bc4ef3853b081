"""FT-SAM: the push is the paper's, the step is the one of the pushed weights, the statistics are the model's own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from engine.compute import Compute
from engine.repairs import REPAIRS, Repaired
from engine.repairs.ft_sam import climb
from engine.scores import Evidence
from tests.tiny import Planted

ONE = {"epochs": 1, "lr": 0.1, "momentum": 0, "weight_decay": 0, "batch": 200, "augment": False, "schedule": "constant"}


def repaired(name: str, planted: Planted, compute: Compute, **more: Any) -> Repaired:
    return REPAIRS[name].build(ONE, **more)(planted.model, Evidence(planted.data.pool, 0, compute))


def test_push_by_hand() -> None:
    weights, gradients = [torch.tensor([[3.0, 4.0]]), torch.tensor([2.0])], [torch.tensor([[1.0, 0.0]]), torch.ones(1)]
    # By weights T g = (3, 0), (2): of length sqrt(13). By neurons (5, 0), (2): of length sqrt(29).
    first, second = climb(weights, gradients, 0.5, "weight")
    torch.testing.assert_close(first, 0.5 * torch.tensor([[9.0, 0.0]]) / 13**0.5)
    torch.testing.assert_close(second, 0.5 * torch.tensor([4.0]) / 13**0.5)
    first, second = climb(weights, gradients, 0.5, "neuron")
    torch.testing.assert_close(first, 0.5 * torch.tensor([[25.0, 0.0]]) / 29**0.5)
    torch.testing.assert_close(second, 0.5 * torch.tensor([4.0]) / 29**0.5)


def test_a_push_is_as_long_as_rho_in_units_of_the_weights() -> None:
    rng = torch.Generator().manual_seed(0)
    weights, gradients = ([torch.randn(4, 3, generator=rng), torch.randn(5, generator=rng)] for _ in range(2))
    pushes = climb(weights, gradients, 2.0, "weight")
    relative = torch.cat([(e / w).flatten() for e, w in zip(pushes, weights, strict=True)])
    assert float(relative.norm()) == pytest.approx(2, rel=1e-5)


def test_one_step_is_taken_with_the_gradient_of_the_pushed_weights(planted: Planted, compute: Compute) -> None:
    found = repaired("ft_sam", planted, compute, rho=3, smoothing=0.1).model
    model = compute.model(copy.deepcopy(planted.model)).train().requires_grad_(True)
    # All images are one batch; statistics and gradients do not depend on their order.
    x, y = compute.images(planted.data.pool.x), planted.data.pool.y

    def gradients() -> list[torch.Tensor]:
        loss = F.cross_entropy(model(x), y, label_smoothing=0.1)
        return list(torch.autograd.grad(loss, list(model.parameters())))

    before = [p.detach().clone() for p in model.parameters()]
    pushes = climb(before, gradients(), 3, "weight")
    with torch.no_grad():
        for p, e in zip(model.parameters(), pushes, strict=True):
            p += e
    for p, was, g in zip(found.parameters(), before, gradients(), strict=True):
        torch.testing.assert_close(p, was - 0.1 * g, rtol=1e-4, atol=1e-5)


def test_the_pushed_weights_leave_no_trace_in_the_statistics(planted: Planted, compute: Compute) -> None:
    pushed, plain = (dict(repaired(n, planted, compute).model.named_buffers()) for n in ("ft_sam", "fine_tuning"))
    for name, value in plain.items():
        torch.testing.assert_close(pushed[name], value)


def test_neurons_shrink(planted: Planted, compute: Compute) -> None:
    more = {"epochs": 5, "lr": 0.02, "momentum": 0.9, "batch": 50}
    plain, pushed = (repaired(name, planted, compute, **more).model for name in ("fine_tuning", "ft_sam"))
    sizes = [sum(float(p.square().sum()) for p in model.parameters()) for model in (plain, pushed)]
    assert sizes[1] < sizes[0]
