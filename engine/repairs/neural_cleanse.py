"""Unlearning of Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural Networks. Wang et al., S&P 2019.

https://doi.org/10.1109/SP.2019.00031

Show the network the trigger without the reward: put the recovered trigger on a fifth of the clean images, leave their
labels as they are, and fine-tune. The shortcut from trigger to target is contradicted wherever it is taken. If what
was recovered is not the trigger, this is little more than fine-tuning.

    min_theta  E[CE(f(x'), y)],     x' = (1 - m) x + m p  for a fifth of the images, x for the others

It takes the trigger that it is given, and looks for one by Neural Cleanse where there is none. The paper tunes for one
pass over a tenth of the training set; the settings here are those of BackdoorBench, for the few images of a defender.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.attacks.base import Attack
from engine.detectors.neural_cleanse import NeuralCleanse
from engine.detectors.recovery import recover
from engine.repairs.base import Repair, Repaired
from engine.repairs.tuning import Tuning, tune
from engine.scores.base import Evidence
from engine.spec import param
from engine.train import stage


class NeuralCleanseUnlearning(Tuning, Repair):
    """Fine-tuning with the recovered trigger on a fifth of the images, which keep their labels."""

    title: ClassVar[str] = "Neural Cleanse unlearning"
    paper: ClassVar[str] = "https://doi.org/10.1109/SP.2019.00031"

    stamped: float = param(
        0.2, label="Triggered", help="Share of the images that the trigger is put on.", gt=0, le=1, step=0.05
    )
    search: int = param(
        80, label="Search", help="Passes that look for a trigger where none is given, at most.", ge=1, le=1000, step=1
    )

    def run(self, model: nn.Module, evidence: Evidence) -> Repaired:
        log: dict[str, Any] = {}
        extras, trigger, begin = {}, evidence.trigger, 0.0
        if trigger is None:
            begin = 0.7
            part = replace(evidence, progress=stage(evidence.progress, 0, begin))
            trigger, log["recovered"] = recover(NeuralCleanse(passes=self.search), model, part)
            extras = {key: value.numpy() for key, value in trigger.state.items()}
        n = len(evidence.images)
        chosen = torch.zeros(n, dtype=torch.bool)
        chosen[torch.randperm(n, generator=evidence.rng("stamped"))[: round(self.stamped * n)]] = True
        step = self._step(model, evidence, trigger, chosen)
        log["tune"] = tune(model, evidence, self, "unlearn", step=step, share=(begin, 1.0))
        return Repaired(model, evidence.trigger is not None and evidence.trigger_is_true, log, extras)

    @staticmethod
    def _step(model: nn.Module, evidence: Evidence, trigger: Attack, chosen: Tensor) -> Any:
        compute = evidence.compute

        def step(x: Tensor, y: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
            # After the augmentation: a trigger that has been shifted or mirrored is another one.
            with_trigger = compute.images(trigger.trigger(x.cpu()))
            on = chosen[index].to(x.device)[:, None, None, None]
            with compute.autocast():
                logits = model(compute.images(torch.where(on, with_trigger, x))).float()
            loss = F.cross_entropy(logits, y)
            loss.backward()
            return loss, logits

        return step
