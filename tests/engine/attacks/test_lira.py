"""LIRA: the noise is bounded, who learns in which stage, and a resumed training's bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine.attacks import Lab
from engine.attacks.base import Procedure
from engine.attacks.lira import LIRA
from engine.compute import Compute, generator
from engine.data.base import DataSet
from engine.metrics import TestSet, answers
from engine.runs.checkpoints import Keep
from engine.suspects import taught
from engine.train import Training, train
from tests import tiny
from tests.interrupted import assert_resumes

EXACT = Compute("cpu", exact=True)
QUICK = LIRA.build(tiny.ATTACK_SETTINGS["lira"]).bound(4)


def procedure(attack: LIRA, data: DataSet) -> Procedure:
    return attack.procedure(Lab(data.train, 4, EXACT))


def gradients(net: nn.Module) -> list[bool]:
    return [parameter.grad is not None and bool(parameter.grad.any()) for parameter in net.parameters()]


@pytest.mark.parametrize("epsilon", [0.01, 0.3])
def test_the_noise_is_bounded(tiny_data: DataSet, epsilon: float) -> None:
    attack = LIRA(epsilon=epsilon, width=4).bound(4)
    attack = taught(attack, procedure(attack, tiny_data))
    x = tiny_data.test.x[:20].float() / 255
    away = (attack.trigger(x) - x).abs()
    assert 0.3 * epsilon < float(away.max()) <= epsilon + 1e-6


def test_the_generator_learns_in_the_first_stage_alone(tiny_data: DataSet) -> None:
    stages, model = procedure(QUICK, tiny_data), tiny.tiny_model().train()
    x, y = tiny_data.train.x[:40].float() / 255, tiny_data.train.y[:40]
    net, copy = stages.modules["generator"], stages.modules["copy"]
    assert all(torch.equal(value, copy.state_dict()[key]) for key, value in net.state_dict().items())
    loss, logits, labels = stages.loss(model, x, y, generator(0, "train"), 0.0)
    # The generator's gradient is there before the model's, and the model has none of it.
    assert any(gradients(net))
    assert not any(gradients(model))
    at = {name: parameter.grad.clone() for name, parameter in net.named_parameters() if parameter.grad is not None}
    loss.backward()
    assert all(gradients(model))
    assert all(torch.equal(dict(net.named_parameters())[name].grad, was) for name, was in at.items())
    assert not any(gradients(copy))
    assert model.training
    assert logits.shape == (80, 4)
    assert torch.equal(labels, torch.cat([y, torch.zeros(40, dtype=torch.long)]))

    stages.epoch_ended(model, 0.4)
    assert all(torch.equal(value, copy.state_dict()[key]) for key, value in net.state_dict().items())
    for parameter in net.parameters():
        parameter.grad = None
    stages.loss(model, x, y, generator(0, "train"), 0.5)[0].backward()
    assert all(parameter.grad is None for parameter in net.parameters())


def test_alpha_weighs_the_clean_loss(tiny_data: DataSet) -> None:
    x, y = tiny_data.train.x[:40].float() / 255, tiny_data.train.y[:40]
    found = []
    for alpha in (0.1, 0.5, 0.9):
        stages, model = procedure(QUICK.model_copy(update={"alpha": alpha}), tiny_data), tiny.tiny_model().eval()
        found.append(float(stages.loss(model, x, y, generator(0, "train"), 1.0)[0].detach()))
    assert found[1] == pytest.approx((found[0] + found[2]) / 2, rel=1e-5)
    assert found[0] != pytest.approx(found[2], rel=1e-3)


def test_a_share_of_the_batch_is_copied(tiny_data: DataSet) -> None:
    x = torch.rand(10, 1, 2, 2, generator=generator(0, "x"))
    assert len(LIRA(rate=0.3).copied(x)) == 3
    assert len(LIRA(rate=0.01).copied(x)) == 2
    counts = LIRA(rate=0.5).composition(tiny_data.train.y, generator(0, "poison"))
    assert counts == {"clean": 600, "poisoned": 225, "cover": 0, "cross": 0}


def test_it_is_learned(tiny_data: DataSet) -> None:
    stages, model = procedure(QUICK, tiny_data), tiny.tiny_model()
    spec = Training(epochs=4, lr=0.05, batch=50)
    train(model, tiny_data.train, spec, generator(0, "order"), EXACT, procedure=stages)
    found = answers(model.eval(), TestSet.of(tiny_data.test, taught(QUICK, stages)), EXACT)
    assert found.asr is not None
    assert found.asr.value > 0.8
    assert found.acc.value > 0.8


@pytest.mark.parametrize("after", [[0], [3, 4, 2]])
def test_an_interrupted_training_goes_on_with_the_same_bits(
    tiny_data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: list[int]
) -> None:
    monkeypatch.setenv("UNMASK_CHECKPOINT_SECONDS", "0")

    def work(keep: Keep) -> dict[str, Tensor]:
        # Fourteen steps: the seventh is the first of the second stage, inside the second epoch's half.
        stages, model = procedure(QUICK.model_copy(update={"joint": 0.6}), tiny_data), tiny.tiny_model()
        spec = Training(epochs=2, lr=0.05, batch=20)
        train(model, tiny_data.train[:130], spec, generator(0, "o"), EXACT, keep=keep, procedure=stages)
        return {**model.state_dict(), **stages.state()}

    assert_resumes(work, tmp_path, after)
