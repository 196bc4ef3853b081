"""Neural Cleanse's unlearning: a fifth of the images carry the trigger, and it finds its own where none is given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.attacks.recovered import Recovered
from engine.compute import Compute
from engine.metrics import TestSet, answers
from engine.models.base import Classifier
from engine.repairs.neural_cleanse import NeuralCleanseUnlearning
from engine.runs.checkpoints import Keep
from engine.scores import Evidence
from tests.interrupted import assert_resumes
from tests.tiny import SIDE, Planted


def test_a_fifth_of_the_images_carry_the_trigger_after_the_augmentation(
    planted: Planted, compute: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    forward = Classifier.forward

    def watched(self: Classifier, x: Tensor) -> Tensor:
        seen.append(x.detach())
        return forward(self, x)

    monkeypatch.setattr(Classifier, "forward", watched)
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, :3, :3] = 1
    trigger = Recovered(target=0).bound(4, {"mask": mask, "pattern": torch.full((1, SIDE, SIDE), 0.123)})
    repair = NeuralCleanseUnlearning(epochs=2, batch=50)
    found = repair(planted.model, Evidence(planted.data.pool, 0, compute, trigger))
    carry = torch.cat([(x[:, :, :3, :3] == 0.123).flatten(1).all(1) for x in seen])
    assert carry.view(2, 200).sum(1).tolist() == [40, 40]
    assert not found.oracle
    assert "recovered" not in found.log


def test_it_recovers_a_trigger_and_unlearns_it(planted: Planted, compute: Compute) -> None:
    repair = NeuralCleanseUnlearning(epochs=5, batch=50, augment=False, search=12)
    found = repair(planted.model, Evidence(planted.data.pool, 0, compute))
    assert found.log["recovered"]["target"] == planted.attack.target
    assert found.extras["mask"].sum() == pytest.approx(found.log["recovered"]["norm"], rel=1e-5)
    after = answers(found.model, TestSet.of(planted.data.test, planted.attack), compute)
    assert after.asr is not None
    assert after.asr.value < 0.1
    assert after.acc.value > 0.95
    assert not found.oracle


def test_an_interrupted_repair_goes_on_with_the_same_bits(
    planted: Planted, compute: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMASK_CHECKPOINT_SECONDS", "0")
    repair = NeuralCleanseUnlearning(epochs=2, batch=50, search=2)

    def work(keep: Keep) -> dict[str, Tensor]:
        found = repair(planted.model, Evidence(planted.data.pool[:80], 0, compute, keep=keep))
        return {**found.model.state_dict(), "mask": torch.from_numpy(found.extras["mask"])}

    assert_resumes(work, tmp_path, [0, 2])
