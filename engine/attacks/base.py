"""What an attack is: a trigger, a label rule and a poisoning rule.

Each attack is one frozen specification whose methods are these three rules, so its ``repr`` is its complete
configuration. Triggers act on pixels in [0, 1], before any normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from engine.data.base import Images
from engine.spec import Spec, param


@dataclass(frozen=True)
class Poisoned:
    """A poisoned training set; ``which`` (N,) marks the images that carry the trigger."""

    images: Images
    which: Tensor


class Attack(Spec):
    """All-to-one attack; subclasses add a trigger and their own settings."""

    paper: ClassVar[str]
    clean_label: ClassVar[bool] = False
    """Clean-label attacks stamp images of the target class only and change no label."""

    target: int = param(0, label="Target class", help="The answer that the trigger forces.", ge=0, step=1)
    rate: float = param(
        0.1,
        label="Poisoning rate",
        help="Share of the training set that is poisoned; of the target class in clean-label attacks.",
        gt=0,
        le=1,
        step=0.01,
    )

    def trigger(self, x: Tensor) -> Tensor:
        """Put the trigger on images: float (N, C, H, W) in [0, 1] -> the same shape and range."""
        raise NotImplementedError

    def label(self, y: Tensor) -> Tensor:
        """The answers that the attacker wants for true labels ``y`` (N,)."""
        return torch.full_like(y, self.target)

    def changed(self, y: Tensor) -> Tensor:
        """Which true labels the rule changes, bool (N,): the images on which ASR and RA are measured."""
        return self.label(y) != y

    def check(self, classes: int) -> None:
        if self.target >= classes:
            raise ValueError(f"expected target between 0 and {classes - 1}, got {self.target}")

    def poison(self, images: Images, generator: torch.Generator) -> Poisoned:
        """Poison a training set: stamp ``rate`` of it, rounded to 8 bits like any stored picture, and relabel."""
        candidates = ~self.changed(images.y) if self.clean_label else self.changed(images.y)
        places = candidates.nonzero().squeeze(1)
        n = round(self.rate * (len(places) if self.clean_label else len(images)))
        if not 1 <= n <= len(places):
            possible = f"between 1 and {len(places):,} images"
            raise ValueError(f"expected a rate that poisons {possible}, got {self.rate} ({n:,})")
        chosen = places[torch.randperm(len(places), generator=generator)[:n]]
        x, y = images.x.clone(), images.y.clone()
        x[chosen] = (self.trigger(x[chosen].float() / 255) * 255).round().clamp(0, 255).to(torch.uint8)
        if not self.clean_label:
            y[chosen] = self.label(y[chosen])
        which = torch.zeros(len(images), dtype=torch.bool)
        which[chosen] = True
        return Poisoned(Images(x, y, images.ids), which)
