"""MCR: the ends of the path are the two networks, only the bend is learned, statistics belong to the point."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from engine.compute import Compute, generator
from engine.repairs import REPAIRS, Repaired
from engine.repairs.mcr import bezier, estimate_statistics
from engine.repairs.tuning import tune
from engine.scores import Evidence
from tests.tiny import Planted

FEW: dict[str, Any] = {"epochs": 2, "tuned_epochs": 2, "lr": 0.02, "tuned_lr": 0.02, "batch": 50, "augment": False}


def repaired(planted: Planted, compute: Compute, **more: Any) -> Repaired:
    return REPAIRS["mcr"].build({**FEW, **more})(planted.model, Evidence(planted.data.pool, 0, compute))


def test_the_curve_by_hand() -> None:
    start, bend, end = ({"w": torch.tensor([v])} for v in (1.0, 3.0, 9.0))
    assert [float(bezier(t, start, bend, end)["w"]) for t in (0.0, 0.5, 1.0)] == [1.0, 0.25 + 1.5 + 2.25, 9.0]


def test_the_ends_are_the_suspect_and_its_fine_tuned_copy(planted: Planted, compute: Compute) -> None:
    copied, repair = copy.deepcopy(planted.model).requires_grad_(True), REPAIRS["mcr"].build(FEW)
    tune(copied, Evidence(planted.data.pool, 0, compute), repair, "endpoint")  # both have the same settings here
    for t, expected in ((0.0, planted.model), (1.0, copied)):
        for p, q in zip(repaired(planted, compute, t=t).model.parameters(), expected.parameters(), strict=True):
            assert torch.equal(p, q)


def test_the_bend_leaves_the_straight_line_and_lowers_the_loss(planted: Planted, compute: Compute) -> None:
    """From a suspect that is worse than its copy, half-way on the path."""
    suspect = copy.deepcopy(planted.model)
    with torch.no_grad():
        suspect.net.conv2.weight += 0.5 * torch.randn(16, 8, 3, 3, generator=generator(0, "noise"))
    losses = []
    for lr in (1e-9, 0.02):
        repair = REPAIRS["mcr"].build({**FEW, "lr": lr, "epochs": 4, "t": 0.5, "points": 3})
        losses.append(repair(suspect, Evidence(planted.data.pool, 0, compute)).extras["path_loss"])
    assert losses[1][1] < 0.9 * losses[0][1]
    assert losses[1][0] == losses[0][0]  # the ends stay
    assert losses[1][2] == losses[0][2]


def test_statistics_are_those_of_the_images(planted: Planted, compute: Compute) -> None:
    model = copy.deepcopy(planted.model)
    with torch.no_grad():
        model.net.conv1.weight *= 3
    estimate_statistics(model, planted.data.pool, compute)  # 200 images are one batch
    assert not model.training
    assert model.net.bn1.momentum == 0.1
    first = model.net.conv1(model.normalize(compute.images(planted.data.pool.x)))
    torch.testing.assert_close(model.net.bn1.running_mean, first.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.net.bn1.running_var, first.var((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_the_path_is_told(planted: Planted, compute: Compute) -> None:
    found = repaired(planted, compute, t=1.0, points=3)
    np.testing.assert_array_equal(found.extras["path_t"], np.array([0, 0.5, 1], np.float32))
    logits, y = compute.logits(found.model, planted.data.pool.x), planted.data.pool.y
    np.testing.assert_allclose(found.extras["path_acc"][-1], float((logits.argmax(1) == y).float().mean()), rtol=1e-6)
    np.testing.assert_allclose(found.extras["path_loss"][-1], float(F.cross_entropy(logits, y)), rtol=1e-5)
