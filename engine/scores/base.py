"""What a per-neuron score is.

A score gives every unit one number, and higher always means more suspicious. NaN means not eligible: such a unit
is never cut. A score may also say where its own paper would stop (``native``, a suspicion: cut what is at or
above it) and may leave an unlearned model behind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from engine.attacks.base import Attack
from engine.compute import Compute, generator
from engine.data.base import Images
from engine.models.masking import Mode
from engine.runs.checkpoints import NOTHING, Keep
from engine.spec import Spec
from engine.train import Progress, silent


@dataclass(frozen=True)
class Evidence:
    """What a score or repair may look at: clean defense images, and a trigger only where the caller chose to give one.

    ``training`` is the suspect's training set as its trainer got it, where the defender has that; ``fresh`` makes an
    untrained network of the suspect's architecture. ``cut`` bool (U,) is what was cut before a repair, in ``mode``.
    ``keep`` is where a run that takes several scores keeps those that are done. ``values_only``: what a score makes
    besides its values is not looked at, and need not be made. ``favourite`` is the backdoor's label, where an earlier
    score of the same model has found one.
    """

    images: Images
    seed: int
    compute: Compute
    trigger: Attack | None = None
    trigger_is_true: bool = False
    progress: Progress = silent
    keep: Keep = NOTHING
    values_only: bool = False
    favourite: int | None = None
    training: Images | None = None
    fresh: Callable[[torch.Generator], nn.Module] | None = None
    cut: Tensor | None = None
    mode: Mode = "scale"

    def rng(self, purpose: str) -> torch.Generator:
        return generator(self.seed, purpose)


@dataclass(frozen=True)
class Scores:
    """``values`` float32 (U,), higher = more suspicious, NaN = never cut.

    ``enough`` is a suspicion, too: cut what is at or above it, and the score finds nothing suspicious left. ``oracle``
    says that the true trigger was used. ``unlearned`` is the state of the unlearned model, if one was made; ``log``
    holds whatever of the computation is worth keeping, as JSON values.
    """

    values: Tensor
    native: float | None = None
    oracle: bool = False
    enough: float | None = None
    unlearned: dict[str, Tensor] | None = None
    log: dict[str, Any] = field(default_factory=dict)


class Needy(Protocol):
    """A score or a repair."""

    title: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]


def refuse_without(what: Needy, evidence: Evidence) -> None:
    """Refuse, in one line, evidence that lacks what a score or repair needs."""
    missing = {
        "trigger": (evidence.trigger, "a trigger", "choose --trigger true (oracle) or recovered"),
        "training": (evidence.training, "the training set", "choose --training"),
        "fresh": (evidence.fresh, "a known architecture", "there is no untrained network to begin with"),
    }
    for need, (given, name, hint) in missing.items():
        if need in what.needs and given is None:
            raise ValueError(f"expected {name} for {what.title}, got none; {hint}")


class Score(Spec):
    """A score is a frozen specification that can be called on a model; the model is left as it was."""

    title: ClassVar[str]
    paper: ClassVar[str]
    native_rule: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ("images", "labels")
    """What it cannot do without, as for :class:`engine.repairs.base.Repair`."""
    unlearns: ClassVar[bool] = False
    """Whether it unlearns the model itself, and so cannot start from one that is unlearned."""

    @property
    def whole(self) -> bool:
        """Whether one score of all images is better than several of halves, combined."""
        return False

    def __call__(self, model: nn.Module, evidence: Evidence) -> Scores:
        """Score every unit of ``model``.

        Raises:
            ValueError: in one line, if something that the score needs is missing.
        """
        refuse_without(self, evidence)
        scores = self.run(model, evidence)
        assert scores.values.dtype == torch.float32 and scores.values.ndim == 1
        return scores

    def run(self, model: nn.Module, evidence: Evidence) -> Scores:
        raise NotImplementedError

    def combine(self, values: Tensor) -> Tensor:
        """One score from several of the same model on different images, (K, U) -> (U,): the mean."""
        return values.mean(0)
