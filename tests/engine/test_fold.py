"""Folded evaluation says what a whole pass says, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from engine.compute import Compute
from engine.metrics import TestSet, answers
from engine.models import MODELS, build
from engine.models.masking import masked
from engine.models.neurons import unit_modules, units
from engine.pruning import fold
from engine.pruning.fold import Fold, FoldedTest
from tests.tiny import Planted

STAGED = ["resnet18", "preact_resnet18", "vgg19_bn", "wrn16", "resnet20"]


def cut_from(model: nn.Module, layer: int) -> Tensor:
    table = units(model)
    cut = torch.zeros(len(table), dtype=torch.bool)
    cut[table.layers[layer].offset :: 3] = True
    return cut


@pytest.mark.parametrize("name", MODELS)
def test_every_network_answers_as_in_a_whole_pass(name: str, compute: Compute) -> None:
    side = max(32, MODELS[name].min_side)
    model = build(name, classes=4, channels=3, width=4 if name in STAGED else None)
    x = torch.rand(5, 3, side, side, generator=torch.Generator().manual_seed(0))
    layers = len(units(model).layers)
    for layer in {0, layers // 2, layers - 1}:
        folded = Fold(model, units(model).layers[layer].offset, x, compute)
        with masked(model, cut_from(model, layer)):
            assert torch.equal(folded.logits(), compute.logits(model, x))
        assert torch.equal(folded.logits(), compute.logits(model, x))


def count_runs(module: nn.Module) -> list[int]:
    seen: list[int] = []
    module.register_forward_pre_hook(lambda *_: seen.append(1))
    return seen


@pytest.mark.parametrize("name", STAGED)
def test_what_no_cut_touches_is_computed_once(name: str, compute: Compute) -> None:
    model = build(name, classes=4, channels=1, width=4)
    modules, layers = unit_modules(model), units(model).layers
    folded = Fold(model, layers[-1].offset, torch.rand(3, 1, 28, 28), compute)
    first, last = count_runs(modules[0]), count_runs(modules[-1])
    folded.logits(), folded.logits()
    assert (len(first), len(last)) == (0, 2)


def test_answers_on_a_test_set_and_without_room(
    planted: Planted, compute: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = TestSet.of(planted.data.test, planted.attack).head(40)
    cut = cut_from(planted.model, len(units(planted.model).layers) // 2)
    start = int(cut.nonzero()[0])
    folded = FoldedTest(planted.model, start, test, compute)
    monkeypatch.setattr(fold, "MOST", 10)
    whole = Fold(planted.model, start, test.clean.x, compute)
    assert whole.nbytes == 0
    with masked(planted.model, cut):
        expected = answers(planted.model, test, compute)
        found = folded.answers()
        assert torch.equal(whole.logits(), compute.logits(planted.model, test.clean.x))
    assert found.fooled is not None
    assert expected.fooled is not None
    assert torch.equal(found.correct, expected.correct)
    assert torch.equal(found.fooled, expected.fooled)
