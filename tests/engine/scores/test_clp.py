"""CLP: the bound of a matrix whose singular values are known, through the filter that really feeds a channel."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from engine.compute import Compute, generator
from engine.data.base import Images
from engine.models import build
from engine.models.neurons import units
from engine.scores import Evidence
from engine.scores.clp import CLP, lipschitz_bounds, standing_out
from tests.tiny import Planted


def test_bound_of_a_known_matrix() -> None:
    weight = torch.zeros(2, 2, 3, 3)
    weight[0, 0, 0, 0], weight[0, 1, 1, 1] = 3, 4  # singular values 3 and 4
    weight[1, 0, 0, 0], weight[1, 1, 0, 0] = 3, 4  # one row space: singular values 5 and 0
    norm = nn.BatchNorm2d(2, eps=1.0)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([-2.0, 1.0]))
        assert norm.running_var is not None
        norm.running_var.copy_(torch.tensor([3.0, 24.0]))
    assert lipschitz_bounds(weight, norm).tolist() == pytest.approx([4 * 2 / 2, 5 * 1 / 5])
    assert lipschitz_bounds(weight, nn.Conv2d(2, 2, 3)).tolist() == pytest.approx([4, 5])
    assert lipschitz_bounds(torch.tensor([[3.0, 4.0]]), nn.Linear(2, 1)).tolist() == pytest.approx([5])


def test_standing_out_counts_standard_deviations() -> None:
    assert standing_out(torch.tensor([1.0, 2.0, 3.0])).tolist() == [-1, 0, 1]
    assert standing_out(torch.ones(4)).tolist() == [0] * 4
    assert standing_out(torch.ones(1)).tolist() == [0]


def test_a_filter_counts_for_the_norm_that_reads_it_and_for_no_other(compute: Compute) -> None:
    model = build("preact_resnet18", classes=4, channels=1, width=4)
    images = Images.of(torch.zeros(1, 1, 32, 32, dtype=torch.uint8), torch.zeros(1, dtype=torch.long))
    evidence, table = Evidence(images, 0, compute), units(model)
    before = CLP()(model, evidence).values
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.get_submodule("net.layer1.0.conv1").weight[2] *= 100
    after = CLP()(changed, evidence).values
    moved = {table.layer_of(int(unit)).name for unit in (after.nan_to_num(-9) != before.nan_to_num(-9)).nonzero()}
    assert moved == {"layer1.0.bn2"}
    layer = next(layer for layer in table.layers if layer.name == "layer1.0.bn2")
    assert int(after[layer.span].argmax()) == 2
    alone = {layer.name for layer in table.layers if before[layer.span].isnan().all()}
    # These read a sum, or the sum that a block before them has put out; only the first one reads a convolution.
    assert alone == {layer.name for layer in table.layers if layer.name.endswith("bn1")} - {"layer1.0.bn1"}


def test_no_image_is_looked_at_and_the_papers_threshold_cuts_the_planted_unit(
    planted: Planted, compute: Compute
) -> None:
    evidence = Evidence(planted.data.pool, 0, compute)
    scores = CLP()(planted.model, evidence)
    x = torch.randint(256, (3, 1, 12, 12), dtype=torch.uint8, generator=generator(0, "x"))
    other = CLP()(planted.model, replace(evidence, images=Images.of(x, torch.zeros(3, dtype=torch.long))))
    assert torch.equal(scores.values, other.values)
    assert scores.native is not None
    assert (scores.values >= scores.native).nonzero().flatten().tolist() == [planted.unit]
