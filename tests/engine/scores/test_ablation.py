"""Ablation: exact, whatever is computed only once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from engine.compute import Compute, generator
from engine.data.base import Images
from engine.metrics import TestSet, answers
from engine.models import build
from engine.models.masking import Mode, masked
from engine.models.neurons import no_units, units
from engine.runs.checkpoints import Keep
from engine.scores import Evidence
from engine.scores.ablation import Ablation
from tests.interrupted import assert_resumes
from tests.tiny import Planted


def alone(model: Any, unit: int) -> torch.Tensor:
    cut = no_units(model)
    cut[unit] = True
    return cut


@pytest.mark.parametrize("mode", ["scale", "silence"])
def test_the_loss_of_each_cut_is_that_of_a_whole_pass(compute: Compute, mode: Mode) -> None:
    model = build("resnet18", classes=4, channels=1, width=4).eval()
    rng = generator(0, "ablation")
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "bn" in name or "downsample.1" in name:
                value.copy_(torch.rand(value.shape, generator=rng) + 0.5)
    x = torch.randint(256, (6, 1, 16, 16), dtype=torch.uint8, generator=rng)
    images = Images.of(x, torch.arange(6) % 4)
    values = Ablation()(model, Evidence(images, 0, compute, mode=mode)).values

    def loss() -> float:
        return float(F.cross_entropy(compute.logits(model, images.x).double(), images.y))

    slow = []
    for unit in range(0, len(units(model)), 13):
        with masked(model, alone(model, unit), mode):
            slow.append(loss())
    assert values[::13].tolist() == [pytest.approx(loss() - cut, abs=1e-6) for cut in slow]
    assert float(values[::13].abs().max()) > 1e-3  # cuts do something here


def test_with_a_trigger_it_is_the_drop_of_asr_less_that_of_acc(planted: Planted, compute: Compute) -> None:
    pool, model = planted.data.pool, planted.model
    scores = Ablation()(model, Evidence(pool, 0, compute, planted.attack, trigger_is_true=True))
    assert scores.oracle
    assert int(scores.values.argmax()) == planted.unit
    test, whole = TestSet.of(pool, planted.attack), answers(model, TestSet.of(pool, planted.attack), compute)
    for unit in (0, 5, planted.unit):
        with masked(model, alone(model, unit)):
            found = answers(model, test, compute)
        assert whole.asr is not None
        assert found.asr is not None
        expected = (whole.asr.value - found.asr.value) - (whole.acc.value - found.acc.value)
        assert float(scores.values[unit]) == pytest.approx(expected, abs=1e-6)


def test_the_measure_decides_whether_the_trigger_is_used(planted: Planted, compute: Compute) -> None:
    with_trigger = Evidence(planted.data.pool, 0, compute, planted.attack, trigger_is_true=True)
    without = Evidence(planted.data.pool, 0, compute)
    loss = Ablation(measure="loss")(planted.model, with_trigger)
    assert not loss.oracle
    assert torch.equal(loss.values, Ablation()(planted.model, without).values)
    with pytest.raises(ValueError, match=r"^expected a trigger for the measure asr, got none; choose --trigger true"):
        Ablation(measure="asr")(planted.model, without)


def test_an_interrupted_run_goes_on_with_the_same_bits(
    planted: Planted, compute: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMASK_CHECKPOINT_SECONDS", "0")

    def work(keep: Keep) -> dict[str, torch.Tensor]:
        return {"values": Ablation()(planted.model, Evidence(planted.data.pool[:50], 0, compute, keep=keep)).values}

    assert_resumes(work, tmp_path, [3, 4, 8])
