"""Removal of influential samples, by TracIn. Pruthi et al., Estimating Training Data Influence, NeurIPS 2020.

https://arxiv.org/abs/2002.08484

Put the trigger on a few clean images and ask which training samples taught the network to answer them with the
target. A sample did if a step on it is a step towards that answer too: if the two gradients point the same way. Those
samples are the poison; they are removed, and a fresh network is trained on the rest.

    m(z) = log p_y(z) / (1 - p_y(z))        how sure the network is of a sample's label
    influence(z) = < grad m(z), v >,    v = mean_t grad m(T(x_t), target),    gradients of all weights
    measured as  m(z) under theta  -  m(z) under theta - e v:  whose answers fall when the trigger's do

Nothing is computed sample by sample: one step away from the trigger's answers and two looks at the training set give
all products. Two things differ from the paper. It adds up checkpoints of the training; a defender has the last state
alone, where poison is known by heart and gradients of the loss are next to nothing. Those of m are not, as in TRAK
(Park et al. 2023, https://arxiv.org/abs/2303.14186). And they are not taken of the last layer only: there a backdoor
looks like its target class, whose clean samples came before the poison in every trial.

What it costs: two looks at the training set for the influence, then a whole training from scratch. The number of
poisoned samples is not known, so that a fixed share is removed; what is clean among it is lost.
"""

from __future__ import annotations

import copy
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from engine.compute import Compute
from engine.repairs.base import Repair, Repaired
from engine.repairs.tuning import Tuning, afresh, tune
from engine.scores.base import Evidence
from engine.spec import again, param

#: Samples between two words on the progress.
_AT_ONCE = 1000


class Influence(Tuning, Repair):
    """Training from scratch without the samples that taught the network to answer the trigger."""

    title: ClassVar[str] = "Influence removal"
    paper: ClassVar[str] = "https://arxiv.org/abs/2002.08484"
    needs: ClassVar[tuple[str, ...]] = ("images", "labels", "trigger", "training", "fresh")

    removed: float = param(
        0.15, label="Removed", help="Share of the training set that is removed.", gt=0, lt=1, step=0.01
    )
    probes: int = param(50, label="Probes", help="Triggered images that are asked about.", ge=1, le=10000, step=1)
    step: float = param(
        0.2,
        label="Step",
        help="How much of their sureness the probes should lose by the step that the training set is looked at before "
        "and after.",
        gt=0,
        le=1,
        step=0.05,
    )
    # No schedule is published for the training that follows: it is what networks of this size need.
    epochs: int = again(Tuning, "epochs", 15)
    lr: float = again(Tuning, "lr", 0.1)
    batch: int = again(Tuning, "batch", 128)

    def run(self, model: nn.Module, evidence: Evidence) -> Repaired:
        assert evidence.trigger is not None
        assert evidence.training is not None
        trigger, training, compute = evidence.trigger, evidence.training, evidence.compute
        probes = evidence.images[trigger.changed(evidence.images.y)][: self.probes]
        wanted = trigger.label(probes.y)
        away = stepped(model, trigger.stamped(probes.x), wanted, self.step, compute)
        parts = []
        for done, part in enumerate(torch.arange(len(training)).split(_AT_ONCE)):
            evidence.progress("looking at the training set", 0.1 * done * _AT_ONCE / len(training))
            images = training[part]
            before, after = (margins(compute.logits(each, images.x), images.y) for each in (model, away))
            parts.append(before - after)
        influence = torch.cat(parts)
        goes = torch.zeros(len(training), dtype=torch.bool)
        goes[influence.argsort(descending=True, stable=True)[: round(self.removed * len(training))]] = True
        fresh, whole = afresh(evidence, "fresh")
        log = tune(fresh, whole, self, "retrain", images=training[~goes], share=(0.1, 1.0))
        extras = {"influence": influence.numpy(), "removed": goes.numpy().astype(np.uint8)}
        about = {"removed": int(goes.sum()), "probes": len(probes), "target": int(wanted.mode().values)}
        return Repaired(fresh, log={**about, "tune": log}, extras=extras)


def margins(logits: Tensor, y: Tensor) -> Tensor:
    """How sure a network is of labels ``y`` (N,): the log of p / (1 - p), from logits (N, classes)."""
    own = logits.gather(1, y[:, None])
    others = logits.scatter(1, y[:, None], -torch.inf)
    return own.squeeze(1) - others.logsumexp(1)


def stepped(model: nn.Module, x: Tensor, y: Tensor, share: float, compute: Compute) -> nn.Module:
    """A copy of a model in evaluation mode, one step down the gradient of how sure it is of images ``x`` (N, C, H, W).

    Args:
        y: their labels (N,).
        share: how much of its mean sureness the step takes, to first order.
    """
    away = compute.model(copy.deepcopy(model)).eval().requires_grad_(True)
    sure = margins(away(compute.images(x)).float(), y.to(compute.torch_device)).mean()
    sure.backward()
    slopes = [(weight, weight.grad) for weight in away.parameters() if weight.grad is not None]
    rate = share * float(sure.detach().abs()) / max(sum(float(slope.square().sum()) for _, slope in slopes), 1e-30)
    with torch.no_grad():
        for weight, slope in slopes:
            weight.sub_(slope, alpha=rate)
    return away.requires_grad_(False)
