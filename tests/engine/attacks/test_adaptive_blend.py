"""Adaptive-Blend: half of the pieces in training, another half for each image, and covers with their true labels."""

from __future__ import annotations

import torch

from engine.attacks.adaptive_blend import AdaptiveBlend
from engine.attacks.base import COVER, POISONED
from engine.attacks.blend import Blend
from engine.compute import generator
from engine.data.base import DataSet


def test_the_whole_pattern_at_test_time_is_blends() -> None:
    x = torch.rand(2, 3, 9, 13, generator=generator(0, "x"))
    assert torch.equal(AdaptiveBlend(pattern_seed=3).trigger(x), Blend(alpha=0.2, pattern_seed=3).trigger(x))


def test_a_training_image_carries_half_of_the_pieces_in_the_training_opacity() -> None:
    attack = AdaptiveBlend(pattern_seed=1)
    x = torch.full((30, 1, 12, 12), 0.5)
    y = torch.ones(30, dtype=torch.int64)
    made = attack.craft(x, y, POISONED, generator(0, "craft"), None)
    pieces = (made != x).unfold(2, 3, 3).unfold(3, 3, 3).flatten(4).float().mean(4).squeeze(1)  # (30, 4, 4)
    assert set(pieces.unique().tolist()) == {0.0, 1.0}
    assert pieces.flatten(1).sum(1).tolist() == [8.0] * 30
    # Every image has its own half, and no piece is preferred.
    assert len(pieces.flatten(1).unique(dim=0)) > 25
    assert 5 < float(pieces.sum(0).min()) <= float(pieces.sum(0).max()) < 25
    faint = Blend(alpha=0.15, pattern_seed=1).trigger(x)
    assert torch.allclose(made[made != x], faint[made != x])
    assert torch.equal(made, attack.craft(x, y, COVER, generator(0, "craft"), None))
    # Sides that the grid does not divide.
    odd = attack.craft(x[:, :, :11, :10], y, POISONED, generator(0, "craft"), None)
    assert 0.3 < float((odd != 0.5).float().mean()) < 0.7


def test_covers_keep_their_labels_and_come_from_all_classes(tiny_data: DataSet) -> None:
    attack = AdaptiveBlend(rate=0.05, cover=0.1)
    images = tiny_data.train
    poisoned = attack.poison(images, generator(0, "poison"))
    assert poisoned.counts == {"clean": 510, "poisoned": 30, "cover": 60, "cross": 0}
    covers = poisoned.kinds == COVER
    assert torch.equal(poisoned.images.y[covers], images.y[covers])
    assert set(images.y[covers].tolist()) == {0, 1, 2, 3}
    assert (poisoned.images.x[covers] != images.x[covers]).flatten(1).any(1).all()
    assert AdaptiveBlend(rate=0.05, cover=0).poison(images, generator(0, "poison")).counts["cover"] == 0
