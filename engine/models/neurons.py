"""Which units a network has.

A unit is a BatchNorm channel; in a network without normalisation it is an output channel of a convolution or of
a hidden linear layer (the last linear layer gives the answers and has no units). Units are numbered through the
layers in the order in which the network names them; a unit's stable id is ``layer:index``, such as
``layer4.1.bn2:87``. A score, a mask or a cut is one vector over all units in this order.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.models.base import Classifier


@dataclass(frozen=True)
class Layer:
    """``size`` units from ``offset`` on in the order of all units; ``kind`` is ``norm``, ``conv`` or ``linear``."""

    name: str
    kind: str
    size: int
    offset: int

    @property
    def span(self) -> slice:
        return slice(self.offset, self.offset + self.size)


@dataclass(frozen=True)
class Units:
    """All units of a network, layer by layer."""

    layers: tuple[Layer, ...]

    def __len__(self) -> int:
        return sum(layer.size for layer in self.layers)

    @functools.cached_property
    def _by_name(self) -> dict[str, Layer]:
        return {layer.name: layer for layer in self.layers}

    def layer_of(self, unit: int) -> Layer:
        for layer in self.layers:
            if layer.offset <= unit < layer.offset + layer.size:
                return layer
        raise ValueError(f"expected a unit between 0 and {len(self) - 1}, got {unit}")

    def id(self, unit: int) -> str:
        layer = self.layer_of(unit)
        return f"{layer.name}:{unit - layer.offset}"

    def index(self, unit_id: str) -> int:
        """The number of a unit given its id.

        Raises:
            ValueError: for an id that names no unit of this network.
        """
        name, _, channel = unit_id.rpartition(":")
        layer = self._by_name.get(name)
        if layer is None or not channel.isdecimal() or int(channel) >= layer.size:
            example = self.id(len(self) - 1)
            raise ValueError(f"expected a unit id such as {example!r}, got {unit_id!r}")
        return layer.offset + int(channel)

    def per_layer(self, cut: Tensor) -> list[int]:
        """How many units of each layer a cut (U,) bool holds."""
        return [int(cut[layer.span].sum()) for layer in self.layers]


def units(model: nn.Module) -> Units:
    """Enumerate the units of a network; the names are those of the network inside a :class:`Classifier`."""
    net = model.net if isinstance(model, Classifier) else model
    norms = [(n, m) for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)]
    found: list[tuple[str, str, int]]
    if norms:
        found = [(name, "norm", module.num_features) for name, module in norms]
    else:
        found = [(n, "conv", m.out_channels) for n, m in net.named_modules() if isinstance(m, nn.Conv2d)]
        linear = [(n, "linear", m.out_features) for n, m in net.named_modules() if isinstance(m, nn.Linear)]
        found += linear[:-1]
    layers, offset = [], 0
    for name, kind, size in found:
        layers.append(Layer(name, kind, size, offset))
        offset += size
    return Units(tuple(layers))


def unit_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that hold the units, in the order of :func:`units`."""
    net = model.net if isinstance(model, Classifier) else model
    return [net.get_submodule(layer.name) for layer in units(model).layers]


def module_prefix(model: nn.Module) -> str:
    """What stands before a layer's name in the parameter names of ``model``."""
    return "net." if isinstance(model, Classifier) else ""


def no_units(model: nn.Module) -> Tensor:
    """The empty cut: a bool vector (U,) of False."""
    return torch.zeros(len(units(model)), dtype=torch.bool)


@torch.no_grad()
def filter_weights(model: nn.Module, example: Tensor) -> list[Tensor | None]:
    """For each layer of units, the weights (size, ...) of the filters whose outputs the units are.

    A convolution belongs to a normalisation layer if its output is what that layer reads, found by one forward pass
    of ``example`` (1, C, H, W). ``None`` for norms that read something else, such as PreAct's leading norms, which
    read a sum. Layers without normalisation are their own filters.
    """
    made: list[tuple[Tensor, nn.Conv2d]] = []
    read: dict[nn.Module, Tensor] = {}
    hooks = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(lambda m, _, out: made.append((out, m))))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(lambda m, inputs: read.__setitem__(m, inputs[0])))
    was_training = model.training
    model.eval()
    try:
        model(example)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    found: list[Tensor | None] = []
    for layer, module in zip(units(model).layers, unit_modules(model), strict=True):
        weight: Tensor | None
        if layer.kind == "norm":
            source = read.get(module)
            weight = next((conv.weight for out, conv in made if out is source), None)
        else:
            assert isinstance(module.weight, Tensor)
            weight = module.weight
        found.append(weight)
    return found
