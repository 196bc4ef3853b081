"""The loop of repairs: the rates of its schedules, its optimizers, and a generator that the step draws from, too."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from engine.compute import Compute
from engine.repairs.tuning import Tuning, tune
from engine.scores import Evidence
from tests.tiny import Planted


def rates(how: Tuning) -> list[float]:
    optimizer, schedule = how.steps([nn.Parameter(torch.zeros(1))])
    found = []
    for _ in range(how.epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if schedule is not None:
            schedule.step()
    return found


def test_schedules() -> None:
    assert rates(Tuning(epochs=20, lr=0.1, schedule="drop")) == pytest.approx([0.1] * 2 + [0.01] * 18)
    assert rates(Tuning(epochs=3, lr=0.1, schedule="drop")) == pytest.approx([0.1, 0.01, 0.01])
    assert rates(Tuning(epochs=2, lr=0.1, schedule="constant")) == [0.1, 0.1]
    assert rates(Tuning(epochs=2, lr=0.1)) == pytest.approx([0.1, 0.05])


def test_adams_first_step_is_the_rate_whatever_the_gradient() -> None:
    for gradient in (1e-3, 10.0):
        weight = nn.Parameter(torch.zeros(1))
        optimizer, _ = Tuning(optimizer="adam", lr=0.1, weight_decay=0).steps([weight])
        weight.grad = torch.tensor([gradient])
        optimizer.step()
        assert float(weight.detach()) == pytest.approx(-0.1, rel=1e-3)


@pytest.mark.parametrize("statistics", ["batch", "kept"])
def test_statistics_are_of_the_batches_or_the_suspects(statistics: str, planted: Planted, compute: Compute) -> None:
    tuned = copy.deepcopy(planted.model).requires_grad_(True)
    how = Tuning.build({"epochs": 2, "augment": False, "statistics": statistics})
    # What is measured between the passes does not change how they normalise.
    measured = {"after": lambda _: {"seen": float(compute.logits(tuned, planted.data.pool.x[:4]).sum())}}
    tune(tuned, Evidence(planted.data.pool, 0, compute), how, **measured)
    before, after = dict(planted.model.named_buffers()), dict(tuned.named_buffers())
    running = [name for name in before if "running" in name]
    assert running
    assert all(torch.equal(before[name], after[name]) == (statistics == "kept") for name in running)
    assert not torch.equal(next(iter(planted.model.parameters())), next(iter(tuned.parameters())))  # weights move


def test_the_step_may_draw_from_the_generator_of_the_batches(planted: Planted, compute: Compute) -> None:
    evidence = Evidence(planted.data.pool, 0, compute)
    orders: list[list[Tensor]] = []
    for draws in (False, True):
        model, rng, seen = copy.deepcopy(planted.model), evidence.rng("x"), []

        def step(x: Tensor, y: Tensor, index: Tensor, seen=seen, rng=rng, model=model, draws=draws):  # noqa: ANN001, ANN202
            seen.append(index)
            if draws:
                torch.rand((), generator=rng)
            logits = model(x)
            logits.sum().backward()
            return logits.sum(), logits

        tune(model, evidence, Tuning(epochs=2, batch=100, augment=False), step=step, rng=rng)
        orders.append(seen)
    assert torch.equal(orders[0][0], orders[1][0])  # both begin alike
    assert not torch.equal(orders[0][2], orders[1][2])  # what the step drew comes before the second pass
