"""What an attack is: a trigger, a label rule, a poisoning rule and, where the attacker trains, a procedure.

Each attack is one frozen specification whose methods are these rules, so its ``repr`` is its complete configuration.
Triggers act on pixels in [0, 1], before any normalisation. What an attack works out before or during training (an
optimised patch, a generator's weights) is its *state*, plain tensors that are stored beside the model;
:meth:`Attack.bound` gives it back to the specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
import torch.nn.functional as F
from pydantic import PrivateAttr, model_validator
from torch import Tensor, nn

from engine.compute import Compute, generator
from engine.data.base import Images
from engine.runs.checkpoints import NOTHING, Keep
from engine.spec import Spec, param

#: What a training image is. Poisoned: trigger and, unless clean-label, the attacker's label. Cover: the same trigger
#: and the true label. Cross: another image's trigger, or noise like it, and the true label.
CLEAN, POISONED, COVER, CROSS = range(4)
KINDS = ("clean", "poisoned", "cover", "cross")
#: Images that a trigger is put on at once: a generator over a whole test set would need gigabytes.
_AT_ONCE = 1000


class Report(Protocol):
    """Called with what is being done and how much of it is done (0..1)."""

    def __call__(self, what: str, share: float, **figures: float | None) -> None: ...


def _silent(what: str, share: float, **figures: float | None) -> None:  # noqa: ARG001
    pass


@dataclass(frozen=True)
class Poisoned:
    """A poisoned training set; ``kinds`` uint8 (N,) says what each image is, see ``KINDS``."""

    images: Images
    kinds: Tensor

    @property
    def which(self) -> Tensor:
        """The poisoned images, bool (N,)."""
        return self.kinds == POISONED

    @property
    def counts(self) -> dict[str, int]:
        """How many images there are of each kind."""
        return _counts(self.kinds)


@dataclass(frozen=True)
class Lab:
    """What an attacker has at hand: the training images, where to compute, and a clean model where one is given."""

    images: Images
    classes: int
    compute: Compute
    seed: int = 0
    clean: nn.Module | None = None
    progress: Report = _silent
    keep: Keep = field(default=NOTHING)
    targets: Images | None = None
    """The pictures among which an attack without a trigger finds those that it wants misjudged: the test images."""

    def rng(self, purpose: str) -> torch.Generator:
        return generator(self.seed, purpose)

    def draw(self, n: int, rng: torch.Generator) -> Tensor:
        """Training images drawn with replacement, float (n, C, H, W) in [0, 1] on the device."""
        return self.compute.images(self.images.x[torch.randint(len(self.images), (n,), generator=rng)])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self.images.x.shape
        return channels, height, width


@dataclass(frozen=True)
class Preset:
    """Settings of an attack under a name; ``deviations`` says, one sentence each, where they leave the paper.

    ``epochs`` is how long the shipped model (``--preset demo``) trains, where three passes are not enough.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    deviations: tuple[str, ...] = ()
    epochs: int | None = None


