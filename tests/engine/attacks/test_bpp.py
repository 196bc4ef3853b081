"""BPP: golden levels, dithering against the plain loop in reading order, and what a negative is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.attacks import Lab
from engine.attacks.base import CROSS, POISONED
from engine.attacks.bpp import BPP, dithered, rounded
from engine.compute import Compute, generator
from engine.data.base import DataSet


def test_levels() -> None:
    grey = torch.tensor([0.0, 0.1, 0.2, 0.5, 0.9, 1.0]).reshape(1, 1, 1, 6)
    assert BPP(levels=3).trigger(grey).flatten().tolist() == [0, 0, 0, 0.5, 1, 1]
    x = torch.rand(4, 3, 9, 9, generator=generator(0, "x"))
    for levels in (2, 4, 8, 64):
        for dithering in (False, True):
            attack = BPP(levels=levels, dithering=dithering)
            found = attack.trigger(x)
            assert len(found.unique()) <= levels
            # Twice is once.
            assert torch.allclose(attack.trigger(found), found, atol=1e-5)
    assert float((BPP(levels=8).trigger(x) - x).abs().max()) <= 1 / 14 + 1e-6


def in_reading_order(x: Tensor, levels: int) -> Tensor:
    x = x.clone()
    height, width = x.shape
    for i in range(height):
        for j in range(width):
            new = rounded(x[i, j], levels)
            error, x[i, j] = x[i, j] - new, new
            for down, along, share in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                if i + down < height and 0 <= j + along < width:
                    x[i + down, j + along] += error * share / 16
    return x


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 1), (1, 6), (7, 4), (4, 9)])
def test_dithering_is_the_loop_in_reading_order(height: int, width: int) -> None:
    x = torch.rand(2, 2, height, width, generator=generator(0, "x"), dtype=torch.float64)
    before, found = x.clone(), dithered(x, 4)
    assert torch.equal(x, before)
    for n in range(2):
        for c in range(2):
            assert torch.allclose(found[n, c], in_reading_order(x[n, c], 4), atol=1e-12)


def test_dithering_keeps_the_mean_grey() -> None:
    x = torch.full((1, 1, 28, 28), 0.4)
    assert float(BPP(levels=2).trigger(x).mean()) == 0
    assert float(BPP(levels=2, dithering=True).trigger(x).mean()) == pytest.approx(0.4, abs=0.03)


def test_a_negative_has_the_rounding_errors_of_another_picture(tiny_data: DataSet) -> None:
    attack, lab = BPP(levels=4), Lab(tiny_data.train, 4, Compute("cpu", exact=True))
    x, y = tiny_data.test.x[:5].float() / 255, tiny_data.test.y[:5]
    assert torch.equal(attack.craft(x, y, POISONED, generator(0, "n"), lab), attack.trigger(x))
    chosen = torch.randint(600, (5,), generator=generator(0, "n"))
    z = tiny_data.train.x[chosen].float() / 255
    expected = (x + attack.trigger(z) - z).clamp(0, 1)
    assert torch.equal(attack.craft(x, y, CROSS, generator(0, "n"), lab), expected)
