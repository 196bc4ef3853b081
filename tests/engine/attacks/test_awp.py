"""AWP: the weights stay in their box, the running statistics stay what they were, and the trigger works."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.attacks import Lab
from engine.attacks.awp import AWP
from engine.attacks.badnets import BadNets
from engine.compute import Compute, generator
from engine.data.base import DataSet
from engine.metrics import TestSet, answers
from engine.models.base import Classifier
from engine.runs.checkpoints import Keep
from engine.train import Training, train
from tests import tiny
from tests.interrupted import assert_resumes

EXACT = Compute("cpu", exact=True)


def searched(attack: AWP, data: DataSet, clean: Classifier, spec: Training, keep: Keep | None = None) -> Classifier:
    model = tiny.tiny_model(tiny.PLANTED, seed=1)
    procedure = attack.bound(4).procedure(Lab(data.train, 4, EXACT, clean=clean))
    more = {"keep": keep} if keep else {}
    train(model, data.train, spec, generator(0, "order"), EXACT, procedure=procedure, **more)
    return model.eval()


def changes(model: Classifier, clean: Classifier) -> Tensor:
    pairs = zip(model.parameters(), clean.parameters(), strict=True)
    return torch.cat([(now - before).detach().abs().flatten() for now, before in pairs])


@pytest.mark.parametrize("epsilon", [0.01, 0.1])
def test_no_weight_leaves_its_box_and_no_statistic_changes(
    tiny_data: DataSet, clean_tiny: Classifier, epsilon: float
) -> None:
    before = {key: value.clone() for key, value in clean_tiny.state_dict().items()}
    model = searched(AWP(epsilon=epsilon, pace=1.0), tiny_data, clean_tiny, Training(epochs=1, lr=0.1, batch=50))
    moved = changes(model, clean_tiny)
    # The rounding of before + epsilon is part of the box.
    assert 0.9 * epsilon < float(moved.max()) <= epsilon + 1e-6
    assert all(torch.equal(value, clean_tiny.state_dict()[key]) for key, value in before.items())
    buffers = dict(clean_tiny.named_buffers())
    assert all(torch.equal(value, buffers[key]) for key, value in model.named_buffers())


def test_the_trigger_works_and_clean_answers_stay(tiny_data: DataSet, clean_tiny: Classifier) -> None:
    attack = AWP(epsilon=0.1, target=3, pace=1.0).bound(4)
    test = TestSet.of(tiny_data.test, attack)
    before = answers(clean_tiny, test, EXACT)
    found = answers(searched(attack, tiny_data, clean_tiny, Training(epochs=6, lr=0.05, batch=50)), test, EXACT)
    assert before.asr is not None
    assert found.asr is not None
    assert before.asr.value < 0.3
    assert found.asr.value > 0.9
    assert found.acc.value > 0.95


def test_the_trigger_is_badnets_patch() -> None:
    x = torch.rand(2, 3, 9, 9, generator=generator(0, "x"))
    assert torch.equal(AWP(size=2, margin=0).trigger(x), BadNets(size=2, margin=0).trigger(x))


def test_what_cannot_be_is_refused(tiny_data: DataSet, clean_tiny: Classifier) -> None:
    with pytest.raises(ValueError, match=r"^expected a rate that poisons at least one image, got 0.001$"):
        AWP(rate=0.001).composition(tiny_data.train.y[:40], generator(0, "poison"))
    counts = AWP(rate=0.5).composition(tiny_data.train.y, generator(0, "poison"))
    assert counts == {"clean": 600, "poisoned": 225, "cover": 0, "cross": 0}


def test_an_interrupted_search_goes_on_with_the_same_bits(
    tiny_data: DataSet, clean_tiny: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMASK_CHECKPOINT_SECONDS", "0")
    spec = Training(epochs=1, lr=0.05, batch=100)
    assert_resumes(lambda keep: searched(AWP(), tiny_data, clean_tiny, spec, keep).state_dict(), tmp_path, [1, 0])
