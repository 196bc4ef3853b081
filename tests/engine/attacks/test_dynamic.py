"""The input-aware attack: generators, what the mask costs, one trigger per picture, and a resumed training's bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.attacks import Lab
from engine.attacks.base import CROSS, POISONED
from engine.attacks.dynamic import Dynamic, colours, opacity, sameness
from engine.attacks.generators import fresh, loaded, settle, stored
from engine.compute import Compute, generator
from engine.data.base import DataSet
from engine.metrics import TestSet
from engine.runs import checkpoints
from engine.runs.checkpoints import Keep
from engine.suspects import probe, taught
from engine.train import Training, train
from tests import tiny
from tests.interrupted import assert_resumes

EXACT = Compute("cpu", exact=True)
QUICK = Dynamic.build(tiny.ATTACK_SETTINGS["dynamic"], rate=0.2, cross=0.2)


def lab(data: DataSet, keep: Keep = checkpoints.NOTHING) -> Lab:
    return Lab(data.train, 4, EXACT, keep=keep)


@pytest.fixture(scope="module")
def prepared(tiny_data: DataSet) -> Dynamic:
    attack = QUICK.bound(4)
    return attack.bound(4, attack.prepare(lab(tiny_data)))


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 28, 28), (3, 13, 9), (1, 5, 12)])
def test_generators_take_any_size_and_draw_from_their_generator_alone(channels: int, height: int, width: int) -> None:
    state = torch.random.get_rng_state()
    net = fresh(channels, 2, 4, generator(0, "net"), EXACT).eval()
    same, other = (fresh(channels, 2, 4, generator(seed, "net"), EXACT).eval() for seed in (0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    x = torch.rand(3, channels, height, width, generator=generator(0, "x"))
    with torch.no_grad():
        made = net(x)
        assert made.shape == (3, 2, height, width)
        assert float(made.abs().max()) < 1
        assert torch.equal(made, same(x))
        assert not torch.equal(made, other(x))
        again = loaded(stored(net, "g"), "g", channels, x.device)
        assert torch.allclose(again(x), made, atol=1e-5)  # weights in another memory format
    assert not any(parameter.requires_grad for parameter in again.parameters())
    with pytest.raises(ValueError, match=rf"^expected images with {channels} channels for this trigger, got 2$"):
        loaded(stored(net, "g"), "g", 2, x.device)


def test_settled_statistics_are_those_of_the_pictures() -> None:
    net = fresh(1, 1, 4, generator(0, "net"), EXACT)
    x = torch.rand(12, 1, 8, 8, generator=generator(0, "x"))
    layer, weights = net.down1[0][1], [parameter.clone() for parameter in net.parameters()]
    settle(net, x.split(4))
    seen = net.down1[0][0](2 * x - 1).detach()
    assert torch.allclose(layer.running_mean, seen.mean((0, 2, 3)), atol=1e-5)
    expected = torch.stack([part.var((0, 2, 3)) for part in seen.split(4)]).mean(0)
    assert torch.allclose(layer.running_var, expected, atol=1e-5)
    assert layer.momentum == 0.1
    assert all(torch.equal(now, was) for now, was in zip(net.parameters(), weights, strict=True))


def test_a_trigger_that_was_never_trained_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^expected a trigger with a trained mask, got one that has learned nothing"):
        Dynamic().trigger(torch.zeros(1, 1, 12, 12))


def test_sameness_is_the_ratio_of_distances() -> None:
    x, made = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    x[1], made[1] = 0.5, 0.25
    assert float(sameness(x, made)) == pytest.approx(2.0, rel=1e-3)
    flat = torch.zeros(2, 1, 2, 2, requires_grad=True)
    sameness(x, flat).backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


def test_the_mask_comes_down_to_its_density_and_differs_between_pictures(prepared: Dynamic, tiny_data: DataSet) -> None:
    x = tiny_data.test.x[:50].float() / 255
    attack = QUICK.model_copy(update={"mask_epochs": 8}).bound(4)
    short, long = (opacity(loaded(s, "mask", 1, x.device), x) for s in (prepared.state, attack.prepare(lab(tiny_data))))
    assert float(long.mean()) < 0.15 < float(short.mean())
    assert float((long - long.roll(1, 0)).abs().max()) > 0.5


def test_the_trigger_is_the_formula(prepared: Dynamic, tiny_data: DataSet) -> None:
    procedure = prepared.procedure(lab(tiny_data))
    attack = taught(prepared, procedure)
    assert isinstance(attack, Dynamic)
    x = tiny_data.test.x[:6].float() / 255
    mask, pattern = (loaded(attack.state, name, 1, x.device) for name in ("mask", "pattern"))
    m = opacity(mask, x)
    assert torch.allclose(attack.trigger(x), (1 - m) * x + m * colours(pattern, x), atol=1e-6)


def test_a_step_trains_the_pattern_and_the_classifier_but_not_the_mask(prepared: Dynamic, tiny_data: DataSet) -> None:
    procedure, model = prepared.procedure(lab(tiny_data)), tiny.tiny_model().train()
    x, y = tiny_data.train.x[:60].float() / 255, tiny_data.train.y[:60]
    before = x.clone()
    loss, logits, labels = procedure.loss(model, x, y, generator(0, "train"), 0.0)
    loss.backward()
    assert torch.equal(x, before)
    assert logits.shape == (60, 4)
    kinds = prepared.draw(y, generator(0, "train"))
    assert torch.equal(labels[kinds != POISONED], y[kinds != POISONED])
    assert set(labels[kinds == POISONED].tolist()) == {0}
    assert (kinds == CROSS).any()
    for net in (model, procedure.modules["pattern"]):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert set(procedure.modules) == {"pattern"}
    # Nothing to poison in a batch of the target class, and no cross images: ordinary training.
    alone = prepared.model_copy(update={"cross": 0.0}).procedure(lab(tiny_data))
    only = y == 0
    loss, *_ = alone.loss(model, x[only], y[only], generator(0, "train"), 0.0)
    assert loss.isfinite()


def test_the_pattern_is_learned_and_the_probe_follows_it(prepared: Dynamic, tiny_data: DataSet) -> None:
    procedure, model = prepared.procedure(lab(tiny_data)), tiny.tiny_model()
    measure = probe(tiny_data.test, prepared, EXACT, 200, procedure)
    spec = Training(epochs=4, lr=0.05, batch=50)
    train(model, tiny_data.train, spec, generator(0, "order"), EXACT, probe=measure, procedure=procedure)
    end = measure(model)
    few = TestSet.of(tiny_data.test[:200], taught(prepared, procedure))
    assert few.wanted is not None
    assert few.triggered is not None
    said = EXACT.logits(model, few.triggered).argmax(1)
    assert end["asr"] == pytest.approx(float((said == few.wanted).float().mean()))
    assert end["asr"] is not None
    assert end["acc"] is not None
    assert end["asr"] > 0.5
    assert end["acc"] > 0.8


@pytest.mark.parametrize("after", [[0], [2, 5]])
def test_an_interrupted_training_goes_on_with_the_same_bits(
    prepared: Dynamic, tiny_data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: list[int]
) -> None:
    monkeypatch.setenv("UNMASK_CHECKPOINT_SECONDS", "0")

    def work(keep: Keep) -> dict[str, Tensor]:
        procedure, model = prepared.procedure(lab(tiny_data)), tiny.tiny_model()
        spec = Training(epochs=2, lr=0.05, batch=30)
        train(model, tiny_data.train[:130], spec, generator(0, "o"), EXACT, keep=keep, procedure=procedure)
        return {**model.state_dict(), **procedure.state()}

    assert_resumes(work, tmp_path, after)


def test_an_interrupted_mask_goes_on_with_the_same_bits(
    tiny_data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMASK_CHECKPOINT_SECONDS", "0")
    attack = QUICK.model_copy(update={"mask_epochs": 3}).bound(4)
    assert_resumes(lambda keep: attack.prepare(lab(tiny_data, keep)), tmp_path, [0, 1])
