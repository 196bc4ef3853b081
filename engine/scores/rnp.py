"""Reconstructive Neuron Pruning for Backdoor Defense (RNP). Li et al., ICML 2023.

https://arxiv.org/abs/2305.14876

Unlearn, then recover, with different means. First every weight is moved to *raise* the loss on a few clean
images, until the network has forgotten them: what it still does is the backdoor. Then the weights are frozen and
one scalar per filter is learned to lower the same loss. A scalar cannot rebuild what was forgotten; it can only
turn down the filters that stand in the way, and those are the backdoor's. They are cut from the original model.

    1. unlearn   max_theta  E[CE(f_theta(x), y)]           until the training accuracy is at most ``stop_acc``
    2. recover   min_m      alpha E[CE(f(x; m * gamma, beta), y)],   m in [0, 1]^U, m = 1 at the start
    3. score     1 - m; the paper cuts the original model's filters with m at or below a threshold

With ``against = "label"`` masks are learned only against the answer that the unlearned model favours, which the paper
detects the backdoor's label by: step 2 takes log(1 + exp(f_label(x) - f_y(x))) for the cross-entropy of images of other
classes, and weighs the label's own images as much as all of those.

With ``ground = "label"`` masks are learned on other grounds, and the unlearned model only names the label. Gradient
ascent wrecks clean features and backdoor alike, and its normalisation follows the defense images until a trigger means
little to it. So the backdoor is called up in two ways that leave clean features as they are, and masks have to do two
things at once: take its answer away there, and keep what the suspect itself knows.

    2a. lead      min_theta  E[T CE(f_theta(x) / T, label)] over images of other classes, in evaluation mode, until
                  ``lead_to`` of them are answered with the label: theta_1
    2b. recover   min_m      keep E[T^2 KL(f(x) / T, f(x; m * gamma) / T)] + own E[KL(f(x), f(x; m * gamma)); y = label]
                             + E[L(f_1(x; m * gamma_1), y)]
    2c. perturb   min_d      E[CE(f(x + d; m * gamma), label)] over images of other classes, |d|_2 <= reach sqrt(C H W)
    2d. recover   2b, and    + later E[L(f(x + d; m * gamma), y)]

with L as for ``against = "label"``, f the suspect, T ``temperature`` and Adam for the masks. The suspect's own answers
say more of what it knows than the few labels that it gets wrong (Hinton et al., https://arxiv.org/abs/1503.02531).
The label's own images are what masks against a label take most from, and few among all; they count once more,
unsoftened: that the suspect still gives its answer is asked for there, not how sure it was with the backdoor's help.
Steps 2c and 2d are done in each round after the first, each time on what the masks left. A change of every image, like
a trigger, reaches the backdoor from its input; the led weights reach it from within. At the end 2c is done once more,
without masks: it is ``enough`` to cut as many units as it takes until that change calls up the label in at most
``called`` of the images. Where the unlearned model gives no label in half of its answers, each that unlearning brings
forward (``rival``) is tried, and the one that the fewest cut units take away is the backdoor's: a class's own features
do not go with a few units, as a trigger's do (the thought of Neural Cleanse, Wang et al., S&P 2019: the label of the
smallest trigger). This is our own departure from the paper (which recovers triggers from the unlearned model, too, but
learns no masks on them); universal perturbations are Moosavi-Dezfooli et al., CVPR 2017,
https://arxiv.org/abs/1610.08401. The README says what it gains.

``unlearn_level`` and ``recover_level`` change the means, for comparison. A level brings its own way in both
directions: at the neuron level every weight moves at ``unlearn_lr``, at the filter level one scale per filter at
``mask_lr`` and ``alpha``. After a recovery of weights m is what became of each filter (``rnp_levels.shrinkage``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from engine.compute import Compute
from engine.data.base import Images
from engine.models.masking import masked
from engine.models.neurons import units
from engine.pruning.cut import cut_of, ladder
from engine.pruning.fold import Fold, upstream
from engine.resume import passes
from engine.scores.base import Evidence, Score, Scores
from engine.scores.rnp_levels import Scaled, plain, shrinkage
from engine.spec import param
from engine.train import batches, shift_and_flip, stage

Level = Literal["neuron", "filter"]
#: The favourite has no rivals if the unlearned model gives it in this share of all answers.
CLEAR = 0.5


@dataclass(frozen=True)
class Prepared:
    """What RNP has before it learns masks: the unlearned ``model`` (None where only values are wanted and the label is
    known), the ``ground`` that masks are learned on, the backdoor's ``label`` where it is looked for, and the log."""

    model: nn.Module | None
    ground: nn.Module
    label: int | None
    log: dict[str, Any]


