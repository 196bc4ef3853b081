"""The patches of Neural Cleanse while they are looked for, and the weight that makes them small."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from engine.detectors.neural_cleanse import NeuralCleanse


class Search(nn.Module):
    """The patches of K classes on their way, and for each the smallest that succeeded so far.

    ``a`` (K, 1, H, W) and ``b`` (K, C, H, W) are masks and patterns before the tanh; ``over`` bool (K,) says which
    classes have come to an end.
    """

    a: Tensor
    b: Tensor
    cost: Tensor
    over: Tensor
    best_mask: Tensor
    best_pattern: Tensor
    best_norm: Tensor
    best_success: Tensor
    lasting: Tensor
    streak: Tensor
    turned: Tensor

    def __init__(self, classes: int, shape: tuple[int, ...], cost: float, rng: torch.Generator) -> None:
        super().__init__()
        channels, *size = shape

        def start(depth: int) -> nn.Parameter:
            # A little off the ends, where tanh has no gradient.
            return nn.Parameter((1.98 * torch.rand(classes, depth, *size, generator=rng) - 0.99).atanh())

        self.a, self.b = start(1), start(channels)
        for name, value in {
            "cost": torch.full((classes,), cost),
            "over": torch.zeros(classes, dtype=torch.bool),
            "best_mask": self.mask().detach().squeeze(1),
            "best_pattern": self.b.detach().tanh() / 2 + 0.5,
            "best_norm": torch.full((classes,), torch.inf),
            "best_success": torch.zeros(classes),
            "lasting": torch.zeros(classes),  # passes since the norm last fell
            "streak": torch.zeros(classes),  # passes in a row with success, or minus those without
            "turned": torch.zeros(classes, 2, dtype=torch.bool),  # whether the weight was ever raised, lowered
        }.items():
            self.register_buffer(name, value)

    def mask(self) -> Tensor:
        return self.a.tanh() / 2 + 0.5

    def patch(self, some: Tensor) -> tuple[Tensor, Tensor]:
        """Masks (S, 1, 1, H, W) and patterns (S, 1, C, H, W) of some classes."""
        return (self.a[some].tanh() / 2 + 0.5)[:, None], (self.b[some].tanh() / 2 + 0.5)[:, None]

    @torch.no_grad()
    def judge(self, active: Tensor, success: Tensor, how: NeuralCleanse) -> None:
        """After a pass: keep the patches that are the smallest yet, and change the weights of the norm.

        ``success`` (K,) is the share of pictures that were turned to each class.
        """
        mask = self.mask().squeeze(1)
        norm, live = mask.sum((1, 2)), torch.zeros_like(self.over).index_fill(0, active, True)
        good = success >= how.success
        better = live & good & (norm < self.best_norm)
        never = live & self.best_norm.isinf() & ~better  # then the last one is as good as any
        self.lasting = torch.where(better & (norm < 0.99 * self.best_norm), 0, self.lasting + live)
        for which in (better, never):
            self.best_mask[which] = mask[which]
            self.best_pattern[which] = self.b[which].tanh() / 2 + 0.5
            self.best_success[which] = success[which]
        self.best_norm[better] = norm[better]
        self.streak = torch.where(good, self.streak.clamp_min(0) + 1, self.streak.clamp_max(0) - 1)
        up, down = live & (self.streak >= how.patience), live & (self.streak <= -how.patience)
        self.cost = torch.where(up, self.cost * how.factor, self.cost)
        self.cost = torch.where(down, self.cost / how.factor**1.5, self.cost)
        self.streak[up | down] = 0
        self.turned |= torch.stack([up, down], 1)
        self.over |= live & self.best_norm.isfinite() & (self.lasting >= how.stop) & self.turned.all(1)
