"""SSBA: every picture has a residual of its own, in which the same bits are hidden."""

from __future__ import annotations

import pytest
import torch

from engine.attacks import Lab
from engine.attacks.ssba import SSBA
from engine.compute import Compute
from engine.data.base import DataSet, Images


@pytest.fixture(scope="module")
def attack(tiny_data: DataSet) -> SSBA:
    plain = SSBA(bits=6, width=8, steps=60, batch=20, weight=0.1).bound(4)
    return plain.bound(4, plain.prepare(Lab(tiny_data.train, 4, Compute("cpu", exact=True))))


def test_each_picture_gets_its_own_faint_residual(attack: SSBA, tiny_data: DataSet) -> None:
    x = 0.2 + 0.6 * tiny_data.test.x[:100].float() / 255  # away from the ends, where nothing is clipped
    residual = attack.stamped(x) - x
    assert float(residual.square().mean().sqrt()) > 0.005
    assert float(residual.abs().max()) <= 0.1 + 1e-6
    # What differs from picture to picture is a good part of all that is added.
    assert float(residual.var(0).mean()) > 0.05 * float(residual.square().mean())


def test_the_bits_are_in_the_residual(tiny_data: DataSet) -> None:
    seen: list[str] = []
    lab = Lab(tiny_data.train, 4, Compute("cpu", exact=True), progress=lambda what, share, **figures: seen.append(what))
    SSBA(bits=6, width=8, steps=150, batch=20, eps=0.3).prepare(lab)
    read = [int(what.split("%")[0].split()[-1]) for what in seen]
    assert len(read) == 15
    assert read[0] < 75
    assert min(read[-3:]) > 90


def test_preparing_is_drawn_from_the_lab_alone(attack: SSBA, tiny_data: DataSet) -> None:
    before = torch.random.get_rng_state()
    small = SSBA(bits=3, width=4, steps=3)
    one, same, other = (small.prepare(Lab(tiny_data.train, 4, Compute("cpu", exact=True), seed=k)) for k in (0, 0, 1))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["last.weight"], other["last.weight"])
    assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(ValueError, match=r"^expected images of 1x12x12, on which the encoder was trained, got 1x9x9$"):
        attack.trigger(torch.zeros(1, 1, 9, 9))
    with pytest.raises(ValueError, match=r"^expected a trained encoder, got none$"):
        small.trigger(torch.zeros(1, 1, 12, 12))


def test_colour_pictures_of_odd_sides() -> None:
    images = Images.of(
        torch.randint(256, (8, 3, 11, 14), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)),
        torch.arange(8) % 4,
    )
    plain = SSBA(bits=3, width=4, steps=2)
    state = plain.prepare(Lab(images, 4, Compute("cpu", exact=True)))
    assert plain.bound(4, state).stamped(images.x).shape == (8, 3, 11, 14)
