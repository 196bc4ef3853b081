"""Joint fine-tuning: its loss, its early stop, and that the images which stop it are not trained on."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.compute import Compute
from engine.data.base import Images
from engine.data.splits import split_off
from engine.metrics import TestSet, answers
from engine.repairs.joint import Joint
from engine.runs.checkpoints import Keep
from engine.scores import Evidence
from tests.interrupted import assert_resumes
from tests.tiny import Planted


def evidence(planted: Planted, compute: Compute) -> Evidence:
    return Evidence(planted.data.pool, 0, compute, planted.attack.bound(4), True)


@pytest.mark.parametrize("data", ["both", "clean", "triggered"])
def test_the_first_loss_is_that_of_clean_and_triggered_images(planted: Planted, compute: Compute, data: str) -> None:
    repair = Joint.build(data=data, epochs=1, batch=200)
    found = repair(planted.model, evidence(planted, compute)).log["tune"][0]
    train, _ = split_off(planted.data.pool, 0.1)
    x = train.x.float() / 255
    parts = {"clean": [x], "triggered": [planted.attack.trigger(x)]}
    parts["both"] = parts["clean"] + parts["triggered"]
    model = copy.deepcopy(planted.model).train()
    logits = model(torch.cat(parts[data])).split(len(x))
    expected = sum(float(F.cross_entropy(part, train.y).detach()) for part in logits)
    assert found["loss"] == pytest.approx(expected, rel=1e-4)


def test_the_best_state_is_returned_and_patience_ends_it(planted: Planted, compute: Compute) -> None:
    repair = Joint(epochs=30, batch=45, lr=0.1, patience=3)
    found = repair(planted.model, evidence(planted, compute))
    losses = [row["validation"] for row in found.log["tune"]]
    best = losses.index(min(losses))
    assert len(losses) == best + 1 + 3 < 30
    _, kept = split_off(planted.data.pool, 0.1)
    assert float(F.cross_entropy(compute.logits(found.model, kept.x), kept.y)) == losses[best]


def test_images_that_stop_it_are_not_trained_on(planted: Planted, compute: Compute) -> None:
    given, repair = evidence(planted, compute), Joint(epochs=1, batch=45)
    _, kept = split_off(given.images, 0.1)
    x = given.images.x.clone()
    x[torch.isin(given.images.ids, kept.ids)] = 0
    other = replace(given, images=Images(x, given.images.y, given.images.ids))
    first, second = (repair(planted.model, seen) for seen in (given, other))
    state = second.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in first.model.state_dict().items())
    assert first.log["tune"][0]["validation"] != second.log["tune"][0]["validation"]


def test_only_triggered_images_weaken_the_backdoor(planted: Planted, compute: Compute) -> None:
    test, asr = TestSet.of(planted.data.test, planted.attack), {}
    for data in ("both", "clean"):
        found = Joint.build(data=data, epochs=5, batch=45, lr=0.01)(planted.model, evidence(planted, compute))
        share = answers(found.model, test, compute).asr
        assert share is not None
        asr[data] = share.value
    assert asr["both"] < 0.6 < 0.9 < asr["clean"]


def test_an_interrupted_tuning_goes_on_with_the_same_bits(
    planted: Planted, compute: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMASK_CHECKPOINT_SECONDS", "0")

    def work(keep: Keep) -> dict[str, Tensor]:
        given = replace(evidence(planted, compute), keep=keep)
        return dict(Joint(epochs=4, batch=45, lr=0.05)(planted.model, given).model.state_dict())

    assert_resumes(work, tmp_path, [1, 0])
