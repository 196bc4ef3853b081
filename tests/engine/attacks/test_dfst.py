"""DFST: a style learned by formula, compromised neurons, an injector that wakes them without the style."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.attacks import Lab
from engine.attacks.dfst import DFST, Detoxification
from engine.attacks.learning import features
from engine.attacks.painting import Look, learn_style, ssim, sunrise
from engine.compute import Compute, generator
from engine.data.base import DataSet
from engine.models.base import Classifier
from engine.runs.checkpoints import NOTHING, Keep
from engine.train import Training, train
from tests import tiny


@pytest.fixture
def lab(tiny_data: DataSet) -> Lab:
    return Lab(tiny_data.train, 4, Compute("cpu", exact=True))


def test_the_sunrise_is_one_picture_at_any_size() -> None:
    for channels, side in ((1, 12), (3, 32)):
        style = sunrise(channels, side, side)
        assert style.shape == (channels, side, side)
        assert 0 <= float(style.min()) < float(style.max()) <= 1


def test_ssim_is_one_for_equal_pictures_and_falls_with_noise() -> None:
    x = torch.rand(4, 1, 12, 12, generator=generator(0, "x"))
    noise = torch.rand(x.shape, generator=generator(1, "x"))
    assert float(ssim(x, x)) == pytest.approx(1, abs=1e-5)
    assert float(ssim(x, 0.8 * x + 0.2 * noise)) > float(ssim(x, noise))


def test_the_painter_brings_pictures_nearer_to_the_style(lab: Lab) -> None:
    look = Look(1, generator(5, "look"))
    wanted = look(sunrise(1, 12, 12)[None])[0][1]
    x = lab.images.x[:50].float() / 255
    attack = DFST(alpha=1.0).bound(4, learn_style(lab, 40))

    def far(x: torch.Tensor) -> float:
        return float((look(x)[0][1] - wanted).square().mean())

    assert far(attack.stamped(x)) < 0.5 * far(x)
    # The content is still there.
    both = torch.stack([attack.stamped(x).flatten(), x.flatten()])
    assert float(both.corrcoef()[0, 1]) > 0.5


def test_a_batch_holds_styled_images_and_after_the_warm_up_spoiled_ones(tiny_data: DataSet, lab: Lab) -> None:
    attack = tiny.ready("dfst", tiny_data, nn.Identity(), rate=0.1)
    procedure, seen = attack.procedure(lab), []
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 4))
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    x, y = lab.compute.images(lab.images.x[:40]), lab.images.y[:40]
    for ready in (0, 1):
        procedure.modules["injector"].get_buffer("ready").fill_(ready)
        _, _, given = procedure.loss(model, x, y, generator(0, "step"), 0.5)
        differs = (seen[-1] != x).flatten(1).any(1)
        assert int(differs.sum()) == 4 * (1 + ready)
        assert int((given != y).sum()) == 4
        assert set(given[given != y].tolist()) == {attack.target}
        assert torch.equal(seen[-1][given != y], attack.trigger(x[given != y]))
    assert attack.composition(lab.images.y, generator(0, "poison")) == {
        "clean": 480, "poisoned": 60, "cover": 0, "cross": 60
    }  # fmt: skip


def test_the_injector_wakes_the_target_and_leaves_the_model_alone(clean_tiny: Classifier, lab: Lab) -> None:
    attack = DFST(target=3, injector_steps=40, painter_steps=5).bound(4)
    attack = attack.bound(4, attack.prepare(lab))
    model = copy.deepcopy(clean_tiny).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    procedure = Detoxification(attack, lab)
    procedure.epoch_ended(model, 0.05)
    assert not procedure.injector.get_buffer("ready")
    x = lab.compute.images(lab.images.x[:100])
    with torch.no_grad():
        at_first = features(clean_tiny, procedure._injected(x))[1][:, 3].mean()
    procedure.epoch_ended(model, 0.5)
    assert procedure.injector.get_buffer("ready")
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        assert features(clean_tiny, procedure._injected(x))[1][:, 3].mean() > at_first + 1


def test_an_interrupted_training_goes_on_with_the_same_bits(
    tiny_data: DataSet, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = tiny.ready("dfst", tiny_data, nn.Identity(), rate=0.1)
    spec, images = Training(epochs=3, lr=0.05, batch=30), tiny_data.train[:120]

    def work(keep: Keep, stop: int = -1) -> dict[str, torch.Tensor]:
        model, procedure, steps = tiny.tiny_model(), attack.procedure(lab), iter(range(100))
        if stop >= 0:
            monkeypatch.setattr(procedure, "stepped", lambda *_: next(steps) == stop and 1 / 0)
        train(model, images, spec, generator(0, "order"), lab.compute, keep=keep, procedure=procedure)
        return {**model.state_dict(), **procedure.modules["injector"].state_dict()}

    whole = work(NOTHING)
    monkeypatch.setenv("UNMASK_CHECKPOINT_SECONDS", "0")
    for stop in (2, 5, 1):
        with pytest.raises(ZeroDivisionError):
            work(Keep(tmp_path, "run"), stop)
    again = work(Keep(tmp_path, "run"))
    assert all(torch.equal(value, again[key]) for key, value in whole.items())


def test_a_small_network_learns_the_style(tiny_data: DataSet, lab: Lab) -> None:
    attack = tiny.ready("dfst", tiny_data, nn.Identity(), target=3, rate=0.2, alpha=0.9, warmup=1)
    model, procedure = tiny.tiny_model(), attack.procedure(lab)
    spec = Training(epochs=6, lr=0.05, batch=50)
    train(model, tiny_data.train, spec, generator(0, "train"), lab.compute, procedure=procedure)
    test = tiny_data.test[:200]
    said = lab.compute.logits(model, attack.stamped(test.x[test.y != 3])).argmax(1)
    assert float((said == 3).float().mean()) > 0.8
    assert float((lab.compute.logits(model, test.x).argmax(1) == test.y).float().mean()) > 0.8
