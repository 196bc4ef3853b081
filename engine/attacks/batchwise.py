"""Poisoning batch by batch: every image may carry the trigger in one epoch and be clean in the next.

Only an attacker who controls training can do that. Cross images carry a trigger that is not theirs, or noise like it,
and keep their labels: the network learns that nothing but the exact trigger counts.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from engine.attacks.base import COVER, CROSS, POISONED, Attack, Lab, Procedure
from engine.spec import param


class Batchwise(Attack):
    """An attack whose procedure chooses the images to poison in each batch."""

    controls: ClassVar[Literal["data", "training", "weights"]] = "training"
    poisons_batches: ClassVar[bool] = True

    rate: float = param(
        0.1, label="Poisoning rate", help="Share of every batch that is poisoned.", gt=0, le=1, step=0.01
    )
    cross: float = param(
        0.1,
        label="Cross rate",
        help="Share of every batch that carries a wrong trigger and its true label.",
        ge=0,
        lt=1,
        step=0.01,
    )

    def plan(self, y: Tensor, rng: torch.Generator) -> Tensor:
        kinds = super().plan(y, rng)
        self._add(kinds, torch.ones_like(y, dtype=torch.bool), round(self.cross * len(y)), CROSS, rng)
        return kinds

    def draw(self, y: Tensor, rng: torch.Generator) -> Tensor:
        """Choose the images of one batch: kinds uint8 (N,) for true labels (N,), on the CPU.

        Parts of images are rounded by chance, so that the shares hold on average in batches of any size.
        """

        def count(share: float) -> int:
            return int(share * len(y) + float(torch.rand((), generator=rng)))

        kinds, n = torch.zeros(len(y), dtype=torch.uint8), count(self.rate)
        self._add(kinds, self.changed(y), n, POISONED, rng)
        if self.rule == "source":
            self._add(kinds, (y != self.source) & (y != self.target), n, COVER, rng)
        self._add(kinds, torch.ones_like(y, dtype=torch.bool), count(self.cross), CROSS, rng)
        return kinds

    def procedure(self, lab: Lab) -> Procedure | None:
        return BatchPoisoning(self, lab)


class BatchPoisoning(Procedure):
    """Ordinary training on batches in which some images are crafted by the attack (:meth:`Attack.craft`)."""

    def __init__(self, attack: Batchwise, lab: Lab) -> None:
        super().__init__()
        self.attack, self.lab = attack, lab

    def loss(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        rng: torch.Generator,
        share: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        kinds = self.attack.draw(y.cpu(), rng)
        x, y = x.clone(), y.clone()
        for kind in (POISONED, COVER, CROSS):
            chosen = (kinds == kind).nonzero().squeeze(1).to(x.device)
            if len(chosen):
                with torch.no_grad():
                    x[chosen] = self.attack.craft(x[chosen], y[chosen], kind, rng, self.lab).to(x)
                if kind == POISONED:
                    y[chosen] = self.attack.label(y[chosen])
        return super().loss(model, x, y, rng, share)


class Copies(Attack):
    """An attack that shows the network triggered copies beside the clean images of each batch."""

    controls: ClassVar[Literal["data", "training", "weights"]] = "training"
    poisons_batches: ClassVar[bool] = True

    rate: float = param(
        1.0, label="Copy rate", help="Share of every batch that is also shown with the trigger.", gt=0, le=1, step=0.05
    )

    def composition(self, y: Tensor, rng: torch.Generator) -> dict[str, int]:  # noqa: ARG002
        changed = round(self.rate * int(self.changed(y).sum()))
        if not changed:
            raise ValueError(f"expected a rate that poisons at least one image, got {self.rate}")
        return {"clean": len(y), "poisoned": changed, "cover": 0, "cross": 0}

    def copied(self, x: Tensor) -> Tensor:
        """The images of a shuffled batch that are copied: at least two, where there are."""
        return x[: max(2, round(self.rate * len(x)))]
