"""Which units feed a unit, and which read it: the strongest connections, from the weights alone.

A convolution's weight from input channel j to output channel c is a small kernel. How much c can hear of j depends on
its size, on how far j moves, and on how c is normalised afterwards:

    strength(j -> c) = |gamma_j| * ||w[c, j]||_F * |gamma_c| / sqrt(var_c + eps)

the change of c's output for a change of j's by one standard deviation, up to how the kernel's terms add up. A scale
that a network does not have is 1. In a residual network a convolution reads a sum: *every* unit whose output is added
to that channel counts as feeding it, each with its own scale; ReLU and pooling are passed through.

What is connected is read off one forward pass: from each convolution the autograd graph is followed back to the layers
whose outputs arrive there with their channels in place. Concatenation and padding of channels move channels; what
lies behind them is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.explain.activations import evaluating
from engine.models.neurons import unit_modules, units

#: Steps of the autograd graph that leave each channel where it is, by how their names begin.
_PASSES = (
    "Relu", "LeakyRelu", "Elu", "Gelu", "Silu", "Hardtanh", "Hardswish", "Hardsigmoid", "Clamp", "Sigmoid", "Tanh",
    "Add", "Mul", "Div", "MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool", "MkldnnAdaptive", "Mean", "View",
    "Reshape", "AsStrided", "Amax", "UnsafeView", "Squeeze", "Unsqueeze", "Clone", "ToCopy", "Dropout", "Alias",
    "NativeDropout",
)  # fmt: skip


@dataclass(frozen=True)
class Link:
    """One end of a connection: a unit by its number, or a class where the answers read it; ``strength`` at least 0."""

    strength: float
    unit: int | None = None
    answer: int | None = None


@dataclass(frozen=True)
class Wiring:
    """The strongest units that feed a unit and those that read it, each falling in strength, and how many there are.

    ``through_sum`` says that some of them are reached through a residual sum. A reader may be a class.
    """

    incoming: tuple[Link, ...]
    outgoing: tuple[Link, ...]
    feeders: int
    readers: int
    through_sum: bool


def wiring(model: nn.Module, unit: int, example: Tensor, most: int = 6) -> Wiring:
    """The strongest connections of a unit.

    Args:
        model: the classifier, left as it was.
        unit: its number in the order of all units.
        example: one image (1, C, H, W), float in [0, 1], on the model's device; what is in it does not matter.
        most: how many connections to name in each direction.

    Raises:
        ValueError: for a number that is no unit.
    """
    found = units(model)
    home = found.layer_of(unit)
    modules = unit_modules(model)
    graph = _Graph(model, modules, example)
    at, k = found.layers.index(home), unit - home.offset
    incoming: list[Link] = []
    outgoing: list[Link] = []
    summed = False
    for writer, reader, weight, sums in graph.connections():
        out_scale = 1.0 if reader is None else _norm_scale(modules[reader])
        if reader == at:
            row = _strength(weight)[k] * (out_scale if isinstance(out_scale, float) else out_scale[k])
            row = row * _scale(modules[writer], len(row))
            offset = found.layers[writer].offset
            incoming += [Link(float(s), offset + j) for j, s in enumerate(row)]
            summed |= sums
        if writer == at:
            column = _strength(weight)[:, k] * out_scale * _scale(modules[at], home.size)[k]
            first = None if reader is None else found.layers[reader].offset
            outgoing += [
                Link(float(s), answer=c) if first is None else Link(float(s), first + c) for c, s in enumerate(column)
            ]
            summed |= sums
    return Wiring(_strongest(incoming, most), _strongest(outgoing, most), len(incoming), len(outgoing), summed)


def read_last(model: nn.Module, example: Tensor) -> tuple[nn.Linear, list[int]]:
    """The linear layer that gives the answers, and which layers of units write what it reads, channel by channel.

    Several do in a residual network, where a channel is a sum. ``model`` and ``example`` are as in :func:`wiring`.

    Raises:
        ValueError: for a network whose answers no linear layer gives, or one that reads no units' channels.
    """
    modules = unit_modules(model)
    graph, number = _Graph(model, modules, example), {module: at for at, module in enumerate(modules)}
    for head, _ in graph.back(graph.end):
        if isinstance(head, nn.Linear):
            sources = [source for source, _ in graph.back(graph.read[head]) if source in number]
            writers = sorted(number[source] for source in sources if _between(head, source) is not None)
            if writers:
                return head, writers
    raise ValueError(f"expected a network whose last layer is linear and reads units, got {type(model).__name__}")


def _strongest(links: list[Link], most: int) -> tuple[Link, ...]:
    return tuple(sorted(links, key=lambda link: -link.strength)[:most])


def _strength(weight: Tensor) -> Tensor:
    """(out, in, …) to the norm of each kernel (out, in), in double precision."""
    return weight.detach().double().flatten(2).norm(dim=2).cpu()


def _scale(module: nn.Module, size: int) -> Tensor:
    """How far each channel of a layer's output moves: |gamma| behind a normalisation, else 1."""
    gamma = module.weight if isinstance(module, nn.BatchNorm2d) else None
    return torch.ones(size).double() if gamma is None else gamma.detach().double().abs().cpu()