@dataclass(frozen=True)
class Freed:
    """What it took to take a label away: masks (U,) in [0, 1] (nan: never cut), the suspicion from which on it is
    ``enough`` to cut (None where no cut is, or nobody asked), and the log."""

    mask: Tensor
    enough: float | None
    log: dict[str, Any]

    @property
    def units(self) -> int | None:
        """How many are cut where it is enough."""
        return None if self.enough is None else int((1 - self.mask >= self.enough).sum())


class _Seen:
    """Images as a masked network sees them while masks are learned, and the weight of what is asked of it there.

    Args:
        change: what every image is changed by, (1, C, H, W).
    """

    def __init__(self, learner: Scaled, weight: float, change: Tensor | None = None) -> None:
        self.learner, self.weight = learner, weight
        self._change, self._at, self._before = change, 0, torch.empty(0)

    def remember(self, x: Tensor, compute: Compute) -> None:
        """What comes before the first mask is computed once for images (N, C, H, W) that stay as they are."""
        if self._change is not None:
            x = torch.cat([self._changed(compute.images(part)) for part in x.split(compute.batch)])
        self._at, parts = upstream(self.learner.model, self.learner.first, x, compute)
        self._before = torch.cat(parts) if self._at else self._before

    def logits(self, index: Tensor, x: Tensor) -> Tensor:
        """The answers (N, classes) to images ``x`` (N, C, H, W), those of ``index`` (N,)."""
        if self._at:
            return self.learner.after(self._at, self._before[index.to(self._before.device)])
        return self.learner(self._changed(x))

    def _changed(self, x: Tensor) -> Tensor:
        return x if self._change is None else (x + self._change).clamp(0, 1)


