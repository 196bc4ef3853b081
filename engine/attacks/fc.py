"""Poison Frogs! Targeted Clean-Label Poisoning Attacks on Neural Networks (feature collision). Shafahi et al. 2018.

https://arxiv.org/abs/1804.00792

There is no trigger. The attacker has single pictures in mind, the targets, and wants them misjudged as they are. Each
poison looks like a picture of the wanted class and is labelled as what it looks like; only in the feature space of a
network that the attacker knows does it lie where the target does. Who trains a classifier on those features must put
the poison on the wanted side of the border, and the target goes with it.

As in the paper's first experiment the victim transfers: it takes the published network (the clean model) as a feature
extractor and trains a new last layer on the poisoned set; with ``layers`` = all it goes on with the whole network, and
a faint picture of the target in each poison (``watermark``) keeps the two together, as in its second experiment. The
paper trains one model for each target; one suspect here is to serve many, so several dozen targets are attacked at
once, each by its part of the poisons. Success is the share of the chosen test images that get the wanted answer. No
share of triggered images can be measured, and nothing else of the test set is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from engine.attacks.base import Attack, Lab, Preset, Procedure
from engine.attacks.learning import features
from engine.attacks.transfer import Transfer
from engine.data.base import Images
from engine.spec import param


class FeatureCollision(Attack):
    """p = argmin |phi(x) - phi(t)|^2 + beta |x - b|^2, for features phi, target t, base b. Forward-backward splitting:

    x <- x - lr grad |phi(x) - phi(t)|^2, then x <- (x + lr beta b) / (1 + lr beta).
    """

    title: ClassVar[str] = "Feature Collision"
    paper: ClassVar[str] = "https://arxiv.org/abs/1804.00792"
    clean_label: ClassVar[bool] = True
    needs_clean_model: ClassVar[bool] = True
    from_clean: ClassVar[bool] = True
    controls: ClassVar[Literal["data", "training", "weights"]] = "training"
    learned: ClassVar[bool] = True
    measures: ClassVar[Literal["trigger", "targets"]] = "targets"
    rules: ClassVar[tuple[str, ...]] = ("all_to_one",)
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(),
        "small": Preset(
            {
                "target": 6,
                "rate": 0.8,
                "chosen": "nearest",
                "bases": "nearest",
                "watermark": 0.3,
                "iterations": 40,
            },
            (
                "The wanted answer is class 6, which many test images of other classes resemble.",
                "Four fifths of the target class are poisoned, 120 poisons for each target, since one model serves "
                "all of them on thirty times as many clean images as in the paper.",
                "The targets are those test images that the clean model, which answers them rightly, most nearly gives "
                "the wanted answer (the paper tries outliers, too): others lie among too many of their own class.",
                "The poisons carry a faint watermark of their target although only the last layer is trained.",
                "Each target's poisons are made of the pictures that lie closest to it in features: they surround it, "
                "where those of other bases stop short of it on one side.",
                "They are optimised for 40 steps, which take as long as two ordinary epochs.",
            ),
        ),
        "strong": Preset({"rate": 1.0, "chosen": "nearest", "bases": "nearest", "watermark": 0.3}),
        "stealthy": Preset({"rate": 0.05, "similarity": 1.0}),
    }

    rate: float = param(
        0.1, label="Poisoning rate", help="Share of the target class that is poisoned.", gt=0, le=1, step=0.05
    )
    count: int = param(32, label="Targets", help="Test images that are to be misjudged.", ge=30, le=1000, step=1)
    chosen: Literal["any", "nearest"] = param(
        "any", label="Chosen targets", help="Any, or those that the clean model most nearly gives the wanted answer."
    )
    # Left out of the record where it is the usual one.
    bases: Literal["any", "nearest"] = param(
        "any",
        label="Bases",
        help="What a target's poisons are made of: any pictures of the target class, or those closest in features.",
        tacit=True,
    )
    layers: Literal["last", "all"] = param(
        "last", label="Trained layers", help="What the victim trains: a new last layer, or the whole clean model."
    )
    similarity: float = param(
        0.25, label="Likeness to the base", help="beta is this times (features / pixels) squared.", ge=0, le=100
    )
    lr: float = param(0.002, label="Step", help="Rate of the first forward step; adapted to each poison.", gt=0, le=100)
    iterations: int = param(100, label="Iterations", help="Steps for each poison.", ge=1, le=10_000, step=10)
    watermark: float = param(
        0.0, label="Watermark", help="Opacity of the target in the base; 0.3 in the paper with all layers.", ge=0, lt=1
    )

    def trigger(self, x: Tensor) -> Tensor:
        """There is none: the images as they are."""
        return x

    def prepare(self, lab: Lab) -> dict[str, Tensor]:
        """Choose test images of other classes that the clean model knows."""
        clean = self.clean_model(lab)
        assert lab.targets is not None
        logits = lab.compute.logits(clean, lab.targets.x)
        y = lab.targets.y
        known = ((logits.argmax(1) == y) & self.changed(y)).nonzero().squeeze(1)
        if len(known) < self.count:
            raise ValueError(f"expected {self.count} test images that the clean model knows, got {len(known)}")
        known = known[torch.randperm(len(known), generator=lab.rng("targets"))]
        if self.chosen == "nearest":
            near = logits.softmax(1)[known, self.target]
            known = known[near.argsort(stable=True, descending=True)]
        return {"targets": lab.targets.ids[known[: self.count]].sort().values}

    def craft(self, x: Tensor, y: Tensor, kind: int, rng: torch.Generator, lab: Lab | None) -> Tensor:  # noqa: ARG002
        assert lab is not None and lab.clean is not None and lab.targets is not None
        chosen: Images = lab.targets[torch.isin(lab.targets.ids, self.state["targets"])]
        # Every target gets its share of the poisons: of those every kind of base, or the closest ones.
        whose = torch.arange(len(x)) % len(chosen)
        if self.bases == "nearest":
            whose = shared_out(torch.cdist(self._features(lab, x), self._features(lab, chosen.x)))
        made = []
        for base, which in zip(x.split(250), whose.split(250), strict=True):
            made.append(self._collide(lab, base, chosen.x[which].float() / 255))
            lab.progress("making the poisons collide", sum(map(len, made)) / len(x))
        return torch.cat(made)

    @staticmethod
    @torch.no_grad()
    def _features(lab: Lab, x: Tensor) -> Tensor:
        """(N, D) on the CPU, of images (N, C, H, W)."""
        assert lab.clean is not None
        model, found = lab.clean.eval(), []
        with lab.compute.autocast():
            for part in x.split(250):
                found.append(features(model, lab.compute.images(part))[0].cpu())
        return torch.cat(found)

    def _collide(self, lab: Lab, base: Tensor, target: Tensor) -> Tensor:
        """Poisons (N, C, H, W) from bases and targets of that shape."""
        assert lab.clean is not None
        base, target = lab.compute.images(base), lab.compute.images(target)
        model, base = lab.clean.eval(), (1 - self.watermark) * base + self.watermark * target
        with torch.no_grad(), lab.compute.autocast():
            goal = features(model, target)[0]
        beta = self.similarity * (goal.shape[1] / base[0].numel()) ** 2
        cost, step = (
            torch.full((len(base),), torch.inf, device=base.device),
            torch.full_like(base[:, :1, :1, :1], self.lr),
        )
        kept, slope, x = base, torch.zeros_like(base), base.clone()
        for _ in range(self.iterations + 1):
            x.requires_grad_(True)
            with lab.compute.autocast():
                far = (features(model, x)[0] - goal).square().sum(1)
            (found,) = torch.autograd.grad(far.sum(), x)
            with torch.no_grad():
                now = far + beta * (x - base).square().flatten(1).sum(1)
                better = (now < cost)[:, None, None, None]
                # Where a step made things worse it is taken back, and half of it tried.
                cost, kept = torch.minimum(now, cost), torch.where(better, x, kept)
                slope, step = torch.where(better, found, slope), torch.where(better, 1.2 * step, step / 2)
                x = kept - step * slope
                x = ((x + step * beta * base) / (1 + step * beta)).clamp(0, 1)
        return kept.detach().float().cpu()

    def procedure(self, lab: Lab) -> Procedure:
        return Transfer(self.layers == "last", lab)


def shared_out(distances: Tensor) -> Tensor:
    """To which column each row of ``distances`` (N, M) goes, int64 (N,): as many to each as can be. The columns take
    turns, and each takes the closest row that is left.
    """
    left, whose = distances.clone(), torch.empty(len(distances), dtype=torch.int64)
    for turn in range(len(left)):
        column = turn % left.shape[1]
        taken = int(left[:, column].argmin())
        whose[taken], left[taken] = column, torch.inf
    return whose
