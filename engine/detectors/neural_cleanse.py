"""Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural Networks. Wang et al., IEEE S&P 2019.

https://doi.org/10.1109/SP.2019.00031

For every class look for the smallest patch that, put on any picture, makes the network answer that class. Without a
backdoor all of them must cover a good part of the picture; the trigger of a backdoor is a shortcut, and the patch of
its target stands out as much smaller than the others.

    min_{m, p}  E[CE(f((1 - m) x + m p), k)] + lambda_k |m|_1,     m = (tanh a + 1) / 2,   p = (tanh b + 1) / 2
    index(k) = | |m_k| - median | / (1.4826 MAD)                   a backdoor: index >= 2 below the median

lambda_k rises while the patch succeeds and falls while it does not, so that each class ends at its smallest patch.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from engine.detectors.base import Detection, Detector
from engine.detectors.patches import Search
from engine.resume import passes
from engine.scores.base import Evidence
from engine.spec import param
from engine.train import batches

#: Stamped pictures that go through the network at once; classes are independent, so it decides nothing but the speed.
AT_ONCE = 512


class NeuralCleanse(Detector):
    """The smallest patch per class; one class far below the others is the target of a backdoor."""

    title: ClassVar[str] = "Neural Cleanse"
    paper: ClassVar[str] = "https://doi.org/10.1109/SP.2019.00031"
    rule: ClassVar[str] = "a patch whose norm lies two or more deviations (by MAD) below the median"
    # An eighth of the passes: lambda has time to rise and fall a few times, and norms are not yet the smallest.
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "published": {},
        "quick": {"passes": 20, "patience": 2, "stop": 6},
    }

    passes: int = param(80, label="Passes", help="Over the clean images, at most.", ge=1, le=1000, step=1)
    lr: float = param(0.1, label="Rate", help="Of Adam (betas 0.5 and 0.9).", gt=0, le=10)
    batch: int = param(32, label="Batch size", help="Images per step and class.", ge=1, le=1024, step=1)
    cost: float = param(1e-3, label="First weight", help="Of the norm in the loss, at the start.", gt=0, le=1)
    factor: float = param(2.0, label="Factor", help="The weight is raised by it, lowered by its 1.5th power.", gt=1)
    patience: int = param(5, label="Patience", help="Passes in a row that change the weight.", ge=1, step=1)
    success: float = param(0.98, label="Success", help="Share of pictures that a patch must turn.", gt=0, le=1)
    stop: int = param(25, label="Stop after", help="Passes without a smaller patch that end a class.", ge=1, step=1)
    index: float = param(2.0, label="Index", help="Anomaly index from which a class is flagged.", gt=0, step=0.1)

    def run(self, model: nn.Module, evidence: Evidence) -> Detection:
        found, log = self.search(model, evidence)
        mask, pattern = found.best_mask.cpu(), found.best_pattern.cpu()
        success, reached = found.best_success.cpu().numpy(), found.best_norm.isfinite().cpu().numpy()
        norms = mask.sum((1, 2)).double().numpy()
        signed = anomaly(norms)
        # A small patch that does not succeed is no trigger: it counts for the median, as in the paper's code, only.
        signed[~reached] = np.minimum(signed[~reached], 0)
        smallest = int(np.where(reached, norms, norms + mask[0].numel()).argmin())
        rows = [
            {"label": k, "norm": float(norms[k]), "index": float(signed[k]), "success": float(success[k])}
            for k in range(len(norms))
        ]
        verdict = bool(signed[smallest] >= self.index)
        arrays = {"mask": mask.numpy(), "pattern": pattern.numpy(), "norms": norms.astype(np.float32)}
        statistic = max(0.0, float(signed.max()))
        return Detection(
            verdict, smallest if verdict else None, statistic, rows, arrays, {"passes": log, "smallest": smallest}
        )

    def search(self, model: nn.Module, evidence: Evidence) -> tuple[Search, list[dict[str, float]]]:
        """The smallest patch of every class, and mean success and norm over the classes in each pass."""
        compute, x_all = evidence.compute, evidence.images.x
        model = compute.model(copy.deepcopy(model)).eval().requires_grad_(False)
        classes = compute.logits(model, x_all[:1]).shape[1]
        found = Search(classes, tuple(x_all.shape[1:]), self.cost, evidence.rng("patches")).to(compute.torch_device)
        optimizer = torch.optim.Adam([found.a, found.b], self.lr, betas=(0.5, 0.9))
        rng, log = evidence.rng("order"), []  # type: torch.Generator, list[dict[str, float]]
        modules = {"patches": found}
        for turn in passes(
            evidence.keep, "patches", self.passes, modules, optimizer, None, rng, log, lambda: bool(found.over.all())
        ):
            active = (~found.over).nonzero().squeeze(1)
            hits = torch.zeros(classes, device=compute.torch_device)
            for index in batches(len(x_all), self.batch, rng, least=1):
                x = compute.images(x_all[index])
                optimizer.zero_grad()
                for some in active.split(max(1, AT_ONCE // len(x))):
                    mask, pattern = found.patch(some)
                    stamped = ((1 - mask) * x + mask * pattern).flatten(0, 1)
                    with compute.autocast():
                        logits = model(compute.images(stamped)).float()
                    wanted = some.repeat_interleave(len(x))
                    loss = F.cross_entropy(logits, wanted, reduction="sum") / len(x)
                    # The classes' losses are added up: no class has a share in another's gradient.
                    (loss + (found.cost[some] * mask.abs().sum((1, 2, 3, 4))).sum()).backward()
                    hits[some] += (logits.detach().argmax(1) == wanted).view(len(some), -1).sum(1)
                optimizer.step()
            found.judge(active, hits / len(x_all), self)
            norm = float(found.mask().detach().sum((1, 2, 3))[active].mean())
            log.append({"success": float(hits[active].mean()) / len(x_all), "norm": norm, "classes": len(active)})
            evidence.progress(f"looking for patches, pass {turn + 1} of {self.passes}", (turn + 1) / self.passes)
        return found, log


def anomaly(norms: np.ndarray) -> np.ndarray:
    """Deviations below the median (K,), robustly by 1.4826 MAD; norms above the median have negative ones."""
    below = np.median(norms) - norms
    deviation = 1.4826 * np.median(np.abs(below))
    # More than half of the norms can be equal: the tenth of a percent keeps the index finite.
    return np.asarray(below / max(deviation, 1e-3 * float(np.median(norms)), 1e-12))