class Procedure:
    """What an attacker does who controls training; called by :func:`engine.train.train` at every step.

    ``modules`` and ``optimizers`` are its own, beside the model's: they are part of the checkpoints, and the optimizers
    are stepped with the model's.
    """

    def __init__(self) -> None:
        self.modules: dict[str, nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}

    def begin(self, model: nn.Module) -> None:
        """Before the first step, and again before a training goes on: nothing here may draw random numbers."""

    def loss(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        rng: torch.Generator,  # noqa: ARG002
        share: float,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of a batch of clean images, float (N, C, H, W) in [0, 1] on the device, with labels (N,).

        Here that of ordinary training; an attacker who teaches something else overrides it.

        Args:
            share: how much of the training is done, 0..1.

        Returns:
            The loss to descend, logits (M, classes), and the labels (M,) that they are held to. Gradients are taken of
        that loss alone: what is optimised on the way must not leave any on the model (``torch.autograd.grad``).
        """
        logits = model(x).float()
        return F.cross_entropy(logits, y), logits, y

    def stepped(self, model: nn.Module, share: float) -> None:
        """After every step of the optimizers."""

    def epoch_ended(self, model: nn.Module, share: float) -> None:
        """After every epoch, before the model is probed."""

    def state(self) -> dict[str, Tensor]:
        """The state of the trigger that was learned, for :meth:`Attack.bound`."""
        return {}


class Attack(Spec):
    """A backdoor attack; subclasses add a trigger and their own settings. The defaults are the paper's."""

    title: ClassVar[str] = ""
    paper: ClassVar[str]
    clean_label: ClassVar[bool] = False
    """Clean-label attacks poison images of the target class only and change no label."""
    needs_clean_model: ClassVar[bool] = False
    """Whether a clean model (``--twin``) must be there before the images can be poisoned."""
    from_clean: ClassVar[bool] = False
    """Whether training goes on from that clean model's weights, which then must be of the same architecture."""
    controls: ClassVar[Literal["data", "training", "weights"]] = "data"
    """What the attacker has in hand: the training set, the whole training, or the weights of a trained model."""
    learned: ClassVar[bool] = False
    """Whether the trigger has a state: it does not exist before it was optimised or trained."""
    poisons_batches: ClassVar[bool] = False
    """Whether the procedure poisons batch by batch, so that the training set itself stays clean."""
    measures: ClassVar[Literal["trigger", "targets"]] = "trigger"
    """What tells how well the attack works: triggered test images (ASR), or the chosen ones, unchanged (success).

    An attack of the latter kind has the numbers of its test images, int64 (M,), in its state ``targets``."""
    rules: ClassVar[tuple[str, ...]] = ("all_to_one", "all_to_all", "source")
    presets: ClassVar[Mapping[str, Preset]] = {"paper": Preset()}

    target: int = param(0, label="Target class", help="The answer that the trigger forces.", ge=0, step=1)
    rate: float = param(
        0.1,
        label="Poisoning rate",
        help="Share of the training set that is poisoned; of the target class in clean-label attacks.",
        gt=0,
        le=1,
        step=0.01,
    )
    # Left out of the record where they are the usual ones, so that the run ids of usual attacks do not change.
    rule: Literal["all_to_one", "all_to_all", "source"] = param(
        "all_to_one",
        label="Label rule",
        help="all_to_one: the target; all_to_all: the class after the true one; source: the target, from one class.",
        tacit=True,
    )
    source: int | None = param(
        None,
        label="Source class",
        help="With the rule source: only images of this class are answered with the target; others carry the trigger "
        "with their true labels in training (Tang et al. 2021).",
        ge=0,
        step=1,
        tacit=True,
    )

    _classes: int = PrivateAttr(default=0)
    _state: dict[str, Tensor] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _rule_and_source(self) -> Self:
        name = type(self).__name__
        if self.rule not in self.rules:
            raise ValueError(f"expected rule to be one of {', '.join(self.rules)} for {name}, got {self.rule!r}")
        if (self.rule == "source") != (self.source is not None):
            raise ValueError("expected a source class with the rule source and with no other, got something else")
        if self.rule == "source" and self.source == self.target:
            raise ValueError(f"expected a source class other than the target, got {self.source}")
        return self

    # --- what it does to a picture and its label ---

    def trigger(self, x: Tensor) -> Tensor:
        """Put the trigger on test images: float (N, C, H, W) in [0, 1] -> the same shape and range.

        The same picture gets the same trigger, whatever else is in the batch.
        """
        raise NotImplementedError

    @torch.no_grad()
    def stamped(self, x: Tensor) -> Tensor:
        """:meth:`trigger` for any number of uint8 or float images, on the CPU."""
        parts = [self.trigger(part.float() / 255 if part.dtype == torch.uint8 else part) for part in x.split(_AT_ONCE)]
        return torch.cat(parts).cpu()

    def variants(self) -> dict[str, Attack]:
        """The attacks of which this one is made, by name, where it has several triggers."""
        return {}

    def label(self, y: Tensor) -> Tensor:
        """The answers that the attacker wants for triggered images of true labels ``y`` (N,)."""
        if self.rule == "all_to_all":
            if not self._classes:
                raise ValueError(
                    "expected to know the number of classes for the rule all_to_all, got an unbound attack"
                )
            return (y + 1) % self._classes
        wanted = torch.full_like(y, self.target)
        if self.source is None:
            return wanted
        return torch.where(y == self.source, wanted, y)

    def changed(self, y: Tensor) -> Tensor:
        """Which true labels the rule changes, bool (N,): the images on which ASR and RA are measured."""
        return self.label(y) != y

    # --- what must be known first ---

    def bound(self, classes: int, state: Mapping[str, Tensor] | None = None) -> Self:
        """This attack with the number of classes and, where it has one, the state of its trigger."""
        copy = self.model_copy()
        copy._classes = classes
        copy._state = dict(state or {})
        return copy

    def check(self, classes: int) -> None:
        """Refuse, in one line, what cannot be with so many classes."""
        for name, value in (("target", self.target), ("source", self.source)):
            if value is not None and value >= classes:
                raise ValueError(f"expected {name} between 0 and {classes - 1}, got {value}")

    def fits(self, shape: tuple[int, int, int]) -> None:
        """Refuse, in one line, images (C, H, W) that the trigger cannot be put on."""
        if not self.learned:
            self.trigger(torch.zeros(1, *shape))

    @property
    def classes(self) -> int:
        """How many there are; 0 before :meth:`bound`."""
        return self._classes

    @property
    def state(self) -> dict[str, Tensor]:
        """What the trigger has learned, for :meth:`bound`."""
        return self._state

    def clean_model(self, lab: Lab | None) -> nn.Module:
        """The clean model that the attack starts from.

        Raises:
            ValueError: in one line, if there is none.
        """
        if lab is None or lab.clean is None:
            raise ValueError(f"expected a clean model for {type(self).__name__} (--twin RUN or --twin train), got none")
        return lab.clean

    def prepare(self, lab: Lab) -> dict[str, Tensor]:  # noqa: ARG002
        """Work out the trigger's state before the images are poisoned; nothing by default."""
        return {}

    def procedure(self, lab: Lab) -> Procedure | None:  # noqa: ARG002
        """How the attacker trains; None for the ordinary training of a poisoned set."""
        return None

    # --- what it does to a training set ---

    def plan(self, y: Tensor, rng: torch.Generator) -> Tensor:
        """Choose the images to poison, before any of them is touched: kinds uint8 (N,) for true labels (N,).

        Raises:
            ValueError: if the rate poisons nothing, or more images than there are.
        """
        places = (y == self.target if self.clean_label else self.changed(y)).nonzero().squeeze(1)
        n = round(self.rate * (len(places) if self.clean_label else len(y)))
        if not 1 <= n <= len(places):
            possible = f"between 1 and {len(places):,} images"
            raise ValueError(f"expected a rate that poisons {possible}, got {self.rate} ({n:,})")
        kinds = torch.zeros(len(y), dtype=torch.uint8)
        kinds[places[torch.randperm(len(places), generator=rng)[:n]]] = POISONED
        if self.rule == "source":
            self._add(kinds, (y != self.source) & (y != self.target), n, COVER, rng)
        return kinds

    @staticmethod
    def _add(kinds: Tensor, candidates: Tensor, n: int, kind: int, rng: torch.Generator) -> None:
        """Make up to ``n`` clean images among the candidates, bool (N,), something else."""
        places = (candidates & (kinds == CLEAN)).nonzero().squeeze(1)
        kinds[places[torch.randperm(len(places), generator=rng)[:n]]] = kind

    def craft(self, x: Tensor, y: Tensor, kind: int, rng: torch.Generator, lab: Lab | None) -> Tensor:  # noqa: ARG002
        """Training images of one kind, float (N, C, H, W) in [0, 1] with true labels (N,), as the attacker stores them.

        By default what the trigger does at test time; attacks that hide differently in training override it.
        """
        return self.stamped(x)

    def poison(self, images: Images, rng: torch.Generator, lab: Lab | None = None) -> Poisoned:
        """Poison a training set; what is changed is rounded to 8 bits like any stored picture.

        Raises:
            ValueError: in one line, for a rate that cannot be, or without a clean model where one is needed.
        """
        if self.needs_clean_model:
            self.clean_model(lab)
        kinds = self.plan(images.y, rng)
        x, y = images.x.clone(), images.y.clone()
        for kind in (POISONED, COVER, CROSS):
            chosen = (kinds == kind).nonzero().squeeze(1)
            if len(chosen):
                made = self.craft(x[chosen].float() / 255, y[chosen], kind, rng, lab)
                x[chosen] = (made * 255).round().clamp(0, 255).to(torch.uint8)
        chosen = kinds == POISONED
        if not self.clean_label:
            y[chosen] = self.label(y[chosen])
        return Poisoned(Images(x, y, images.ids), kinds)

    def composition(self, y: Tensor, rng: torch.Generator) -> dict[str, int]:
        """How many images of each kind a training set with labels ``y`` (N,) has; expected numbers an epoch where
        they are chosen batch by batch.

        Raises:
            ValueError: as :meth:`plan`.
        """
        return _counts(self.plan(y, rng))


def _counts(kinds: Tensor) -> dict[str, int]:
    return dict(zip(KINDS, torch.bincount(kinds.long(), minlength=len(KINDS)).tolist(), strict=True))
