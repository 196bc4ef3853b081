"""Masks against a trigger: what they end as, what holds them, and that a killed run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.compute import Compute
from engine.metrics import TestSet, answers
from engine.models.masking import masked
from engine.runs.checkpoints import Keep
from engine.scores import Evidence
from engine.scores.trigger_mask import TriggerMask
from tests.interrupted import assert_resumes
from tests.tiny import Planted


def evidence(planted: Planted, compute: Compute, keep: Keep | None = None) -> Evidence:
    given = Evidence(planted.data.pool, 0, compute, planted.attack, trigger_is_true=True)
    return given if keep is None else Evidence(planted.data.pool, 0, compute, planted.attack, True, keep=keep)


def test_triggered_images_come_right_by_turning_the_planted_unit_down(planted: Planted, compute: Compute) -> None:
    found = TriggerMask()(planted.model, evidence(planted, compute))
    first, last = found.log["masks"][0], found.log["masks"][-1]
    assert last["triggered"] < 0.5 * first["triggered"]
    with masked(planted.model, found.values > 0.8):
        after = answers(planted.model, TestSet.of(planted.data.test, planted.attack), compute)
    assert after.asr is not None
    assert after.asr.value < 0.1
    assert after.acc.value > 0.9
    assert float(found.values[planted.unit]) > 0.8
    assert 0 <= float(found.values.min()) <= float(found.values.max()) <= 1


def test_what_clean_images_need_is_held_the_more_they_weigh(planted: Planted, compute: Compute) -> None:
    def mean(keep: float) -> float:
        others = torch.arange(len(values := TriggerMask(keep=keep)(planted.model, evidence(planted, compute)).values))
        return float(values[others != planted.unit].mean())

    assert mean(50.0) < mean(0.1)


def test_an_interrupted_run_goes_on_with_the_same_bits(
    planted: Planted, compute: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMASK_CHECKPOINT_SECONDS", "0")

    def work(keep: Keep) -> dict[str, torch.Tensor]:
        return {"values": TriggerMask(mask_passes=3)(planted.model, evidence(planted, compute, keep)).values}

    assert_resumes(work, tmp_path, [0, 1])
