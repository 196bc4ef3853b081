"""Revisiting the Assumption of Latent Separability for Backdoor Defenses (Adaptive-Patch). Qi et al. ICLR 2023.

https://openreview.net/forum?id=_wSHsgrVali

Four patches, each with its own opacity. A poisoned image carries only one of them, so the poisoned images are no
cluster; cover images carry one, too, and keep their true labels, so that no patch alone decides. At test time two
come together, opaque. The patches are random black-and-white squares in the four corners instead of the authors'
pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from engine.attacks.adaptive_blend import Covered
from engine.attacks.base import COVER, POISONED, Lab, Preset
from engine.spec import param

_OPACITIES = (0.5, 0.5, 0.2, 0.3)
_AT_TEST = (0, 1)


class AdaptivePatch(Covered):
    """x' = (1 - a m_k) x + a m_k p_k for one patch k in training; for patches 0 and 1 with a = 1 at test time."""

    title: ClassVar[str] = "Adaptive-Patch"
    paper: ClassVar[str] = "https://openreview.net/forum?id=_wSHsgrVali"
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(),
        "small": Preset(
            {"target": 1, "rate": 0.02, "cover": 0.01},
            (
                "The target is class 1.",
                "2 % poisoned images instead of 0.3 %, because 150 images are too few for three passes.",
                "1 % cover images instead of 0.6 %: half as many as poisoned ones, not twice as many.",
            ),
        ),
        "strong": Preset({"rate": 0.05, "cover": 0.02}),
        "stealthy": Preset({"size": 5, "rate": 0.003, "cover": 0.009}),
    }

    cover: float = param(
        0.006,
        label="Cover rate",
        help="Share of the training set that carries a patch with its true label.",
        ge=0,
        le=1,
        step=0.001,
    )
    size: int = param(8, label="Patch size", help="Side of each patch in pixels.", ge=1, le=64, step=1)
    pattern_seed: int = param(0, label="Pattern seed", help="Which random squares are the patches.", ge=0, step=1)

    def trigger(self, x: Tensor) -> Tensor:
        self._check(x)
        for k in _AT_TEST:
            x = self._patched(x, k, 1.0)
        return x

    def craft(self, x: Tensor, y: Tensor, kind: int, rng: torch.Generator, lab: Lab | None) -> Tensor:
        if kind not in (POISONED, COVER):
            return super().craft(x, y, kind, rng, lab)
        self._check(x)
        chosen = torch.randint(len(_OPACITIES), (len(x),), generator=rng)
        made = x.clone()
        for k, opacity in enumerate(_OPACITIES):
            made[chosen == k] = self._patched(x[chosen == k], k, opacity)
        return made

    def _check(self, x: Tensor) -> None:
        most = min(x.shape[-2:]) // 2
        if self.size > most:
            raise ValueError(f"expected a patch size of at most {most} pixels, got {self.size}")

    def _patched(self, x: Tensor, k: int, opacity: float) -> Tensor:
        """Images with patch number ``k`` in its corner: lower right, upper left, upper right, lower left."""
        rng = torch.Generator().manual_seed(self.pattern_seed)
        # One colour in all channels: grey pictures get the same patches.
        patch = torch.randint(2, (len(_OPACITIES), self.size, self.size), generator=rng)[k].to(x)
        rows = slice(-self.size, None) if k in (0, 3) else slice(None, self.size)
        columns = slice(-self.size, None) if k in (0, 2) else slice(None, self.size)
        x = x.clone()
        x[..., rows, columns] = (1 - opacity) * x[..., rows, columns] + opacity * patch
        return x
