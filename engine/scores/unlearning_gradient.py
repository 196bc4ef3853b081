"""The score of "Unlearning Backdoor Attacks through Gradient-Based Model Pruning" (Grad-Prune). Dunnett et al. 2024.

https://arxiv.org/abs/2405.03918

Ask the model to answer triggered images correctly and see which filters that would change most: the gradient of
this unlearning loss is large where the backdoor lives. One pass, all filters at once; the paper re-scores after
every cut (the score ``grad_prune``).

    L_u = CE(f(T(x)), y_true)          score(u) = mean |dL_u / dw| over the weights of filter u

Units that are no filter's output (the leading norms of PreAct networks) get NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.compute import BATCH, Compute
from engine.models.neurons import filter_weights, units
from engine.scores.base import Evidence, Score, Scores


class UnlearningGradient(Score):
    """Mean absolute gradient of the unlearning loss per filter; the trigger decides whether it is an oracle."""

    title: ClassVar[str] = "Unlearning gradient (Grad-Prune)"
    paper: ClassVar[str] = "https://arxiv.org/abs/2405.03918"
    needs: ClassVar[tuple[str, ...]] = ("images", "labels", "trigger")

    def run(self, model: nn.Module, evidence: Evidence) -> Scores:
        assert evidence.trigger is not None
        keep = evidence.trigger.changed(evidence.images.y)
        x, y = evidence.images.x[keep].float() / 255, evidence.images.y[keep]
        values = unlearning_gradient(model, x, y, evidence.compute, evidence.trigger.trigger)
        return Scores(values, oracle=evidence.trigger_is_true)


def unlearning_gradient(
    model: nn.Module, x: Tensor, y: Tensor, compute: Compute, stamp: Callable[[Tensor], Tensor]
) -> Tensor:
    """Mean absolute gradient (U,) of the loss that images (N, C, H, W) of labels ``y`` (N,) have once stamped.

    The batches' mean losses are added up. The network is in evaluation mode, so that no statistic moves.
    """
    layers = filter_weights(model, compute.images(x[:1]))
    weights = [w for w in layers if w is not None]
    was_training = model.training
    model.eval()
    total: list[Tensor] = [torch.zeros_like(w) for w in weights]
    try:
        for part, truth in zip(x.split(BATCH), y.split(BATCH), strict=True):
            stamped = compute.images(stamp(part))
            with compute.autocast():
                logits = model(stamped).float()
            loss = F.cross_entropy(logits, truth.to(logits.device))
            for sum_, g in zip(total, torch.autograd.grad(loss, weights), strict=True):
                sum_ += g
    finally:
        model.train(was_training)
    table, values = units(model), torch.full((len(units(model)),), torch.nan)
    score = iter(total)
    for layer, weight in zip(table.layers, layers, strict=True):
        if weight is not None:
            values[layer.span] = next(score).abs().flatten(1).mean(1).cpu()
    return values
