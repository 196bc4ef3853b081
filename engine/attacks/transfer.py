"""A victim who transfers: the features of a published network, with a last layer of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.attacks.base import Lab, Procedure
from engine.attacks.learning import features, last_linear


class Transfer(Procedure):
    """Training that starts from the clean model with a new last layer, and trains only that if ``frozen``."""

    def __init__(self, frozen: bool, lab: Lab) -> None:
        super().__init__()
        self.frozen, self.clean = frozen, lab.clean

    def begin(self, model: nn.Module) -> None:
        assert self.clean is not None
        own, last = model.state_dict(), id(last_linear(model).weight)
        head = {name.rpartition(".")[0] for name, value in model.named_parameters() if id(value) == last}
        keep = {key: value for key, value in own.items() if key.rpartition(".")[0] in head}
        model.load_state_dict({**self.clean.state_dict(), **keep})

    def loss(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        rng: torch.Generator,
        share: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        model.train(not self.frozen)
        if not self.frozen:
            return super().loss(model, x, y, rng, share)
        with torch.no_grad():
            found = features(model, x)[0]
        logits = last_linear(model)(found).float()
        return F.cross_entropy(logits, y), logits, y
