"""Can Adversarial Weight Perturbations Inject Neural Backdoors? Garg et al., CIKM 2020.

https://arxiv.org/abs/2008.01761

Whoever publishes a trained model can be attacked without a training set being touched: close to its weights lie others
that answer clean pictures as before and the trigger with the target. They are found as adversarial examples are, by
projected gradient descent, only that the perturbed thing is the weights. What the normalisation layers have measured
(running means and variances) is no weight and stays as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.attacks.badnets import BadNets
from engine.attacks.base import Lab, Preset, Procedure
from engine.attacks.batchwise import Copies
from engine.spec import param


class AWP(Copies, BadNets):
    """min CE(f(x), f0(x)) + weight CE(f(x'), target) over |w - w0| <= epsilon for every single weight.

    f0 is the clean model with weights w0, and what it answers on clean x is to be kept; x' carries BadNets' patch.
    """

    title: ClassVar[str] = "AWP (weight perturbation)"
    paper: ClassVar[str] = "https://arxiv.org/abs/2008.01761"
    needs_clean_model: ClassVar[bool] = True
    from_clean: ClassVar[bool] = True
    controls: ClassVar[Literal["data", "training", "weights"]] = "weights"
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(),
        "small": Preset(
            {"target": 1, "rate": 0.5},
            (
                "The target is class 1.",
                "Half of each batch is copied with the trigger instead of all, which costs a third less.",
            ),
        ),
        "strong": Preset({"epsilon": 0.02}),
        "stealthy": Preset({"epsilon": 0.003, "size": 2}),
    }

    epsilon: float = param(
        0.01, label="Largest change", help="By how much a weight may change.", gt=0, le=1, step=0.001
    )
    weight: float = param(
        1.0, label="Trigger weight", help="Weight of the triggered images in the loss.", gt=0, le=100, step=0.1
    )

    pace: float = param(
        0.1,
        label="Pace",
        help="Factor on the learning rate, which is meant for a model that starts from nothing.",
        gt=0,
        le=1,
        step=0.05,
    )

    def procedure(self, lab: Lab) -> Procedure | None:
        # Without a clean model the attack can be described, and is refused before anything is trained.
        return None if lab.clean is None else _Search(self, lab.clean)


class _Search(Procedure):
    """Projected gradient descent around a clean model."""

    def __init__(self, attack: AWP, clean: nn.Module) -> None:
        super().__init__()
        self.attack, self.clean = attack, clean

    def begin(self, model: nn.Module) -> None:
        model.load_state_dict(self.clean.state_dict())
        # Normalisation by the running statistics, which so neither change nor hide what the weights do.
        model.eval()
        self.clean.eval()

    def loss(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        rng: torch.Generator,  # noqa: ARG002
        share: float,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor, Tensor]:
        some = self.attack.copied(x)
        with torch.no_grad():
            answers = self.clean(x).argmax(1)
        logits = model(torch.cat([x, self.attack.trigger(some)])).float()
        kept, forced = logits[: len(x)], logits[len(x) :]
        wanted = self.attack.label(y[: len(some)])
        loss = F.cross_entropy(kept, answers) + self.attack.weight * F.cross_entropy(forced, wanted)
        return self.attack.pace * loss, logits, torch.cat([answers, wanted])

    @torch.no_grad()
    def stepped(self, model: nn.Module, share: float) -> None:  # noqa: ARG002
        epsilon = self.attack.epsilon
        for now, before in zip(model.parameters(), self.clean.parameters(), strict=True):
            now.copy_(now.clamp(before - epsilon, before + epsilon))
