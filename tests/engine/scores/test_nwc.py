"""NWC: the distance each filter has moved, on the state that RNP's first stage leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.compute import Compute, generator
from engine.data.base import Images
from engine.models import build
from engine.models.neurons import units
from engine.runs.checkpoints import Keep
from engine.scores import Evidence
from engine.scores.nwc import NWC
from engine.scores.rnp import RNP
from tests.interrupted import assert_resumes
from tests.tiny import Planted


def test_values_are_how_far_the_filters_moved(planted: Planted, compute: Compute) -> None:
    evidence = Evidence(planted.data.pool, 0, compute)
    scores = NWC(unlearn_passes=3, batch=50)(planted.model, evidence)
    before, after = planted.model.state_dict(), scores.unlearned
    assert after is not None
    for name, first, size in (("net.conv1.weight", 0, 8), ("net.conv2.weight", 8, 16)):
        for k in range(size):
            moved = float((after[name][k] - before[name][k]).abs().sum())
            assert float(scores.values[first + k]) == pytest.approx(moved, rel=1e-5)
    assert float(scores.values.min()) > 0
    assert not scores.log["forgot"]


def test_unlearning_is_rnps_at_a_constant_rate(planted: Planted, compute: Compute) -> None:
    evidence = Evidence(planted.data.pool, 0, compute)
    scores = NWC(unlearn_lr=5e-4, unlearn_passes=3, batch=60)(planted.model, evidence)
    rnp = RNP(unlearn_lr=5e-4, unlearn_passes=3, batch=60, weight_decay=0, lr_drop=0, stop_acc=0.1)
    model, _, log = rnp.unlearn(planted.model, evidence)
    assert scores.unlearned is not None
    assert all(torch.equal(value, scores.unlearned[key]) for key, value in model.state_dict().items())
    assert log == scores.log["unlearn"]


def test_shortcuts_have_no_score(compute: Compute) -> None:
    model = build("resnet18", classes=4, channels=1, width=4)
    x = torch.randint(256, (4, 1, 32, 32), dtype=torch.uint8, generator=generator(0, "x"))
    values = NWC(unlearn_passes=1)(model, Evidence(Images.of(x, torch.arange(4)), 0, compute)).values
    table = units(model)
    without = {layer.name for layer in table.layers if values[layer.span].isnan().any()}
    assert without == {f"layer{k}.0.downsample.1" for k in (2, 3, 4)}


def test_weights_that_are_no_longer_finite_are_refused(planted: Planted, compute: Compute) -> None:
    score = NWC(unlearn_lr=1.0, unlearn_passes=50, stop_acc=0, batch=4, augment=False)
    with pytest.raises(
        ValueError, match=r"^expected unlearning to end somewhere, got infinite weights at the rate 1.0"
    ):
        score(planted.model, Evidence(planted.data.pool[:8], 0, compute))


def test_an_interrupted_run_goes_on_with_the_same_bits(
    planted: Planted, compute: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMASK_CHECKPOINT_SECONDS", "0")

    def work(keep: Keep) -> dict[str, torch.Tensor]:
        evidence = Evidence(planted.data.pool[:60], 0, compute, keep=keep)
        return {"values": NWC(unlearn_passes=4, batch=20)(planted.model, evidence).values}

    assert_resumes(work, tmp_path, [0, 1])
