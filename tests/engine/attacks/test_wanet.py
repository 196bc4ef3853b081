"""WaNet's warp: golden positions, how far pixels move, and what noise mode adds."""

from __future__ import annotations

import pytest
import torch

from engine.attacks.base import CROSS
from engine.attacks.wanet import WaNet
from engine.compute import generator


def still(height: int, width: int) -> torch.Tensor:
    rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    return torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)], 2)


def test_positions_of_a_grid_as_large_as_the_picture() -> None:
    # With k = H the field is the control points themselves: torch's uniform numbers for seed 0, to mean size 1.
    attack, x = WaNet(grid=2, strength=0.5), torch.zeros(1, 1, 2, 2)
    control = torch.rand(1, 2, 2, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    control = control / control.abs().mean()
    expected = (still(2, 2) + 0.25 * control[0].permute(1, 2, 0)).clamp(-1, 1)
    assert torch.allclose(attack.positions(x), expected, atol=1e-6)


def test_pixels_move_by_about_half_the_strength() -> None:
    x = torch.zeros(1, 1, 28, 28)
    for strength in (0.5, 2.0):
        moved = (WaNet(strength=strength).positions(x) - still(28, 28))[2:-2, 2:-2].abs() * 27 / 2
        assert 0.25 * strength < float(moved.mean()) < 0.6 * strength
    positions = WaNet(rescale=0.5).positions(x)
    assert float(positions.abs().max()) < 0.55


def test_a_picture_of_one_colour_has_nothing_to_move_and_a_ramp_shows_the_field() -> None:
    attack = WaNet(strength=1.0)
    assert torch.allclose(attack.trigger(torch.full((1, 3, 9, 11), 0.5)), torch.full((1, 3, 9, 11), 0.5), atol=1e-6)
    ramp = torch.linspace(0, 1, 11).expand(1, 1, 9, 11).contiguous()
    assert torch.allclose(attack.trigger(ramp)[0, 0], (attack.positions(ramp)[..., 0] + 1) / 2, atol=1e-6)


def test_the_seed_is_the_warp() -> None:
    x = torch.rand(2, 1, 12, 12, generator=generator(0, "x"))
    assert torch.equal(WaNet(pattern_seed=1).trigger(x), WaNet(pattern_seed=1).trigger(x))
    assert not torch.equal(WaNet(pattern_seed=1).trigger(x), WaNet(pattern_seed=2).trigger(x))


def test_noise_mode_moves_each_pixel_of_each_image_a_little_further() -> None:
    attack = WaNet(strength=0.5)
    x = torch.linspace(0, 1, 12).expand(2, 1, 12, 12).contiguous()
    y = torch.zeros(2, dtype=torch.long)
    noisy = attack.craft(x, y, CROSS, generator(0, "noise"), None)
    away = (noisy - attack.trigger(x)).abs()
    # Noise of at most 1 / H in positions is 1 / 2H of a ramp across the whole picture.
    assert 0.2 / 24 < float(away.mean()) < 1 / 24
    assert float(away.max()) <= 1 / 24 + 1e-6
    assert not torch.equal(noisy[0], noisy[1])
    assert torch.equal(noisy, attack.craft(x, y, CROSS, generator(0, "noise"), None))


def test_settings_that_cannot_be() -> None:
    for wrong in ({"grid": 1}, {"strength": 0}, {"rescale": 1.5}, {"cross": 1.0}):
        with pytest.raises(ValueError, match="expected"):
            WaNet.build(wrong)
