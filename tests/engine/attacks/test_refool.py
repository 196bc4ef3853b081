"""Refool: a picture always gets the same reflection, and another picture often another."""

from __future__ import annotations

import pytest
import torch

from engine.attacks import Lab
from engine.attacks.refool import Refool, _number
from engine.compute import Compute, generator
from engine.data.base import DataSet


def prepared(data: DataSet, **settings: object) -> Refool:
    attack = Refool.build(settings).bound(4)
    return attack.bound(4, attack.prepare(Lab(data.train, 4, Compute("cpu", exact=True))))


def test_light_adds_up() -> None:
    bank = torch.tensor([0, 128, 255], dtype=torch.uint8).reshape(1, 1, 1, 3)
    x = torch.tensor([0.5, 0.0, 1.0]).reshape(1, 1, 1, 3)
    made = Refool(transmission=0.4).bound(4, {"reflections": bank}).trigger(x).flatten().tolist()
    # (0.4 * 0.5^2.2)^(1 / 2.2), (0.6 * (128 / 255)^2.2)^(1 / 2.2), 1.
    assert made == pytest.approx([0.32969, 0.39796, 1.0], abs=1e-4)
    x.requires_grad_()
    Refool().bound(4, {"reflections": bank * 0}).trigger(x * 0).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_a_picture_always_gets_the_same_reflection(tiny_data: DataSet) -> None:
    attack = prepared(tiny_data, reflections=10)
    numbers = _number(tiny_data.test.x.float() / 255)
    assert torch.equal(numbers[5:6], _number(tiny_data.test.x[5:6].float() / 255))
    shares = torch.bincount(numbers % 10, minlength=10)
    assert 20 < int(shares.min()) <= int(shares.max()) < 60
    # A picture that was rounded to 8 bits is the same picture.
    x = (tiny_data.test.x[:50].float() / 255 + 0.001).clamp(0, 1)
    assert torch.equal(_number(x), numbers[:50])
    assert torch.allclose(attack.trigger(x)[7:8], attack.trigger(x[7:8]), atol=1e-6)
    with pytest.raises(ValueError, match=r"^expected images of 1x12x12, as the reflections are, got 3x12x12$"):
        attack.trigger(torch.zeros(1, 3, 12, 12))
    with pytest.raises(ValueError, match=r"^expected reflections that were drawn, got none$"):
        Refool().trigger(x)


def test_reflections_are_of_other_classes_and_blurred_or_doubled() -> None:
    x = torch.zeros(1, 28, 28)
    x[0, 10, 10] = 1
    blurred = Refool(ghosts=0.0)._reflection(x, generator(0, "refool"))
    assert float(blurred.sum()) == pytest.approx(1, abs=1e-4)
    assert 0.2 < float(blurred.max()) < 0.9
    assert blurred.max() == blurred[0, 10, 10]
    doubled = Refool(ghosts=1.0)._reflection(x, generator(0, "refool"))
    assert float(doubled.sum()) == pytest.approx(1)
    places = doubled.nonzero().tolist()
    assert places[0] == [0, 10, 10]
    assert len(places) == 2
    assert 11 <= places[1][1] <= 14


def test_reflections_are_never_of_the_target_class(tiny_data: DataSet) -> None:
    marked = type(tiny_data.train)(
        (tiny_data.train.y == 2).to(torch.uint8)[:, None, None, None].expand(-1, 1, 12, 12) * 255,
        tiny_data.train.y,
        tiny_data.train.ids,
    )
    attack = Refool(target=2, reflections=40)
    made = attack.prepare(Lab(marked, 4, Compute("cpu", exact=True)))["reflections"]
    assert made.shape == (40, 1, 12, 12)
    assert made.dtype == torch.uint8
    assert int(made.max()) == 0
