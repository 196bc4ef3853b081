"""The levels at which RNP unlearns and recovers: one scale per filter, or every weight.

RNP's own choice is to unlearn neuron by neuron, every weight free, and to recover filter by filter. Its authors say
why: the same means in both directions only undo what was done, while one scalar per filter cannot rebuild what was
forgotten (Li et al., ICML 2023, https://arxiv.org/abs/2305.14876). Here are the parts of the other three pairs.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call

from engine.models.fused import stages, through
from engine.models.masking import scaled_weights
from engine.models.neurons import filter_weights, unit_modules, units


class Scaled(nn.Module):
    """A frozen network with one scale per unit from ``first`` on, ``scales`` (U - first,): nothing else is learned.

    The scales are 1 at the start and as free as weights are: whoever wants them in [0, 1] clamps them. What lies before
    the layer of unit ``first`` has none, and nothing is propagated back that far.
    """

    def __init__(self, model: nn.Module, first: int = 0) -> None:
        super().__init__()
        self.model, self.first = model.requires_grad_(False), first
        device = next(model.parameters()).device
        self.scales = nn.Parameter(torch.ones(len(units(model)) - first, device=device))

    def scaled(self) -> dict[str, Tensor]:
        """The parameters that the scales change, by name."""
        return scaled_weights(self.model, self.scales, self.first)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = functional_call(self.model, self.scaled(), (x,))
        return found

    def after(self, at: int, x: Tensor) -> Tensor:
        """The answers to what the first ``at`` stages said, of which none has a scale."""
        rest = {f"model.{name}": weight for name, weight in self.scaled().items()}
        found: Tensor = functional_call(_After(self.model, at), rest, (x,))
        return found


class _After(nn.Module):
    """A network from a stage on."""

    def __init__(self, model: nn.Module, at: int) -> None:
        super().__init__()
        self.model, self.at = model, at

    def forward(self, x: Tensor) -> Tensor:
        return through(stages(self.model)[self.at :], x)


@torch.no_grad()
def plain(learner: nn.Module) -> nn.Module:
    """The network itself; of a :class:`Scaled` one, a copy with the scales multiplied into its weights."""
    if not isinstance(learner, Scaled):
        return learner
    found = copy.deepcopy(learner.model).requires_grad_(True)
    found.load_state_dict({**found.state_dict(), **learner.scaled()})
    return found


@torch.no_grad()
def shrinkage(before: nn.Module, after: nn.Module, example: Tensor) -> Tensor:
    """The masks (U,) in [0, 1] that say best what became of each filter: 1 for one that stayed or grew, 0 for one that
    vanished or turned away.

    With v a filter's weights, m = argmin |v_after - m v_before|^2 = <v_after, v_before> / |v_before|^2. Normalisation
    undoes the length of a filter: there v is the normalisation's weight times the filter's direction, and
    m = gamma_after / gamma_before * cos(w_after, w_before). Had recovery moved one scalar per filter only, m would be
    that scalar. Of units that no filter feeds (the leading norms of PreAct networks) gamma alone counts.

    Args:
        example: images (1, C, H, W) of the right shape, on the device, by which the filters are found.
    """
    found = []
    sides = [zip(filter_weights(m, example), unit_modules(m), strict=True) for m in (before, after)]
    for layer, (old, old_module), (new, new_module) in zip(units(before).layers, *sides, strict=True):
        mask = torch.ones(layer.size, device=example.device)
        if old is not None and new is not None:
            v, w = old.flatten(1).float(), new.flatten(1).float()
            lengths = v.norm(dim=1) * (w if layer.kind == "norm" else v).norm(dim=1)
            mask = (v * w).sum(1) / lengths.clamp_min(1e-12)
        if layer.kind == "norm":
            gamma, was = (module.weight for module in (new_module, old_module))
            assert isinstance(gamma, Tensor) and isinstance(was, Tensor)
            mask = mask * torch.where(was == 0, 0.0, gamma / was)
        found.append(mask)
    return torch.cat(found).clamp(0, 1)
