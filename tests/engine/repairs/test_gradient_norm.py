"""Gradient-norm fine-tuning: the mixed gradient, and nothing but the gradient."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from engine.compute import Compute
from engine.repairs.fine_tuning import FineTuning
from engine.repairs.gradient_norm import GradientNorm
from engine.runs.checkpoints import Keep
from engine.scores import Evidence
from tests.interrupted import assert_resumes
from tests.tiny import Planted


def test_without_the_gradient_uphill_it_is_fine_tuning_to_the_bit(planted: Planted, compute: Compute) -> None:
    # Weights and statistics: the pass a step uphill must leave neither in the network.
    how = {"epochs": 2, "lr": 0.01, "batch": 50, "weight_decay": 0, "schedule": "constant"}
    evidence = Evidence(planted.data.pool, 0, compute)
    plain = FineTuning.build(how)(planted.model, evidence).model.state_dict()
    same = GradientNorm.build(how, alpha=0, radius=1)(planted.model, evidence).model.state_dict()
    other = GradientNorm.build(how, alpha=0.7, radius=1)(planted.model, evidence).model.state_dict()
    assert all(torch.equal(value, same[key]) for key, value in plain.items())
    assert any(not torch.equal(value, other[key]) for key, value in plain.items())


def test_one_step_follows_the_mixed_gradient(planted: Planted, compute: Compute) -> None:
    images, lr, r, alpha = planted.data.pool[:40], 0.1, 0.3, 0.7
    repair = GradientNorm(epochs=1, lr=lr, batch=40, augment=False, radius=r, alpha=alpha)
    tuned = repair(planted.model, Evidence(images, 0, compute)).model

    def gradients(model: torch.nn.Module) -> list[torch.Tensor]:
        loss = F.cross_entropy(model(compute.images(images.x)), images.y)
        return list(torch.autograd.grad(loss, list(model.parameters())))

    here = copy.deepcopy(planted.model).train().requires_grad_(True)
    g = gradients(here)
    above = copy.deepcopy(here)
    with torch.no_grad():
        for p, slope in zip(above.parameters(), g, strict=True):
            p += r * slope / slope.norm()
    mixed = [(1 - alpha) * a + alpha * b for a, b in zip(g, gradients(above), strict=True)]
    for before, after, slope in zip(here.parameters(), tuned.parameters(), mixed, strict=True):
        torch.testing.assert_close(after, before.detach() - lr * slope, rtol=1e-3, atol=5e-5)
    assert max(float((a - b).abs().max()) for a, b in zip(g, mixed, strict=True)) > 0.01 / lr  # far from plain tuning


def test_an_interrupted_tuning_goes_on_with_the_same_bits(
    planted: Planted, compute: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMASK_CHECKPOINT_SECONDS", "0")
    repair = GradientNorm(epochs=3, batch=50)

    def work(keep: Keep) -> dict[str, torch.Tensor]:
        return repair(planted.model, Evidence(planted.data.pool, 0, compute, keep=keep)).model.state_dict()

    assert_resumes(work, tmp_path, [0, 1])