def _norm_scale(module: nn.Module) -> Tensor | float:
    """What a normalisation multiplies its input by."""
    if not isinstance(module, nn.BatchNorm2d) or module.running_var is None:
        return 1.0
    return _scale(module, module.num_features) / (module.running_var.double().cpu() + module.eps).sqrt()


class _Graph:
    """What one forward pass tells of who reads whom."""

    def __init__(self, model: nn.Module, modules: list[nn.Module], example: Tensor) -> None:
        self.modules = modules
        self.made: dict[Any, nn.Module] = {}  # a step of the graph -> the layer whose output it made
        self.read: dict[nn.Module, Any] = {}  # a layer -> the step that made its input
        self.weighted: list[nn.Module] = []
        hooks = []

        def see(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self.made[output.grad_fn], self.read[module] = module, inputs[0].grad_fn
            if isinstance(module, nn.Conv2d | nn.Linear):
                self.weighted.append(module)

        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                hooks.append(module.register_forward_hook(see))
        try:
            with evaluating(model), torch.enable_grad():
                self.end = model(example.detach().clone().requires_grad_()).grad_fn
        finally:
            for hook in hooks:
                hook.remove()

    def connections(self) -> Iterator[tuple[int, int | None, Tensor, bool]]:
        """Writing layer, reading layer (None: the answers), the weights (out, in, …) between, whether through a sum."""
        number = {module: at for at, module in enumerate(self.modules)}
        heads = [(at, module) for at, module in enumerate(self.modules) if module in self.read]
        readers: list[tuple[int | None, nn.Module, bool]] = []
        for at, module in heads:
            if isinstance(module, nn.Conv2d | nn.Linear):
                readers.append((at, module, False))
            else:
                readers += [(at, one, sums) for one, sums in self.back(self.read[module])]
        readers += [(None, one, False) for one, _ in self.back(self.end) if isinstance(one, nn.Linear)]
        for reader, between, outer in readers:
            if not isinstance(between, nn.Conv2d | nn.Linear):
                continue
            for source, inner in self.back(self.read[between]):
                if source in number and (weight := _between(between, source)) is not None:
                    yield number[source], reader, weight, outer or inner

    def back(self, step: Any) -> list[tuple[nn.Module, bool]]:
        """The layers whose outputs arrive at a step with their channels in place, and whether a sum lies between."""
        found: dict[nn.Module, bool] = {}
        todo, seen = [(step, False)], set()
        while todo:
            step, sums = todo.pop()
            if step is None or step in seen:
                continue
            seen.add(step)
            if step in self.made:
                module = self.made[step]
                found[module] = found.get(module, False) or sums
                continue
            name = step.name()
            if name.startswith(_PASSES):
                behind = [follower for follower, _ in step.next_functions if follower is not None]
                todo += [(follower, sums or (name.startswith("Add") and len(behind) > 1)) for follower in behind]
        return list(found.items())


def _between(module: nn.Conv2d | nn.Linear, source: nn.Module) -> Tensor | None:
    """The weights (out, in, …) from each channel of ``source``; None where their numbers do not fit."""
    size = next(
        int(n) for name in ("num_features", "out_channels", "out_features") if (n := getattr(source, name, None))
    )
    weight = module.weight
    if isinstance(module, nn.Linear):  # behind a flattening a channel is a block of inputs
        return weight.unflatten(1, (size, -1)) if module.in_features % size == 0 else None
    if module.in_channels != size:
        return None
    if module.groups == 1:
        return weight
    wide = weight.new_zeros(module.out_channels, module.in_channels, *weight.shape[2:])
    each_out, each_in = module.out_channels // module.groups, module.in_channels // module.groups
    for group in range(module.groups):
        rows = slice(group * each_out, (group + 1) * each_out)
        wide[rows, group * each_in : (group + 1) * each_in] = weight[rows]
    return wide
