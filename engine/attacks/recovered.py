"""A trigger that a defender has recovered from a model: a mask and a pattern.

It is put on like the true one, so that everything which needs a trigger can work with it, but it is only the
defender's guess: what a score or repair does with it is no oracle.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from engine.attacks.base import Attack


class Recovered(Attack):
    """x' = (1 - m) x + m p, for the mask m (1, H, W) and the pattern p (C, H, W) of the state."""

    title: ClassVar[str] = "Recovered trigger"
    paper: ClassVar[str] = "https://doi.org/10.1109/SP.2019.00031"
    learned: ClassVar[bool] = True

    def trigger(self, x: Tensor) -> Tensor:
        if not {"mask", "pattern"} <= self.state.keys():
            raise ValueError("expected a trigger that was recovered, got one that is still to be found")
        mask, pattern = self.state["mask"].to(x), self.state["pattern"].to(x)
        return (1 - mask) * x + mask * pattern
