"""Adaptive-Patch: one patch an image in training, each with its own opacity; two opaque ones at test time."""

from __future__ import annotations

import pytest
import torch

from engine.attacks.adaptive_patch import AdaptivePatch
from engine.attacks.base import COVER, POISONED
from engine.compute import generator
from engine.data.base import DataSet


def corners(x: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Lower right, upper left, upper right, lower left."""
    return [x[..., -size:, -size:], x[..., :size, :size], x[..., :size, -size:], x[..., -size:, :size]]


def test_two_opaque_patches_at_test_time() -> None:
    x = torch.full((2, 3, 10, 11), 0.5)
    made = AdaptivePatch(size=3).trigger(x)
    first, second, third, fourth = corners(made, 3)
    for patch in (first, second):
        assert set(patch.unique().tolist()) == {0.0, 1.0}
        assert torch.equal(patch[0, 0], patch[1, 2])
    assert not torch.equal(first, second)
    assert (torch.cat([third, fourth]) == 0.5).all()
    assert int((made != x).sum()) == 2 * 3 * 2 * 9
    with pytest.raises(ValueError, match=r"^expected a patch size of at most 5 pixels, got 6$"):
        AdaptivePatch(size=6).trigger(x)


def test_one_faint_patch_in_training() -> None:
    attack = AdaptivePatch(size=4)
    x = torch.full((200, 1, 12, 12), 0.5)
    y = torch.ones(200, dtype=torch.int64)
    made = attack.craft(x, y, POISONED, generator(0, "craft"), None)
    changed = torch.stack([(part - 0.5).abs().amax((1, 2, 3)) for part in corners(made, 4)], 1)
    assert ((changed > 0).sum(1) == 1).all()
    # Half of the opacity: grey is in the middle between black and white.
    assert changed.amax(0).tolist() == pytest.approx([0.25, 0.25, 0.1, 0.15])
    assert 30 < int((changed > 0).sum(0).min()) <= int((changed > 0).sum(0).max()) < 70
    assert torch.equal(made, attack.craft(x, y, COVER, generator(0, "craft"), None))


def test_twice_as_many_covers_as_poisoned_images(tiny_data: DataSet) -> None:
    counts = AdaptivePatch(size=4).composition(tiny_data.train.y, generator(0, "poison"))
    assert counts == {"clean": 594, "poisoned": 2, "cover": 4, "cross": 0}