def _apart(known: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """How far answers (n, classes) are from those that were known, softened: T^2 KL, as in distillation."""
    soft = F.kl_div(
        (logits / temperature).log_softmax(1),
        (known / temperature).log_softmax(1),
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * soft


class RNP(Score):
    """RNP with the published defaults of the official code (ResNet-18, CIFAR-10)."""

    title: ClassVar[str] = "RNP"
    paper: ClassVar[str] = "https://arxiv.org/abs/2305.14876"
    unlearns: ClassVar[bool] = True
    native_rule: ClassVar[str] = "mask at or below 0.7 (BackdoorBench's fixed value; the official code chooses none)"

    unlearn_lr: float = param(0.01, label="Unlearning rate", help="SGD rate of the ascent on clean loss.", gt=0, le=1)
    unlearn_passes: int = param(21, label="Unlearning passes", help="At most this many passes.", ge=1, le=200, step=1)
    lr_drop: int = param(
        10,
        label="Rate drop",
        help="Divide the unlearning rate by 10 after every so many passes; 0: never.",
        ge=0,
        step=1,
    )
    weight_decay: float = param(5e-4, label="Weight decay", help="Of the unlearning step.", ge=0, le=1)
    stop_acc: float = param(
        0.2,
        label="Stop at accuracy",
        help="Stop once the running training accuracy is this low.",
        ge=0,
        le=1,
        step=0.05,
    )
    temperature: float = param(
        1.0,
        label="Temperature",
        help="Of the unlearning loss; above 1, images the network is sure of count too.",
        ge=1,
        le=20,
        step=0.5,
    )
    recover_acc: float | None = param(
        None,
        label="Recover at accuracy",
        help="Learn the masks on the first state this bad, while unlearning goes on; none: the last, as published.",
        ge=0,
        le=1,
        step=0.05,
    )
    skip: float = param(
        0.0,
        label="Skip layers",
        help="Share of the layers, from the input, whose masks stay 1: what they compute serves every class.",
        ge=0,
        lt=1,
        step=0.05,
    )
    mask_lr: float = param(
        0.2, label="Mask rate", help="SGD rate of the masks; Adam's where they are learned on a label.", gt=0, le=10
    )
    mask_passes: int = param(
        20,
        label="Mask passes",
        help="Passes that learn the masks, in each round.",
        ge=1,
        le=200,
        step=1,
    )
    alpha: float = param(0.2, label="Alpha", help="Scale of the recovery loss.", gt=0, le=1)
    against: Literal["all", "label"] = param(
        "all",
        label="Recover against",
        help="all: cross-entropy, as published; label: only what went to the answer that the unlearned model favours.",
    )
    ground: Literal["unlearned", "label"] = param(
        "unlearned",
        label="Masks learned on",
        help="unlearned: the unlearned model, as published; label: the suspect led to the label that the unlearned "
        "model favours, together with the suspect itself.",
        tacit=True,
    )
    lead_lr: float = param(3e-5, label="Leading rate", help="SGD rate towards the label.", gt=0, le=1, tacit=True)
    lead_passes: int = param(
        30,
        label="Leading passes",
        help="At most this many passes towards the label.",
        ge=1,
        le=200,
        step=1,
        tacit=True,
    )
    lead_to: float = param(
        0.9,
        label="Lead to",
        help="Share of other classes' images that get the label at the end.",
        gt=0,
        le=1,
        step=0.05,
        tacit=True,
    )
    rounds: int = param(
        1,
        label="Rounds",
        help="The first learns masks on the led suspect, each later one also on a change of all images that still "
        "calls up the label.",
        ge=1,
        le=10,
        step=1,
        tacit=True,
    )
    later: float = param(
        0.5,
        label="Later rounds",
        help="Weight of the images changed in each later round; of the led suspect it is 1.",
        ge=0,
        le=10,
        step=0.1,
        tacit=True,
    )
    keep: float = param(
        1.0,
        label="Keep",
        help="Weight of how far the masks move the suspect's own answers to clean images.",
        ge=0,
        le=100,
        step=1,
        tacit=True,
    )
    own: float = param(
        0.0,
        label="Keep the label",
        help="Weight of how far the masks move the suspect's own answers to the label's own images.",
        ge=0,
        le=100,
        step=0.5,
        tacit=True,
    )
    reach: float = param(
        0.1,
        label="Reach",
        help="How far the change of all images goes: root mean square, in units of the value range.",
        gt=0,
        le=1,
        step=0.01,
        tacit=True,
    )
    reach_passes: int = param(
        10,
        label="Perturbing passes",
        help="Passes that look for the change.",
        ge=1,
        le=100,
        step=1,
        tacit=True,
    )
    called: float = param(
        0.2,
        label="Called up",
        help="It is enough to cut once one change of all images calls up the label in at most this share of them.",
        ge=0,
        le=1,
        step=0.05,
        tacit=True,
    )
    rival: float | None = param(
        None,
        label="Rivals",
        help="Where no label is half of the answers, try those whose log-probability unlearning raises at least this "
        "share as much as any other's; the one that the fewest cut units take away counts. None: only the favourite.",
        gt=0,
        le=1,
        step=0.05,
        tacit=True,
    )
    batch: int = param(128, label="Batch size", help="Images per step.", ge=2, le=1024, step=1)
    augment: bool = param(True, label="Augment", help="Random shift and flip, as in the official code.")
    # Left out of the record at the paper's own, so that the run ids of usual settings do not change.
    unlearn_level: Level = param(
        "neuron",
        label="Unlearning level",
        help="neuron: every weight climbs; filter: one scale per filter does, the weights are frozen.",
        tacit=True,
    )
    recover_level: Level = param(
        "filter",
        label="Recovery level",
        help="filter: one mask per filter is learned; neuron: every weight is, and a filter's mask is how much of it "
        "is left.",
        tacit=True,
    )

    @model_validator(mode="after")
    def _filters_on_a_label(self) -> Self:
        if self.ground == "label" and self.recover_level != "filter":
            raise ValueError(f"expected recover_level filter with the ground label, got {self.recover_level}")
        return self

    def run(self, model: nn.Module, evidence: Evidence) -> Scores:
        found = self.prepare(model, evidence)
        if self.ground == "label":
            freed = self._free(model, found, evidence)
        else:
            mask, recovery = self.recover(found.ground, evidence, found.label)
            mask[: self._first(model)] = torch.nan
            freed = Freed(mask, None, {**found.log, "recover": recovery})
        native = 0.3 if self.recover_level == "filter" else None  # no paper names one for other masks
        kept = found.model.state_dict().items() if found.model is not None else ()
        state = {key: value.detach().cpu().clone() for key, value in kept} or None
        return Scores(1 - freed.mask, native=native, enough=freed.enough, unlearned=state, log=freed.log)

    def _free(self, model: nn.Module, found: Prepared, evidence: Evidence) -> Freed:
        """Take the label away; of several that it may be, the one that goes with the fewest units."""
        assert found.label is not None
        rivals = self.rivals(model, found, evidence)
        labels, tried = [found.label, *rivals], []
        for k, label in enumerate(labels):
            # Each has its share of the second half of what is told.
            start = 0.5 + (k - 1) / (2 * len(labels))
            told = stage(evidence.progress, start, start + 1 / len(labels), f"label {label}: " if rivals else "")
            part = replace(evidence, progress=told, keep=evidence.keep.part(f"label {label}") if k else evidence.keep)
            ground, log = (found.ground, found.log["lead"]) if not k else self.lead(model, part, label)
            mask, recovery, perturb = self.recover_label(model, ground, part, label)
            mask[: self._first(model)] = torch.nan
            of_label = {"favourite": label, "lead": log, "recover": recovery, "perturb": perturb}
            enough = None
            if rivals or not evidence.values_only:
                enough, of_label["called"] = self.enough(model, part, label, 1 - mask)
            tried.append(Freed(mask, enough, {**found.log, **of_label}))
        best = min(tried, key=lambda one: len(one.mask) if one.units is None else one.units)
        if rivals:
            best.log["rivals"] = [{"label": one.log["favourite"], "units": one.units} for one in tried]
        return best

    def rivals(self, model: nn.Module, found: Prepared, evidence: Evidence) -> list[int]:
        """The labels, at most two, that unlearning brings forward almost as much as any: ``rival`` says how much.

        Ascent drives what a class is confused with forward, too: of a backdoor that was poisoned with right labels the
        most frequent answer may be the target's neighbour. It is then far from the only one; a clear favourite stands.
        """
        favourite = found.label
        if self.rival is None or favourite is None or found.model is None or evidence.favourite is not None:
            return []
        x, y = evidence.images.x, evidence.images.y
        before, after = (evidence.compute.logits(m, x).float().log_softmax(1) for m in (model, found.model))
        if float((after.argmax(1) == favourite).float().mean()) >= CLEAR:
            return []
        classes = range(after.shape[1])
        rise = torch.stack([(after - before)[y != label, label].mean() for label in classes]).nan_to_num(-torch.inf)
        near = [int(c) for c in rise.argsort(descending=True) if 0 < self.rival * rise.max() <= rise[c]]
        return [c for c in near if c != favourite][:2]

    def prepare(self, model: nn.Module, evidence: Evidence) -> Prepared:
        """Everything before the masks: unlearn, name the label, make what masks are learned on."""
        known, unlearned = evidence.favourite, None
        log: dict[str, Any] = {}
        if self.ground == "unlearned" or known is None or not evidence.values_only:
            unlearned, ground, log["unlearn"] = self.unlearn(model, evidence)
            log["forgot"] = log["unlearn"][-1]["acc"] <= self.stop_acc
        if self.ground == "unlearned" and self.against == "all":
            return Prepared(unlearned, ground, None, log)
        if known is None:
            assert unlearned is not None
            known = self.favourite(unlearned, evidence)
        log["favourite"] = known
        if self.ground == "label":
            ground, log["lead"] = self.lead(model, evidence, known)
        return Prepared(unlearned, ground, known, log)

    @property
    def whole(self) -> bool:
        """Masks that keep the suspect right are no longer a matter of the draw, and more images make better ones."""
        return self.ground == "label"

    def combine(self, values: Tensor) -> Tensor:
        """The geometric mean of the suspicions: a unit that one draw of images acquits is not cut for the others."""
        return (values + 1e-3).log().mean(0).exp().sub(1e-3).clamp_min(0)

    def _first(self, model: nn.Module) -> int:
        """The first unit that has a mask."""
        layers = units(model).layers
        return layers[int(self.skip * len(layers))].offset

    def unlearn(self, model: nn.Module, evidence: Evidence) -> tuple[nn.Module, nn.Module, list[dict[str, float]]]:
        """Gradient ascent on the clean loss: with every weight free, or with one scale per filter.

        Returns:
            The unlearned copy, the state on which masks are learned (the same unless ``recover_acc`` is set), and loss
            and accuracy per pass.
        """
        model = evidence.compute.model(copy.deepcopy(model)).train()
        half_way = copy.deepcopy(model)  # of the first pass that is bad enough to recover from
        learner: nn.Module = model if self.unlearn_level == "neuron" else Scaled(model)
        optimizer, weight = self._steps(self.unlearn_level, list(learner.parameters()))
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, self.lr_drop or self.unlearn_passes, gamma=0.1)
        rng = evidence.rng("unlearn")
        log: list[dict[str, float]] = []

        def fallen(to: float | None) -> bool:
            return to is not None and min((row["acc"] for row in log), default=1.0) <= to

        def enough() -> bool:
            done = evidence.values_only and (self.against == "all" or evidence.favourite is not None)
            return fallen(self.stop_acc) or (done and fallen(self.recover_acc))

        modules, n = {"model": learner, "half_way": half_way}, self.unlearn_passes
        for turn in passes(evidence.keep, "unlearn", n, modules, optimizer, schedule, rng, log, enough):
            before = fallen(self.recover_acc)
            loss_sum, right, seen = 0.0, 0, 0
            for _, x, y in self._batches(evidence, rng):
                with evidence.compute.autocast():
                    logits = learner(x).float()
                # Times the temperature, so that the rate means the same at every one.
                loss = self.temperature * F.cross_entropy(logits / self.temperature, y)
                optimizer.zero_grad()
                (-weight * loss).backward()
                optimizer.step()
                loss_sum += float(F.cross_entropy(logits.detach(), y)) * len(y)
                right += int((logits.detach().argmax(1) == y).sum())
                seen += len(y)
            schedule.step()
            log.append({"loss": loss_sum / seen, "acc": right / seen})
            evidence.progress(
                f"unlearning, pass {turn + 1}: accuracy {right / seen:.0%}",
                0.5 * (turn + 1) / self.unlearn_passes,
                loss=log[-1]["loss"],
            )
            if fallen(self.recover_acc) and not before:
                half_way.load_state_dict(plain(learner).state_dict())
        model = plain(learner)
        if not all(weight.isfinite().all() for weight in model.parameters()):
            rate = optimizer.param_groups[0]["initial_lr"]
            raise ValueError(f"expected unlearning to end somewhere, got infinite weights at the rate {rate}")
        return model, half_way if fallen(self.recover_acc) else model, log

    def _steps(self, level: Level, learned: list[nn.Parameter]) -> tuple[torch.optim.Optimizer, float]:
        """What moves parameters at a level, up or down, and the weight of the loss there."""
        neuron = level == "neuron"
        lr, decay = (self.unlearn_lr, self.weight_decay) if neuron else (self.mask_lr, 0.0)
        free = [p for p in learned if p.requires_grad]
        optimizer = torch.optim.SGD(free, lr=lr, momentum=0.9, weight_decay=decay)
        return optimizer, 1.0 if neuron else self.alpha

    def favourite(self, unlearned: nn.Module, evidence: Evidence) -> int:
        """The answer that the unlearned model gives too often: the backdoor's label, as the paper detects it."""
        logits, y = evidence.compute.logits(unlearned, evidence.images.x), evidence.images.y
        said, true = (labels.bincount(minlength=logits.shape[1]) for labels in (logits.argmax(1), y))
        return int((said - true).argmax())

    def _loss(self, logits: Tensor, y: Tensor, label: int | None) -> Tensor:
        """Cross-entropy; with a label, of the true answer against that one alone, and over the label's own images.

        What the unlearned model confuses among other classes then moves no mask. The label's own images weigh as much
        as all others: they alone tell the backdoor's filters from those that the class itself needs.
        """
        if label is None:
            return F.cross_entropy(logits, y)
        own = y == label
        two = F.softplus(logits[:, label] - logits.gather(1, y[:, None])[:, 0])
        parts = [F.cross_entropy(logits[own], y[own])] if own.any() else []
        parts += [two[~own].mean()] if not own.all() else []
        return torch.stack(parts).sum() / 2

    def recover(
        self, unlearned: nn.Module, evidence: Evidence, label: int | None = None
    ) -> tuple[Tensor, list[dict[str, float]]]:
        """Learn one mask per filter on the frozen unlearned model; returns masks (U,) in [0, 1] and loss per pass.

        At the neuron level every weight is learned, and the masks say how much of each filter is left. The running
        statistics follow the defense images, as in the official code, but only inside this function.
        """
        neuron = self.recover_level == "neuron"
        model = copy.deepcopy(unlearned).train().requires_grad_(neuron)
        rng, first = evidence.rng("recover"), self._first(model)
        learner: nn.Module = model if neuron else Scaled(model, first)
        optimizer, weight = self._steps(self.recover_level, list(learner.parameters()))
        masks = nn.ParameterList([learner.scales] if isinstance(learner, Scaled) else [])
        modules = {"model": model} if neuron else {"masks": masks}
        log: list[dict[str, float]] = []
        for turn in passes(evidence.keep, "recover", self.mask_passes, modules, optimizer, None, rng, log):
            loss_sum, right, seen = 0.0, 0, 0
            for _, x, y in self._batches(evidence, rng):
                with evidence.compute.autocast():
                    logits = learner(x).float()
                loss = self._loss(logits, y, label)
                optimizer.zero_grad()
                (weight * loss).backward()
                optimizer.step()
                with torch.no_grad():
                    for mask in masks:
                        mask.clamp_(0, 1)
                loss_sum += float(loss.detach()) * len(y)
                right += int((logits.detach().argmax(1) == y).sum())
                seen += len(y)
            log.append({"loss": loss_sum / seen, "acc": right / seen})
            done = 0.5 + 0.5 * (turn + 1) / self.mask_passes
            evidence.progress(f"recovering, pass {turn + 1} of {self.mask_passes}", done, loss=log[-1]["loss"])
        if neuron:
            example = evidence.compute.images(torch.zeros_like(evidence.images.x[:1]))  # only its shape matters
            return shrinkage(unlearned, model, example).cpu(), log
        return torch.cat([torch.ones(first), masks[0].detach().cpu().float()]), log

    def lead(self, model: nn.Module, evidence: Evidence, label: int) -> tuple[nn.Module, list[dict[str, float]]]:
        """A copy of ``model`` led to a label: one that answers clean images of other classes with it.

        The normalisation stays in evaluation mode, so that what means the label in the suspect still does here.

        Returns:
            The copy in evaluation mode; loss and share of other classes' images that got the label, per pass.

        Raises:
            ValueError: if there is no image of another class.
        """
        led = evidence.compute.model(copy.deepcopy(model)).eval().requires_grad_(True)
        optimizer = torch.optim.SGD(led.parameters(), lr=self.lead_lr, momentum=0.9)
        log: list[dict[str, float]] = []

        def there() -> bool:
            return bool(log) and log[-1]["share"] >= self.lead_to

        rng, n = evidence.rng("lead"), self.lead_passes
        for k in passes(evidence.keep, "lead", n, {"led": led}, optimizer, None, rng, log, there):
            log.append(self._towards(label, led, evidence, optimizer, rng, self.temperature))
            now = f"leading to the label, pass {k + 1}: {log[-1]['share']:.0%}"
            evidence.progress(now, 0.5, loss=log[-1]["loss"])
        return led, log

    def perturb(
        self, own: Scaled, evidence: Evidence, label: int, turn: int = 2
    ) -> tuple[Tensor, list[dict[str, float]]]:
        """The change d (1, C, H, W) of all images, in units of the value range, that best calls up a label.

        Args:
            own: the suspect under the masks of now, in evaluation mode.

        Returns:
            The change; loss and share of other classes' images that got the label, per pass.

        Raises:
            ValueError: if there is no image of another class.
        """
        rng = evidence.rng(f"perturb {turn}")
        shape = (1, *evidence.images.x.shape[1:])
        change = nn.Parameter((0.01 * torch.randn(shape, generator=rng)).to(evidence.compute.torch_device))
        longest = self.reach * change.numel() ** 0.5
        optimizer = torch.optim.Adam([change], lr=0.3 * self.reach)
        log: list[dict[str, float]] = []

        def shorten() -> None:
            with torch.no_grad():
                change.mul_((longest / change.norm()).clamp_max(1))

        def changed(x: Tensor) -> Tensor:
            shorten()
            return own((x + change).clamp(0, 1))

        kept = {"change": nn.ParameterList([change])}
        masks_learn = own.scales.requires_grad
        own.scales.requires_grad_(False)
        for k in passes(evidence.keep, f"perturb {turn}", self.reach_passes, kept, optimizer, None, rng, log):
            log.append(self._towards(label, changed, evidence, optimizer, rng))
            now = f"looking for what still calls up the label, pass {k + 1}: {log[-1]['share']:.0%}"
            evidence.progress(now, 0.5 + 0.5 * (turn - 1) / self.rounds, loss=log[-1]["loss"])
        own.scales.requires_grad_(masks_learn)
        shorten()
        return change.detach(), log

    def enough(
        self, suspect: nn.Module, evidence: Evidence, label: int, values: Tensor
    ) -> tuple[float | None, list[dict[str, float]]]:
        """The suspicion from which on cutting by ``values`` (U,) leaves nothing that calls up a label.

        One change of all images that brings the label about in the suspect as it is hardly does any more once the units
        that carry the label are cut. Clean accuracy says less: a few hundred images do not see its first points go.

        Returns:
            The suspicion, None where no cut is enough or even the suspect as it is does not follow the change; and the
            share of other classes' images that got the label, by units cut.
        """
        own = Scaled(evidence.compute.model(copy.deepcopy(suspect)).eval(), self._first(suspect))
        change, _ = self.perturb(own, evidence, label, self.rounds + 1)
        others = evidence.images[evidence.images.y != label]
        x = (evidence.compute.images(others.x) + change).clamp(0, 1)
        fold = Fold(own.model, self._first(suspect), x, evidence.compute)
        log: list[dict[str, float]] = []
        for count in ladder(int((~values.isnan()).sum())):
            threshold, cut = cut_of(values.numpy(), int(count))
            if log and log[-1]["pruned"] == cut.sum():
                continue  # equal masks are cut together
            with masked(own.model, torch.from_numpy(cut), evidence.mode):
                share = float((fold.logits().argmax(1) == label).float().mean())
            log.append({"pruned": int(cut.sum()), "share": share})
            if share <= self.called:
                return threshold, log
        return None, log

    def _towards(
        self,
        label: int,
        answer: Callable[[Tensor], Tensor],
        evidence: Evidence,
        optimizer: torch.optim.Optimizer,
        rng: torch.Generator,
        temperature: float = 1.0,
    ) -> dict[str, float]:
        """One pass over the images of other classes that brings their answers nearer to a label."""
        others = evidence.images[evidence.images.y != label]
        if not len(others):
            raise ValueError(f"expected images of other classes than {label}, got {len(evidence.images)} of it alone")
        loss_sum, got = 0.0, 0
        for _, x, _ in self._batches(replace(evidence, images=others), rng):
            with evidence.compute.autocast():
                logits = answer(x).float()
            loss = temperature * F.cross_entropy(logits / temperature, torch.full_like(logits[:, 0], label).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += float(loss.detach()) * len(x)
            got += int((logits.detach().argmax(1) == label).sum())
        return {"loss": loss_sum / len(others), "share": got / len(others)}

    def recover_label(
        self, suspect: nn.Module, ground: nn.Module, evidence: Evidence, label: int
    ) -> tuple[Tensor, list[dict[str, float]], list[dict[str, float]]]:
        """Learn one mask per filter that takes the label from all that calls it up and keeps what the suspect knows.

        Args:
            ground: the suspect, led to the label; it is frozen here.

        Returns:
            Masks (U,) in [0, 1]; per pass the loss, the accuracy where the label was called up, and the suspect's
            (``kept``); what :meth:`perturb` says of the later rounds.
        """
        rng, first = evidence.rng("recover"), self._first(suspect)
        own = Scaled(evidence.compute.model(copy.deepcopy(suspect)).eval(), first)
        known = self._answers(suspect, evidence)
        led = Scaled(ground.eval(), first)
        led.scales = own.scales
        masks = nn.ParameterList([own.scales])
        optimizer = torch.optim.Adam(masks, lr=self.mask_lr)
        seen: list[_Seen] = []

        def see(one: _Seen) -> None:
            if not self.augment:
                one.remember(evidence.images.x, evidence.compute)
            seen.append(one)

        see(_Seen(own, self.keep))
        see(_Seen(led, 1.0))
        log: list[dict[str, float]] = []
        found: list[dict[str, float]] = []
        for turn in range(1, self.rounds + 1):
            if turn > 1:
                change, rows = self.perturb(own, evidence, label, turn)
                see(_Seen(own, self.later, change))
                found += rows
            done: list[dict[str, float]] = []
            for _ in passes(
                evidence.keep, f"recover {turn}", self.mask_passes, {"masks": masks}, optimizer, None, rng, done
            ):
                done.append(self._mask_pass(known, seen, evidence, label, optimizer, rng))
                passed = (turn - 1 + len(done) / self.mask_passes) / self.rounds
                what = f"recovering, pass {len(log) + len(done)} of {self.rounds * self.mask_passes}"
                evidence.progress(what, 0.5 + 0.5 * passed, loss=done[-1]["loss"])
            log += done
        return torch.cat([torch.ones(first), own.scales.detach().cpu().float()]), log, found

    def _answers(self, suspect: nn.Module, evidence: Evidence) -> Callable[[Tensor, Tensor], Tensor]:
        """What the suspect answers (n, classes) to images, given which they are (n,) and themselves (n, C, H, W)."""
        compute = evidence.compute
        if self.augment:
            return lambda _, x: compute.logits(suspect, x).to(x.device)
        all_of_them = compute.logits(suspect, evidence.images.x)
        return lambda index, x: all_of_them[index].to(x.device)

    def _mask_pass(
        self,
        known: Callable[[Tensor, Tensor], Tensor],
        seen: list[_Seen],
        evidence: Evidence,
        label: int,
        optimizer: torch.optim.Optimizer,
        rng: torch.Generator,
    ) -> dict[str, float]:
        """One pass over the images that moves the masks which all of ``seen`` share: the first is the suspect itself,
        which is held to its own answers, and from the others the label is taken."""
        own, *called = seen
        loss_sum, right, kept, n = 0.0, 0, 0, 0
        for index, x, y in self._batches(evidence, rng):
            with evidence.compute.autocast():
                logits = own.logits(index, x).float()
                freed = [one.logits(index, x).float() for one in called]
            answers, of_label = known(index, x), y == label
            loss = own.weight * _apart(answers, logits, self.temperature)
            if self.own and of_label.any():
                loss = loss + self.own * _apart(answers[of_label], logits[of_label], 1.0)
            for one, said in zip(called, freed, strict=True):
                loss = loss + one.weight * self._loss(said, y, label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                own.learner.scales.clamp_(0, 1)
            loss_sum += float(loss.detach()) * len(y)
            right += sum(int((said.detach().argmax(1) == y).sum()) for said in freed)
            kept += int((logits.detach().argmax(1) == y).sum())
            n += len(y)
        return {"loss": loss_sum / n, "acc": right / n / len(called), "kept": kept / n}

    def _batches(self, evidence: Evidence, rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Which images, (n,), themselves, (n, C, H, W) in [0, 1], and their labels, (n,)."""
        images: Images = evidence.images
        for index in batches(len(images), self.batch, rng):
            x = evidence.compute.images(images.x[index])
            if self.augment:
                x = shift_and_flip(x, rng)
            yield index, x, images.y[index].to(evidence.compute.torch_device)
