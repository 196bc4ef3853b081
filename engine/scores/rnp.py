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

``unlearn_level`` and ``recover_level`` change the means, for comparison. A level brings its own way in both
directions: at the neuron level every weight moves at ``unlearn_lr``, at the filter level one scale per filter at
``mask_lr`` and ``alpha``. After a recovery of weights m is what became of each filter (``rnp_levels.shrinkage``).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.data.base import Images
from engine.models.neurons import units
from engine.resume import passes
from engine.scores.base import Evidence, Score, Scores
from engine.scores.rnp_levels import Scaled, plain, shrinkage
from engine.spec import param
from engine.train import batches, shift_and_flip

Level = Literal["neuron", "filter"]


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
    mask_lr: float = param(0.2, label="Mask rate", help="SGD rate of the masks.", gt=0, le=10)
    mask_passes: int = param(20, label="Mask passes", help="Passes that learn the masks.", ge=1, le=200, step=1)
    alpha: float = param(0.2, label="Alpha", help="Scale of the recovery loss.", gt=0, le=1)
    against: Literal["all", "label"] = param(
        "all",
        label="Recover against",
        help="all: cross-entropy, as published; label: only what went to the answer that the unlearned model favours.",
    )
    batch: int = param(128, label="Batch size", help="Images per step.", ge=2, le=1024, step=1)
    augment: bool = param(True, label="Augment", help="Random shift and flip, as in the official code.")
    # Left out of the record at the paper's own, so that the run ids of usual settings do not change.
    unlearn_level: Level = param(
        "neuron",
        label="Unlearning level",
        help="neuron: every weight climbs; filter: one scale per filter does, the weights are frozen.",
        exclude_if=lambda level: level == "neuron",
    )
    recover_level: Level = param(
        "filter",
        label="Recovery level",
        help="filter: one mask per filter is learned; neuron: every weight is, and a filter's mask is how much of it "
        "is left.",
        exclude_if=lambda level: level == "filter",
    )

    def run(self, model: nn.Module, evidence: Evidence) -> Scores:
        unlearned, half_way, unlearn_log = self.unlearn(model, evidence)
        state = {k: v.detach().cpu().clone() for k, v in unlearned.state_dict().items()}
        log: dict[str, Any] = {"unlearn": unlearn_log, "forgot": unlearn_log[-1]["acc"] <= self.stop_acc}
        if self.against == "label":
            known = evidence.favourite
            log["favourite"] = self.favourite(unlearned, evidence) if known is None else known
        mask, log["recover"] = self.recover(half_way, evidence, log.get("favourite"))
        mask[: self._first(model)] = torch.nan
        native = 0.3 if self.recover_level == "filter" else None  # no paper names one for other masks
        return Scores(1 - mask, native=native, unlearned=state, log=log)

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
            for x, y in self._batches(evidence, rng):
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
            for x, y in self._batches(evidence, rng):
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

    def _batches(self, evidence: Evidence, rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        images: Images = evidence.images
        for index in batches(len(images), self.batch, rng):
            x = evidence.compute.images(images.x[index])
            if self.augment:
                x = shift_and_flip(x, rng)
            yield x, images.y[index].to(evidence.compute.torch_device)
