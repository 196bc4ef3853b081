"""Feature collision: poisons that look like the wanted class and lie where the targets do; no trigger, no ASR."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.attacks import Lab
from engine.attacks.base import POISONED
from engine.attacks.fc import FeatureCollision, shared_out
from engine.attacks.learning import features
from engine.attacks.transfer import Transfer
from engine.cli import main
from engine.compute import Compute, generator
from engine.data.base import DataSet
from engine.metrics import TestSet, answers
from engine.models.base import Classifier
from engine.questions import Questions
from engine.runs.store import open_run
from tests import tiny
from tests.command_line import TRAIN_LITTLE


@pytest.fixture(scope="module")
def lab(tiny_data: DataSet, clean_tiny: Classifier) -> Lab:
    return Lab(tiny_data.train, 4, Compute("cpu", exact=True), clean=clean_tiny, targets=tiny_data.test)


def test_targets_are_known_images_of_other_classes(lab: Lab, clean_tiny: Classifier, tiny_data: DataSet) -> None:
    attack = FeatureCollision(target=3, chosen="nearest").bound(4)
    ids = attack.prepare(lab)["targets"]
    chosen = tiny_data.test[torch.isin(tiny_data.test.ids, ids)]
    assert len(chosen) == 32
    assert not (chosen.y == 3).any()
    logits = lab.compute.logits(clean_tiny, chosen.x)
    assert torch.equal(logits.argmax(1), chosen.y)
    any_ids = FeatureCollision(target=3).bound(4).prepare(lab)["targets"]
    others = tiny_data.test[torch.isin(tiny_data.test.ids, any_ids)]
    near = [lab.compute.logits(clean_tiny, x.x).softmax(1)[:, 3].mean() for x in (chosen, others)]
    assert near[0] > near[1]
    with pytest.raises(ValueError, match=r"^expected 400 test images that the clean model knows, got \d+$"):
        FeatureCollision(count=400).bound(4).prepare(lab)


def test_poisons_lie_near_their_targets_and_look_like_their_bases(lab: Lab, tiny_data: DataSet) -> None:
    attack = FeatureCollision(target=3, iterations=60).bound(4)
    attack = attack.bound(4, attack.prepare(lab))
    assert lab.clean is not None
    places = (tiny_data.train.y == 3).nonzero()[:32, 0]
    base = tiny_data.train.x[places].float() / 255
    made = attack.craft(base, tiny_data.train.y[places], POISONED, generator(0, "poison"), lab)
    goal = TestSet.of(tiny_data.test, attack).triggered
    assert goal is not None
    with torch.no_grad():
        near, before, there = (features(lab.clean, x)[0] for x in (made, base, goal))
    assert ((near - there).norm(dim=1) < (before - there).norm(dim=1)).all()
    assert (near - there).norm(dim=1).mean() < 0.5 * (before - there).norm(dim=1).mean()
    assert (made - base).square().mean() < (made - goal).square().mean()
    # A heavier weight on the likeness keeps them nearer to their bases.
    alike = attack.model_copy(update={"similarity": 50.0})._collide(lab, base, goal)
    assert (alike - base).square().mean() < (made - base).square().mean()


def test_bases_are_shared_out_to_the_targets_that_they_lie_closest_to(lab: Lab, tiny_data: DataSet) -> None:
    distances = torch.tensor([[1.0, 9.0], [2.0, 3.0], [3.0, 1.0], [4.0, 2.0], [0.0, 0.5]])
    # In turn: row 4, row 2, row 0, row 3, row 1.
    assert shared_out(distances).tolist() == [0, 0, 1, 1, 0]
    attack = FeatureCollision(target=3, iterations=1, bases="nearest").bound(4)
    attack = attack.bound(4, attack.prepare(lab))
    places = (tiny_data.train.y == 3).nonzero()[:64, 0]
    base, y = tiny_data.train.x[places].float() / 255, tiny_data.train.y[places]
    goal = TestSet.of(tiny_data.test, attack).triggered
    assert lab.clean is not None
    assert goal is not None
    with torch.no_grad():
        before, there = (features(lab.clean, x)[0] for x in (base, goal))
    whose = shared_out(torch.cdist(before, there))
    assert whose.bincount().tolist() == [2] * 32
    assert (before - there[whose]).norm(dim=1).mean() < (before - there[torch.arange(64) % 32]).norm(dim=1).mean()
    made = attack.craft(base, y, POISONED, generator(0, "poison"), lab)
    assert torch.equal(made, attack._collide(lab, base, goal[whose]))
    # What was recorded before there was a choice is still the same attack.
    assert "bases" not in FeatureCollision().model_dump(mode="json")


def test_the_victim_keeps_the_clean_features_and_trains_a_new_last_layer(lab: Lab, clean_tiny: Classifier) -> None:
    model, procedure = tiny.tiny_model(tiny.PLANTED, seed=7), Transfer(True, lab)
    head = model.net.fc.weight.clone()
    procedure.begin(model)
    x = lab.compute.images(lab.images.x[:20])
    assert torch.equal(model.net.fc.weight, head)
    assert torch.allclose(features(model.eval(), x)[0], features(clean_tiny, x)[0], atol=1e-4)
    loss, logits, y = procedure.loss(model, x, lab.images.y[:20], generator(0, "step"), 0.0)
    loss.backward()
    assert logits.shape == (20, 4)
    assert torch.equal(y, lab.images.y[:20])
    assert {name for name, value in model.named_parameters() if value.grad is not None} == {
        "net.fc.weight", "net.fc.bias"
    }  # fmt: skip


def test_success_is_measured_on_the_chosen_images_as_they_are(
    lab: Lab, clean_tiny: Classifier, tiny_data: DataSet
) -> None:
    attack = FeatureCollision(target=3).bound(4)
    attack = attack.bound(4, attack.prepare(lab))
    test = TestSet.of(tiny_data.test, attack)
    assert test.triggered is not None
    assert test.truth is not None
    found = answers(clean_tiny, test, lab.compute)
    assert found.asr is None
    assert found.ra is None
    assert found.success is not None
    assert (found.success.value, found.success.n) == (0, 32)
    assert len(test.head(5).clean) == 5
    assert answers(clean_tiny, test.head(5), lab.compute).success.n == 32  # type: ignore[union-attr]


def test_commands(
    shapes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path))
    train = [*TRAIN_LITTLE, "--data", shapes, "--attack"]
    assert main([*train, "none", "--out", str(tmp_path / "clean")]) == 0
    bad = ["--twin", str(tmp_path / "clean"), "--set", "iterations=2", "--out", str(tmp_path / "bad")]
    assert main([*train, "fc", *bad, "--set", "model.width=8"]) == 2
    refused = capsys.readouterr().err.splitlines()[-1]
    assert refused == (
        "error: expected a clean model of the same architecture, resnet18 of 600 units, got another one of 300 units"
    )
    assert main([*train, "fc", *bad]) == 0
    result = open_run(tmp_path / "bad").result
    assert (result["asr"], result["ra"], result["n"]["success"]) == (None, None, 32)
    assert result["intervals"]["success"][0] <= result["success"] <= result["intervals"]["success"][1]
    suspect, common = str(tmp_path / "bad"), ["--samples", "40", "--device", "cpu"]
    assert main(["defend", suspect, "--defense", "activation", *common, "--out", str(tmp_path / "cut")]) == 0
    cut = open_run(tmp_path / "cut").result
    assert cut["success_before"] == result["success"]
    assert 0 <= cut["success_after"] <= 1
    assert (cut["asr_before"], cut["asr_after"], cut["der"]) == (None, None, None)
    assert (
        main(["sweep", suspect, "--score", "activation", "--points", "5", *common, "--out", str(tmp_path / "curve")])
        == 0
    )
    points = open_run(tmp_path / "curve").result["points"]
    assert points[0]["success"] == result["success"]
    assert points[0]["asr"] is None
    assert main(["defend", suspect, "--defense", "activation", "--trigger", "true", *common]) == 2
    assert main(["export", str(tmp_path / "cut"), "--out", str(tmp_path / "cut.safetensors")]) == 0
    assert any("images that the attacker chose" in file.read_text() for file in tmp_path.glob("*.md"))
    said = list(Questions().answer({"kind": "check", "suspect": suspect, "cut": []}))[-1].value
    assert said is not None
    assert (said["asr"], said["ra"]) == (None, None)
    assert said["success"]["value"] == result["success"]
