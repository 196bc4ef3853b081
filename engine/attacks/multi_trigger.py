"""Multi-Trigger Backdoor Attacks: More Triggers, More Threats. Li et al. 2024.

https://arxiv.org/abs/2401.15295

Several attackers poison one training set. In *parallel* each poisoned image carries one trigger; *sequential* attackers
follow one another over the whole set, so that an image may by chance carry several; in a *hybrid* all triggers lie on
one image. The triggers share the network: they can weaken, strengthen or cover one another, and whoever removes one of
them has not removed the rest. So the attack success rate of every trigger alone is told beside that of all of them.
The paper takes ten published triggers; here they are those that need no preparation: patches in the corners (BadNets),
a noise picture (Blend) and a wave (SIG), the last with changed labels like the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import field_validator
from torch import Tensor

from engine.attacks.badnets import BadNets
from engine.attacks.base import Attack, Lab, Preset
from engine.attacks.blend import Blend
from engine.attacks.sig import SIG
from engine.spec import param

BLEND, WAVE = Blend(), SIG()
CORNERS = {"lower_right": [], "lower_left": [-1], "upper_right": [-2], "upper_left": [-1, -2]}
NAMES = (*CORNERS, "blend", "sig")


class MultiTrigger(Attack):
    """x' = t_k(x), or t_1(... t_K(x)) in a hybrid.

    At test time the trigger of an image is chosen by its own pixels: k = (sum of its 8-bit pixels) mod K.
    """

    title: ClassVar[str] = "Multi-trigger"
    paper: ClassVar[str] = "https://arxiv.org/abs/2401.15295"
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(),
        "small": Preset(
            {"target": 1, "rate": 0.1},
            (
                "The target is class 1.",
                "A tenth of the training set is poisoned instead of a hundredth, since three epochs show each of the "
                "triggers too seldom otherwise.",
            ),
        ),
        "strong": Preset({"rate": 0.2, "triggers": ",".join(NAMES)}),
        "stealthy": Preset({"rate": 0.002, "mode": "hybrid"}),
    }

    rate: float = param(
        0.01, label="Poisoning rate", help="Share of the training set, all triggers together.", gt=0, le=1, step=0.01
    )
    mode: Literal["parallel", "sequential", "hybrid"] = param(
        "parallel",
        label="Mode",
        help="One trigger an image; one after another, some images get several; or all at once.",
    )
    triggers: str = param(
        "lower_right,upper_left,blend,sig",
        label="Triggers",
        help=f"Names with commas between them: {', '.join(NAMES)}.",
    )
    size: int = param(3, label="Patch size", help="Side of the square patches in pixels.", ge=1, le=64, step=1)

    @field_validator("triggers")
    @classmethod
    def _known(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",")]
        if unknown := [name for name in names if name not in NAMES]:
            raise ValueError(f"expected triggers among {', '.join(NAMES)}, got {unknown[0]!r}")
        if len(set(names)) != len(names):
            raise ValueError(f"expected each trigger once, got {value!r}")
        return ",".join(names)

    @property
    def names(self) -> list[str]:
        return self.triggers.split(",")

    def variants(self) -> dict[str, Attack]:
        """The attack with each of its triggers alone, where it has several."""
        names = self.names if len(self.names) > 1 else []
        return {name: self.model_copy(update={"triggers": name}).bound(self._classes) for name in names}

    def fits(self, shape: tuple[int, int, int]) -> None:
        self._put(torch.zeros(1, *shape), torch.ones(1, len(self.names), dtype=torch.bool))

    def trigger(self, x: Tensor) -> Tensor:
        if self.mode == "hybrid":
            return self._put(x, torch.ones(len(x), len(self.names), dtype=torch.bool))
        own = (x * 255).round().long().flatten(1).sum(1) % len(self.names)
        return self._put(x, torch.nn.functional.one_hot(own, len(self.names)).bool())

    def craft(self, x: Tensor, y: Tensor, kind: int, rng: torch.Generator, lab: Lab | None) -> Tensor:  # noqa: ARG002
        """In parallel as many images for each trigger; in sequence others happen upon an image as on any of the set."""
        k = len(self.names)
        if self.mode == "hybrid":
            return self.stamped(x)
        which = torch.nn.functional.one_hot(torch.randperm(len(x), generator=rng) % k, k).bool()
        if self.mode == "sequential":
            which |= torch.rand(which.shape, generator=rng) < self.rate / k
        return self._put(x, which)

    def _put(self, x: Tensor, which: Tensor) -> Tensor:
        """The triggers that a row of ``which``, bool (N, K), names, in their order."""
        x = x.clone()
        for name, chosen in zip(self.names, which.to(x.device).T, strict=True):
            if chosen.any():
                x[chosen] = self._one(name, x[chosen])
        return x

    def _one(self, name: str, x: Tensor) -> Tensor:
        if name in CORNERS:
            turned = CORNERS[name]
            return BadNets(size=self.size).trigger(x.flip(turned)).flip(turned)
        return (BLEND if name == "blend" else WAVE).trigger(x)
