"""RNP's masks against one label: which images count for how much, and which label it is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from engine.compute import Compute
from engine.scores.base import Evidence
from engine.scores.rnp import RNP
from tests.tiny import RNP_SETTINGS, Planted

SCORE = RNP.build(RNP_SETTINGS, against="label")


def test_the_labels_own_images_weigh_as_much_as_all_others() -> None:
    logits, y = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0], [0.5, 1.0, 4.0]]), torch.tensor([0, 1, 2])
    others = (F.softplus(torch.tensor(-2.0)) + F.softplus(torch.tensor(-3.0))) / 2
    own = F.cross_entropy(logits[1:2], y[1:2])
    torch.testing.assert_close(SCORE._loss(logits, y, 1), (others + own) / 2)
    torch.testing.assert_close(SCORE._loss(logits[[0, 2]], y[[0, 2]], 1), others / 2)
    torch.testing.assert_close(SCORE._loss(logits[1:2], y[1:2], 1), own / 2)
    assert torch.equal(SCORE._loss(logits, y, None), F.cross_entropy(logits, y))


def test_a_confusion_among_other_classes_moves_nothing() -> None:
    logits = torch.tensor([[1.0, 0.0, 5.0]], requires_grad=True)  # class 0, answered as 2
    SCORE._loss(logits, torch.tensor([0]), 1).backward()
    assert logits.grad is not None
    assert logits.grad[0, 2] == 0
    assert logits.grad[0, 1] > 0 > logits.grad[0, 0]


@pytest.mark.parametrize("values_only", [False, True])
def test_it_names_the_backdoors_label_and_its_unit(values_only: bool, planted: Planted, compute: Compute) -> None:
    given = Evidence(planted.data.pool, 0, compute, values_only=values_only)
    found = RNP.build(SCORE.model_dump(), recover_acc=0.8, stop_acc=0.5)(planted.model, given)
    assert found.log["favourite"] == int(planted.attack.label(torch.tensor([1]))[0])
    assert int(found.values.argmax()) == planted.unit
    # The label shows only at the end: whoever wants nothing but values unlearns as far.
    assert found.log["forgot"]


def test_whoever_knows_the_label_unlearns_no_further_than_the_masks_need(planted: Planted, compute: Compute) -> None:
    score = RNP.build(SCORE.model_dump(), recover_acc=0.8, stop_acc=0.1)
    whole = score(planted.model, Evidence(planted.data.pool, 0, compute, values_only=True))
    known = Evidence(planted.data.pool, 0, compute, values_only=True, favourite=whole.log["favourite"])
    short = score(planted.model, known)
    assert len(short.log["unlearn"]) < len(whole.log["unlearn"])
    torch.testing.assert_close(short.values, whole.values, rtol=0, atol=0)
    other = score(planted.model, Evidence(planted.data.pool, 0, compute, values_only=True, favourite=0))
    assert other.log["favourite"] == 0 != whole.log["favourite"]
