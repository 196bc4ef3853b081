"""What a loop of gradient steps needs to go on where it was: weights, momenta, schedule, random generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.runs.checkpoints import Keep

Schedule = torch.optim.lr_scheduler.LRScheduler


Optimizers = Mapping[str, torch.optim.Optimizer]


def snapshot(
    modules: Mapping[str, nn.Module], optimizers: Optimizers, schedule: Schedule | None, rng: torch.Generator
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The state of a loop as arrays and JSON values, for :meth:`Keep.write`."""
    tensors = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    groups = {}
    for name, optimizer in optimizers.items():
        state = optimizer.state_dict()
        groups[name] = state["param_groups"]
        for number, slots in state["state"].items():
            tensors |= {f"slot.{name}.{number}.{slot}": value for slot, value in slots.items() if value is not None}
    tensors["rng.now"] = rng.get_state()
    arrays = {key: value.detach().cpu().contiguous().numpy() for key, value in tensors.items()}
    return arrays, {"groups": groups, "schedule": schedule and schedule.state_dict()}


def restore(
    modules: Mapping[str, nn.Module],
    optimizers: Optimizers,
    schedule: Schedule | None,
    rng: torch.Generator,
    arrays: Mapping[str, np.ndarray],
    state: Mapping[str, Any],
) -> None:
    """Put everything where :func:`snapshot` found it."""
    tensors = {key: torch.from_numpy(value.copy()) for key, value in arrays.items()}
    for name, module in modules.items():
        own = f"{name}."
        module.load_state_dict({k.removeprefix(own): v for k, v in tensors.items() if k.startswith(own)})
    for name, optimizer in optimizers.items():
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        slots: dict[int, dict[str, torch.Tensor]] = {}
        for key in [key for key in tensors if key.startswith(f"slot.{name}.")]:
            number, slot = key.removeprefix(f"slot.{name}.").split(".")
            value, like = tensors[key], parameters[int(number)]
            # As the optimizer made them: on the parameter's device, in its memory format; counts stay where they are.
            same = value.shape == like.shape and value.ndim > 0
            slots.setdefault(int(number), {})[slot] = torch.empty_like(like).copy_(value) if same else value
        optimizer.load_state_dict({"state": slots, "param_groups": state["groups"][name]})
    if schedule is not None:
        schedule.load_state_dict(state["schedule"])
    rng.set_state(tensors["rng.now"])


def passes(
    keep: Keep,
    name: str,
    n: int,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    schedule: Schedule | None,
    rng: torch.Generator,
    log: list[dict[str, float]],
    enough: Callable[[], bool] = lambda: False,
) -> Iterator[int]:
    """The numbers of the passes that are still to do, of ``n`` or until ``enough``; what is needed to go on is kept.

    The loop adds one row to ``log`` in each pass; the rows of passes that are not done again are put there.
    """

    def write() -> None:
        arrays, state = snapshot(modules, {"": optimizer}, schedule, rng)
        keep.write(name, arrays, {**state, "log": log})

    if saved := keep.read(name):
        restore(modules, {"": optimizer}, schedule, rng, *saved)
        log[:] = saved[1]["log"]
    first = len(log)
    while len(log) < n and not enough():
        yield len(log)
        if keep.due:
            write()
    if keep.worth and len(log) > first:
        write()
