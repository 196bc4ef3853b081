"""Masks learned against a known trigger: what the best small cut can do at all. Unmask's own, a yardstick.

No paper; the loss of triggered images is Grad-Prune's (https://arxiv.org/abs/2405.03918), the masks are RNP's
(https://arxiv.org/abs/2305.14876). Where a score without a trigger finds no cut, there is none, or the
score does not see it. This one tells the two apart: whoever has the trigger may ask for the masks directly.

    min_m  keep E[CE(f_m(x), y)] + E[CE(f_m(T(x)), y)] + tax sum(1 - m),      m in [0, 1]^U, m = 1 at the start
    score = 1 - m

Without the tax units that matter for nothing drift down, and a cut wastes itself on them. The network is in evaluation
mode, as it is when units are cut. With the true trigger the score is an oracle.
"""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.resume import passes
from engine.scores.base import Evidence, Score, Scores
from engine.scores.rnp_levels import Scaled
from engine.spec import param
from engine.train import batches


class TriggerMask(Score):
    """One minus the mask that makes triggered images right and keeps clean ones right."""

    title: ClassVar[str] = "Mask against the trigger"
    paper: ClassVar[str] = "https://arxiv.org/abs/2405.03918"
    needs: ClassVar[tuple[str, ...]] = ("images", "labels", "trigger")

    keep: float = param(2.0, label="Keep", help="Weight of the clean images' loss.", gt=0, le=100)
    tax: float = param(0.001, label="Tax", help="What turning a unit off costs.", ge=0, le=1)
    mask_lr: float = param(0.05, label="Mask rate", help="Adam's rate of the masks.", gt=0, le=1)
    mask_passes: int = param(25, label="Mask passes", help="Passes that learn the masks.", ge=1, le=500, step=1)
    batch: int = param(100, label="Batch size", help="Clean images per step.", ge=2, le=1024, step=1)

    def run(self, model: nn.Module, evidence: Evidence) -> Scores:
        assert evidence.trigger is not None
        compute, images, rng = evidence.compute, evidence.images, evidence.rng("trigger mask")
        learner = Scaled(compute.model(copy.deepcopy(model))).eval()
        masks = nn.ParameterList([learner.scales])
        optimizer = torch.optim.Adam([learner.scales], self.mask_lr)
        log: list[dict[str, float]] = []
        turns = passes(evidence.keep, "trigger mask", self.mask_passes, {"masks": masks}, optimizer, None, rng, log)
        for turn in turns:
            sums = {"clean": 0.0, "triggered": 0.0}
            for index in batches(len(images), self.batch, rng):
                x, y = compute.images(images.x[index]), images.y[index].to(compute.torch_device)
                changed = evidence.trigger.changed(images.y[index]).to(y.device)
                stamped = evidence.trigger.trigger(x)[changed]
                with compute.autocast():
                    logits = learner(torch.cat([x, stamped])).float()
                losses = {"clean": F.cross_entropy(logits[: len(x)], y)}
                losses["triggered"] = _or_nothing(logits[len(x) :], y[changed])
                optimizer.zero_grad()
                cost = self.tax * (1 - learner.scales).sum()
                (self.keep * losses["clean"] + losses["triggered"] + cost).backward()
                optimizer.step()
                with torch.no_grad():
                    learner.scales.clamp_(0, 1)
                for name, loss in losses.items():
                    sums[name] += float(loss.detach()) * len(x) / len(images)
            log.append(sums)
            evidence.progress(f"masks, pass {turn + 1} of {self.mask_passes}", (turn + 1) / self.mask_passes, **sums)
        values = 1 - learner.scales.detach().cpu().float()
        return Scores(values, oracle=evidence.trigger_is_true, log={"masks": log})


def _or_nothing(logits: Tensor, y: Tensor) -> Tensor:
    """The loss of a batch in which there may be no image whose label the attack changes."""
    return F.cross_entropy(logits, y, reduction="sum") / max(1, len(y))
