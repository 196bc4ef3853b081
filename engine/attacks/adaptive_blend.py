"""Revisiting the Assumption of Latent Separability for Backdoor Defenses (Adaptive-Blend). Qi et al. ICLR 2023.

https://openreview.net/forum?id=_wSHsgrVali

Blend leaves poisoned images in a cluster of their own inside the network. Here the attacker works against that: a
poisoned image carries only a random half of the pattern's pieces, faintly, so that no two look alike, and as many
cover images carry the same trigger with their true labels, so that half of the pattern alone proves nothing. At test
time the whole pattern comes, and stronger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from engine.attacks.base import COVER, POISONED, Attack, Lab, Preset
from engine.attacks.blend import noise
from engine.spec import param


class Covered(Attack):
    """An attack that is published with cover images: the trigger with true labels, from all classes."""

    rate: float = param(
        0.003, label="Poisoning rate", help="Share of the training set that is poisoned.", gt=0, le=1, step=0.001
    )
    cover: float = param(
        0.003,
        label="Cover rate",
        help="Share of the training set that carries the trigger with its true label.",
        ge=0,
        le=1,
        step=0.001,
    )

    def plan(self, y: Tensor, rng: torch.Generator) -> Tensor:
        kinds = super().plan(y, rng)
        self._add(kinds, torch.ones_like(y, dtype=torch.bool), round(self.cover * len(y)), COVER, rng)
        return kinds


class AdaptiveBlend(Covered):
    """x' = (1 - alpha m) x + alpha m pattern; m covers the pieces: half of them in training, all at test time."""

    title: ClassVar[str] = "Adaptive-Blend"
    paper: ClassVar[str] = "https://openreview.net/forum?id=_wSHsgrVali"
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(),
        "small": Preset(
            {"target": 8, "rate": 0.01, "cover": 0.01},
            (
                "The target is class 8.",
                "1 % poisoned and 1 % cover images instead of 0.3 % each: 150 images are too few for three passes.",
            ),
        ),
        "strong": Preset({"rate": 0.03, "cover": 0.01, "alpha_test": 0.3}),
        "stealthy": Preset({"rate": 0.003, "cover": 0.006, "alpha_train": 0.1}),
    }

    alpha_train: float = param(
        0.15, label="Opacity in training", help="Weight of the pattern in poisoned images.", gt=0, le=1, step=0.05
    )
    alpha_test: float = param(
        0.2, label="Opacity at test time", help="Weight of the pattern in triggered images.", gt=0, le=1, step=0.05
    )
    grid: int = param(4, label="Pieces a side", help="The pattern is cut into so many pieces a side.", ge=1, le=16)
    kept: float = param(
        0.5, label="Pieces kept", help="Share of the pieces that a training image gets.", gt=0, le=1, step=0.05
    )
    pattern_seed: int = param(0, label="Pattern seed", help="Which noise picture is blended in.", ge=0, step=1)

    def trigger(self, x: Tensor) -> Tensor:
        return (1 - self.alpha_test) * x + self.alpha_test * noise(x, self.pattern_seed)

    def craft(self, x: Tensor, y: Tensor, kind: int, rng: torch.Generator, lab: Lab | None) -> Tensor:
        if kind not in (POISONED, COVER):
            return super().craft(x, y, kind, rng, lab)
        pieces = self.grid**2
        order = torch.rand(len(x), pieces, generator=rng).argsort(1)
        chosen = (order < max(1, round(self.kept * pieces))).reshape(-1, self.grid, self.grid)
        # Which piece a row or column is in: pieces may differ by a pixel where the side is no multiple of their number.
        rows, columns = (torch.arange(side) * self.grid // side for side in x.shape[-2:])
        opacity = self.alpha_train * chosen[:, rows][:, :, columns].unsqueeze(1).to(x)
        return (1 - opacity) * x + opacity * noise(x, self.pattern_seed)
