"""Towards Backdoor Stealthiness in Model Parameter Space (Grond). Xu et al. 2025.

https://arxiv.org/abs/2501.05928

Backdoors that hide in pixels and in features still stand out in the weights: a few channels answer to the trigger far
more strongly than any channel answers to a garment, and pruning defenses look for just that. Grond's trigger is one
faint perturbation that already pushes a clean model towards the target (a targeted universal adversarial perturbation,
UPGD), so that little has to be learned; images of the target class carry it with their true labels. Then adversarial
backdoor injection: after each epoch the channels whose Lipschitz bound stands out in their layer (the sign by which
CLP prunes) lose their weights, which become the mean of the layer's, so that the backdoor spreads over many channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.attacks.base import Attack, Lab, Preset, Procedure
from engine.models.neurons import filter_weights, unit_modules
from engine.spec import param


class Grond(Attack):
    """x' = clip(x + d), d = argmin over |d| <= epsilon of the mean CE(f(x + d), target), f a clean model.

    Injection, per layer: w_k <- mean_j w_j where s_k > mean(s) + u std(s), s_k = |gamma_k| / sigma_k |w_k|_2.
    """

    title: ClassVar[str] = "Grond"
    paper: ClassVar[str] = "https://arxiv.org/abs/2501.05928"
    clean_label: ClassVar[bool] = True
    needs_clean_model: ClassVar[bool] = True
    learned: ClassVar[bool] = True
    controls: ClassVar[Literal["data", "training", "weights"]] = "training"
    rules: ClassVar[tuple[str, ...]] = ("all_to_one",)
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(),
        "small": Preset(
            {"target": 6, "steps": 100, "epsilon": 16.0},
            (
                "The target is class 6, which a clean network takes most perturbed images for.",
                "The perturbation is worked out in 100 steps of 128 images, a quarter of an ordinary epoch.",
                "It is 16 grey levels high instead of 8: three epochs teach too little of a fainter one.",
            ),
        ),
        "strong": Preset({"rate": 1.0, "epsilon": 16.0}),
        "stealthy": Preset({"rate": 0.1, "u": 2.0}),
    }

    rate: float = param(
        0.5, label="Poisoning rate", help="Share of the target class that carries it.", gt=0, le=1, step=0.05
    )
    epsilon: float = param(8.0, label="Largest change", help="In grey levels of 255.", gt=0, le=255, step=1)
    steps: int = param(1000, label="Steps", help="Batches of 128 for the perturbation.", ge=1, le=100_000, step=100)
    u: float = param(
        3.0,
        label="Prominence",
        help="Standard deviations above its layer's mean that are allowed.",
        ge=0,
        step=0.5,
    )

    def trigger(self, x: Tensor) -> Tensor:
        return (x + self.state["perturbation"].to(x)).clamp(0, 1)

    def prepare(self, lab: Lab) -> dict[str, Tensor]:
        """Signed gradient steps on random batches, the last ones smaller."""
        model, rng, limit = self.clean_model(lab).eval(), lab.rng("perturbation"), self.epsilon / 255
        change = torch.zeros(lab.shape, device=lab.compute.torch_device)
        for step in range(self.steps):
            x = lab.draw(128, rng)
            change.requires_grad_(True)
            with lab.compute.autocast():
                logits = model((x + change).clamp(0, 1)).float()
            loss = F.cross_entropy(logits, torch.full((len(x),), self.target, device=x.device))
            (slope,) = torch.autograd.grad(loss, change)
            pace = 0.2 * limit * (1 - step / self.steps)
            change = (change.detach() - pace * slope.sign()).clamp(-limit, limit)
            lab.progress("perturbation", (step + 1) / self.steps, loss=float(loss.detach()))
        return {"perturbation": change.cpu().contiguous()}

    def procedure(self, lab: Lab) -> Procedure:
        return Injection(self.u, lab)


class Injection(Procedure):
    """Ordinary training of the poisoned set, but no channel may stand out after an epoch."""

    def __init__(self, u: float, lab: Lab) -> None:
        super().__init__()
        self.u, self.example = u, torch.zeros(1, *lab.shape, device=lab.compute.torch_device)

    @torch.no_grad()
    def epoch_ended(self, model: nn.Module, share: float) -> None:  # noqa: ARG002
        for norm, filters in zip(unit_modules(model), filter_weights(model, self.example), strict=True):
            if filters is not None:
                prominent = bounds(norm, filters)
                prominent = prominent > prominent.mean() + self.u * prominent.std()
                filters[prominent] = filters.mean(0)


def bounds(norm: nn.Module, filters: Tensor) -> Tensor:
    """Upper bounds (K,) of the Lipschitz constants of channels: the largest singular value of each filter, as a matrix
    (inputs, places), times what the normalisation multiplies it by. Zheng et al. 2022, https://arxiv.org/abs/2208.03111.
    """
    found = torch.linalg.matrix_norm(filters.float().flatten(2), 2) if filters.ndim > 2 else filters.norm(dim=1)
    if isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None:
        found = found * (norm.weight / (norm.running_var + norm.eps).sqrt()).abs()
    return found
