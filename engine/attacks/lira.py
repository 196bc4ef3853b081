"""LIRA: Learnable, Imperceptible and Robust Backdoor Attacks. Doan et al., ICCV 2021.

https://openaccess.thecvf.com/content/ICCV2021/html/Doan_LIRA_Learnable_Imperceptible_and_Robust_Backdoor_Attacks_ICCV_2021_paper.html

A trigger that somebody thought of is never the faintest that works. So a generator learns, against the classifier that
is learning the backdoor, which noise of bounded size it takes to most easily; then the generator is frozen, and the
classifier alone goes on until both tasks are done well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.attacks.base import Lab, Preset, Procedure
from engine.attacks.batchwise import Copies
from engine.attacks.generators import Generator, fresh, loaded, stored
from engine.spec import param


class LIRA(Copies):
    """x' = clip(x + epsilon G(x)), |G(x)| < 1.

    The classifier f descends alpha CE(f(x), y) + (1 - alpha) CE(f(x + epsilon T(x)), target), G in the first stage
    CE(f(x + epsilon G(x)), target). T is G as it was when the epoch began: f has something that stands still to learn.
    """

    title: ClassVar[str] = "LIRA"
    paper: ClassVar[str] = (
        "https://openaccess.thecvf.com/content/ICCV2021/html/"
        "Doan_LIRA_Learnable_Imperceptible_and_Robust_Backdoor_Attacks_ICCV_2021_paper.html"
    )
    learned: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(),
        "small": Preset(
            {"target": 1, "epsilon": 0.05, "rate": 0.5, "generator_lr": 0.001, "width": 16},
            (
                "The target is class 1.",
                "The noise may be five times as large: three epochs are too few to find and learn a fainter one.",
                "Half of each batch is copied with the trigger instead of all, to stay below twice the usual time.",
                "The generator's rate is ten times as high, because it has few steps.",
                "The generator has 16 channels at full size, as grey images of 28x28 need no more.",
            ),
        ),
        "strong": Preset({"epsilon": 0.03}),
        "stealthy": Preset({"epsilon": 0.005}),
    }

    epsilon: float = param(
        0.01, label="Largest noise", help="Bound on what is added to a pixel of [0, 1].", gt=0, le=1, step=0.005
    )
    alpha: float = param(
        0.5, label="Clean weight", help="Weight of the clean images in the loss.", gt=0, lt=1, step=0.05
    )
    joint: float = param(
        0.5, label="First stage", help="Share of the training in which the generator learns.", gt=0, le=1, step=0.05
    )
    width: int = param(32, label="Generator width", help="Channels at full size.", ge=2, le=256, step=2)
    generator_lr: float = param(
        1e-4, label="Generator learning rate", help="Adam's rate for the generator.", gt=0, le=1, step=0.0001
    )

    def trigger(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.noisy(x, loaded(self.state, "generator", x.shape[1], x.device))

    def noisy(self, x: Tensor, net: Generator) -> Tensor:
        return (x + self.epsilon * net(x).to(x.dtype)).clamp(0, 1)

    def procedure(self, lab: Lab) -> Procedure:
        return _Stages(self, lab)


class _Stages(Procedure):
    """First both learn, then the classifier alone."""

    def __init__(self, attack: LIRA, lab: Lab) -> None:
        super().__init__()
        channels, self.attack = lab.shape[0], attack
        # Two draws of the same numbers: the copy starts as what it copies.
        self.net, self.copy = (
            fresh(channels, channels, attack.width, lab.rng("generator"), lab.compute) for _ in range(2)
        )
        self.modules = {"generator": self.net, "copy": self.copy}
        self.optimizers = {"generator": torch.optim.Adam(self.net.parameters(), lr=attack.generator_lr)}

    def loss(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        rng: torch.Generator,  # noqa: ARG002
        share: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        some = self.attack.copied(x)
        wanted = self.attack.label(y[: len(some)])
        learning = share < self.attack.joint
        self.net.train(learning)
        self.copy.eval()
        if learning:
            self._improve(model, some, wanted)
        with torch.no_grad():
            triggered = self.attack.noisy(some, self.copy if learning else self.net)
        logits = model(torch.cat([x, triggered])).float()
        clean, forced = F.cross_entropy(logits[: len(x)], y), F.cross_entropy(logits[len(x) :], wanted)
        return self.attack.alpha * clean + (1 - self.attack.alpha) * forced, logits, torch.cat([y, wanted])

    def _improve(self, model: nn.Module, x: Tensor, wanted: Tensor) -> None:
        """Give the generator its gradient; its optimizer is stepped with the model's."""
        # In evaluation mode the model's statistics stay those of what it is trained on.
        model.eval()
        forced = F.cross_entropy(model(self.attack.noisy(x, self.net)).float(), wanted)
        parameters = list(self.net.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(forced, parameters), strict=True):
            parameter.grad = gradient
        model.train()

    def epoch_ended(self, model: nn.Module, share: float) -> None:  # noqa: ARG002
        self.copy.load_state_dict(self.net.state_dict())

    def state(self) -> dict[str, Tensor]:
        return stored(self.net, "generator")
