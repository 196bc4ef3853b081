"""Which known architectures a state dictionary fits, by name and shape.

Checkpoints differ from the network that they belong to in ways that mean nothing: a prefix that a wrapper left
(``module.``), another usual spelling of the same layers, counters that older versions did not save, and pruned weights
kept as a pair. :func:`normalised` undoes the first and the last; the spellings are tried one by one. Everything else
must agree, name by name and shape by shape; nothing is ever matched by position.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.models import MODELS, WIDTHS
from engine.registry import Registry

Shapes = dict[str, tuple[int, ...]]

_PREFIXES = ("module.", "model.", "net.", "backbone.", "_orig_mod.")
_COUNTER = "num_batches_tracked"
#: Other usual names of the same layers: (as in the file, as here), by architecture.
_SPELLINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "resnet18": ((".shortcut.", ".downsample."), ("linear.", "fc.")),
    "preact_resnet18": (("fc.", "linear."),),
    "resnet20": (("fc.", "linear."),),
}
_PREFERRED = ("", "model", "state_dict", "net", "model_state_dict", "weights", "network")


@dataclass(frozen=True)
class Fit:
    """An architecture and the sizes for which a state dictionary fits it; ``renamed`` if its spelling is another."""

    model: str
    classes: int
    channels: int
    width: int | None
    renamed: bool

    def row(self) -> dict[str, str | int | bool | None]:
        return {
            "name": self.model,
            "classes": self.classes,
            "channels": self.channels,
            "width": self.width,
            "renamed": self.renamed,
        }


def choose_group(groups: dict[str, Shapes], asked: str | None = None) -> str:
    """The table of tensors that is the model: ``asked``, else one of the usual names, else the only one.

    Raises:
        ValueError: if there is none, or no telling which.
    """
    if asked is not None:
        if asked not in groups:
            known = ", ".join(repr(g) for g in groups) or "none"
            raise ValueError(f"expected one of the tables {known} of the file, got {asked!r}")
        return asked
    if not groups:
        raise ValueError("expected a checkpoint with tensors, got one without any")
    found = next((g for g in _PREFERRED if g in groups and len(groups[g]) > 1), None)
    if found is None and len(groups) == 1:
        found = next(iter(groups))
    if found is None:
        known = ", ".join(repr(g) for g in list(groups)[:8])
        raise ValueError(f"expected one table of weights, got several ({known}): choose one with --weights")
    return found


def stripped(names: list[str]) -> dict[str, str]:
    """Each name without the prefixes that all of them share, such as ``module.``."""
    short = {name: name for name in names}
    while True:
        prefix = next((p for p in _PREFIXES if short and all(s.startswith(p) for s in short.values())), None)
        if prefix is None:
            return short
        short = {name: s.removeprefix(prefix) for name, s in short.items()}


def normalised(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dictionary without shared prefixes, and with ``weight_orig`` and ``weight_mask`` multiplied."""
    names = stripped(list(state))
    state = {names[name]: value for name, value in state.items()}
    for name in [n for n in state if n.endswith("_orig")]:
        base = name.removesuffix("_orig")
        mask = state.get(f"{base}_mask")
        if mask is not None and base not in state and mask.shape == state[name].shape:
            state[base] = state.pop(name) * state.pop(f"{base}_mask")
    return state


def normalised_shapes(shapes: Shapes) -> Shapes:
    """The same for shapes alone."""
    empty = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return {name: tuple(value.shape) for name, value in normalised(empty).items()}


@functools.lru_cache(maxsize=256)
def _wanted(model: str, classes: int, channels: int, width: int | None) -> dict[str, tuple[int, ...]]:
    settings = {"classes": classes}
    if width is not None:
        settings |= {"channels": channels, "width": width}
    with torch.device("meta"):
        net: nn.Module = MODELS[model].make(**settings)
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}


def _without_counters(shapes: Shapes) -> Shapes:
    return {name: shape for name, shape in shapes.items() if not name.endswith(_COUNTER)}


def spellings(model: str, names: list[str]) -> list[dict[str, str]]:
    """The ways to read a file's names as those of an architecture: as they are, and in its other usual spelling."""
    found = [{name: name for name in names}]
    other = {}
    for name in names:
        new = name
        for theirs, ours in _SPELLINGS.get(model, ()):
            if theirs.startswith("."):
                new = new.replace(theirs, ours)
            elif new.startswith(theirs):
                new = ours + new.removeprefix(theirs)
        other[name] = new
    if other != found[0] and len(set(other.values())) == len(other):
        found.append(other)
    return found


def fits(shapes: Shapes, models: Registry = MODELS) -> list[Fit]:
    """The known architectures whose names and shapes are exactly those of a state dictionary."""
    shapes = _without_counters(normalised_shapes(shapes))
    filters = next((s for s in shapes.values() if len(s) == 4), None)
    outputs = next((s for s in reversed(list(shapes.values())) if len(s) == 2), None)
    if filters is None or outputs is None:
        return []
    classes, channels = outputs[0], filters[1]
    if classes < 2 or channels not in (1, 3):
        return []
    found = []
    for model in models:
        default = models[model].width
        # Names first: they say whether it is worth building the network at every width. Two widths are asked because
        # a block may have a shortcut of its own only where the number of channels changes.
        trials = [None] if default is None else [default, 2 * default]
        known = [_without_counters(_wanted(model, 2, 3, width)).keys() for width in trials]
        for names in spellings(model, list(shapes)):
            if {*names.values()} not in known:
                continue
            renamed = {names[name]: shape for name, shape in shapes.items()}
            sizes = {n for shape in renamed.values() for n in shape if WIDTHS[0] <= n <= WIDTHS[1]}
            for width in [None] if default is None else sorted(sizes):
                if renamed == _without_counters(_wanted(model, classes, channels, width)):
                    other = any(a != b for a, b in names.items())
                    found.append(Fit(model, classes, 3 if default is None else channels, width, other))
    return found


def load_into(net: nn.Module, state: dict[str, Tensor], model: str | None = None) -> None:
    """Load a :func:`normalised` state into a network strictly by name; counters that are missing start at 0.

    Raises:
        ValueError: in one line, if a name is missing or unknown, a shape differs, or a value is not finite.
    """
    wanted = net.state_dict()
    best: tuple[list[str], list[str]] | None = None
    for names in spellings(model or "", list(state)):
        read = {names[name]: value for name, value in state.items()}
        missing = sorted(n for n in wanted.keys() - read.keys() if not n.endswith(_COUNTER))
        unknown = sorted(read.keys() - wanted.keys())
        if not missing and not unknown:
            break
        best = min(best or (missing, unknown), (missing, unknown), key=lambda p: len(p[0]) + len(p[1]))
    else:
        assert best is not None
        missing, unknown = best
        problem = f"no {missing[0]}" if missing else f"the unknown {unknown[0]}"
        raise ValueError(f"expected the {len(wanted)} tensors of the architecture, by name, got {problem}")
    for name, value in read.items():
        if value.shape != wanted[name].shape:
            raise ValueError(f"expected {name} of shape {tuple(wanted[name].shape)}, got {tuple(value.shape)}")
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"expected finite weights, got NaN or infinity in {name}")
        if value.is_floating_point() != wanted[name].is_floating_point():
            raise ValueError(f"expected {name} of type {wanted[name].dtype}, got {value.dtype}")
    counters = {n: torch.zeros_like(v) for n, v in wanted.items() if n not in read}
    net.load_state_dict({**read, **counters})
