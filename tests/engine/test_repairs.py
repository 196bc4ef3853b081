"""Every repair leaves the suspect as it was, weakens the planted backdoor or says why not, and goes on where it was."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from engine.cli import main
from engine.compute import Compute, generator
from engine.data.splits import split_off
from engine.metrics import Answers, TestSet, answers
from engine.models.neurons import no_units
from engine.repairs import REPAIRS
from engine.runs.checkpoints import Keep
from engine.runs.store import open_run
from engine.scores import Evidence
from tests.interrupted import assert_resumes
from tests.tiny import Planted, tiny_model

FEW: dict[str, Any] = {"batch": 50, "augment": False}
#: Settings with which a repair is quick on the shapes.
SETTINGS: dict[str, dict[str, Any]] = {
    "gradient_norm": {"epochs": 3, "lr": 0.02, "batch": 50, "augment": False},
    "joint": {"epochs": 5, "batch": 45},
    "neural_cleanse": {"epochs": 3, "batch": 50, "augment": False, "search": 3},
    "influence": {"epochs": 6, "lr": 0.05, "batch": 50, "augment": False},
    "fine_tuning": {"epochs": 3, "lr": 0.02, **FEW},
    "ft_sam": {"epochs": 3, "lr": 0.02, **FEW},
    "nad": {"epochs": 4, "teacher_epochs": 2, "lr": 0.02, **FEW},
    "seam": {"epochs": 20, "lr": 0.01, **FEW},
    "distillation": {"epochs": 12, **FEW},
    "retrain": {"epochs": 10, **FEW},
    "mcr": {"epochs": 2, "tuned_epochs": 2, "lr": 0.01, "points": 3, **FEW},
    # The planted network is surer of its trigger than a trained one.
    "gradient_ascent": {"epochs": 5, "lr": 0.01, "temperature": 20, "ewc": 1, **FEW},
    "i_bau": {"rounds": 3, "lr": 0.005, "inner_lr": 100, "bound": 2, "portion": 0.1, "batch": 50},
}
#: These take a trigger if there is one, and do without if there is none.
MAY_USE_TRIGGER = ("neural_cleanse",)


def evidence(planted: Planted, compute: Compute, **more: Any) -> Evidence:
    """All that a repair may ask for."""
    poisoned = planted.attack.bound(4).poison(planted.data.train, generator(0, "poison")).images
    fresh = {"fresh": lambda rng: tiny_model(seed=int(torch.randint(1000, (1,), generator=rng)))}
    given = {"trigger": planted.attack.bound(4), "trigger_is_true": True, "training": poisoned, **fresh, **more}
    return Evidence(planted.data.pool, 0, compute, **given)


def measured(model: nn.Module, planted: Planted, compute: Compute) -> Answers:
    return answers(model, TestSet.of(planted.data.test, planted.attack), compute)


@pytest.mark.parametrize("name", list(REPAIRS))
def test_a_repair_changes_a_copy_and_keeps_what_clean_pictures_need(
    name: str, planted: Planted, compute: Compute
) -> None:
    before = copy.deepcopy(planted.model.state_dict())
    repair = REPAIRS[name].build(SETTINGS.get(name))
    first, second = (repair(planted.model, evidence(planted, compute)) for _ in range(2))
    assert all(torch.equal(value, before[key]) for key, value in planted.model.state_dict().items())
    assert not any(p.grad is not None for p in planted.model.parameters())
    assert any(not torch.equal(value, before[key]) for key, value in first.model.state_dict().items())
    for key, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[key]), key  # the same seed
    assert measured(first.model, planted, compute).acc.value > 0.9
    assert first.oracle == ("trigger" in repair.needs or name in MAY_USE_TRIGGER)
    assert not first.model.training


@pytest.mark.parametrize("name", list(REPAIRS))
def test_what_was_cut_stays_cut(name: str, planted: Planted, compute: Compute) -> None:
    if "fresh" in REPAIRS[name].needs:
        return  # there is nothing of the suspect left
    cut = no_units(planted.model)
    cut[planted.unit] = True
    made = REPAIRS[name].build(SETTINGS.get(name))(planted.model, evidence(planted, compute, cut=cut))
    assert made.model.state_dict()["net.bn2.weight"][-1] == 0


@pytest.mark.parametrize("name", list(REPAIRS))
def test_what_is_missing_is_refused(name: str, planted: Planted, compute: Compute) -> None:
    repair = REPAIRS[name].build(SETTINGS.get(name))
    missing = {"trigger": "a trigger", "training": "the training set", "fresh": "a known architecture"}
    for need, words in missing.items():
        if need in repair.needs:
            with pytest.raises(ValueError, match=f"^expected {words} for {repair.title}, got none; "):
                repair(planted.model, evidence(planted, compute, **{need: None}))


@pytest.mark.parametrize("name", list(REPAIRS))
def test_an_interrupted_repair_goes_on_with_the_same_bits(
    name: str, planted: Planted, compute: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMASK_CHECKPOINT_SECONDS", "0")
    repair = REPAIRS[name].build(SETTINGS.get(name))

    def work(keep: Keep) -> dict[str, torch.Tensor]:
        return repair(planted.model, evidence(planted, compute, keep=keep)).model.state_dict()

    assert_resumes(work, tmp_path, [1, 0])


@pytest.mark.parametrize(("stop", "data", "judges"), [
    ("clean", "both", "c"), ("trained", "both", "ct"), ("trained", "clean", "c"), ("trained", "triggered", "t"),
])  # fmt: skip
def test_joint_tuning_is_stopped_by_the_images_it_says(
    stop: str, data: str, judges: str, planted: Planted, compute: Compute
) -> None:
    given = evidence(planted, compute)
    joint = REPAIRS["joint"].build({"epochs": 1, "batch": 45, "stop": stop, "data": data})
    made = joint(planted.model, given)
    kept = split_off(given.images, 0.1)[1]
    seen = {"c": kept.x, "t": planted.attack.bound(4).stamped(kept.x)}
    losses = [float(F.cross_entropy(compute.logits(made.model, seen[kind]), kept.y)) for kind in judges]
    assert made.log["tune"][0]["validation"] == pytest.approx(sum(losses) / len(losses))


def test_commands(suspect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path))
    common = ["defend", suspect, "--samples", "40", "--device", "cpu"]
    tuned = ["--defense", "fine_tuning", "--set", "epochs=1", "--out", str(tmp_path / "tuned")]
    assert main([*common, *tuned]) == 0
    result = open_run(tmp_path / "tuned").result
    assert (result["pruned"], result["threshold"], result["policy"], result["repair"]) == (0, None, None, "fine_tuning")
    assert result["settings"]["repair.epochs"] == 1
    assert len(result["log"]["repair"]["tune"]) == 1
    assert not result["oracle"]
    assert main(["export", str(tmp_path / "tuned"), "--out", str(tmp_path / "tuned.safetensors")]) == 0
    assert main(["sweep", suspect, "--score", "fine_tuning", "--samples", "40"]) == 2
