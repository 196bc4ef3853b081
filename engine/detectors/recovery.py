"""A trigger for those who have none: the patch that Neural Cleanse finds, put on like any other trigger."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from engine.attacks.recovered import Recovered
from engine.detectors.base import Detection
from engine.detectors.neural_cleanse import NeuralCleanse
from engine.runs.store import Run
from engine.scores.base import Evidence


def trigger_of(found: Detection) -> tuple[Recovered, dict[str, Any]]:
    """The patch of the flagged class, of that with the smallest one where none is flagged, and what to say of it.

    The latter are JSON values: ``target``, the patch's L1 ``norm``, whether the class was ``flagged``, ``statistic``.
    """
    target = int(found.log["smallest"]) if found.target is None else found.target
    state = {
        "mask": torch.from_numpy(found.arrays["mask"][target])[None],
        "pattern": torch.from_numpy(found.arrays["pattern"][target]),
    }
    attack = Recovered(target=target).bound(len(found.per_class), state)
    norm = found.per_class[target]["norm"]
    return attack, {"target": target, "norm": norm, "flagged": found.verdict, "statistic": found.statistic}


def stored(run: Run) -> Recovered:
    """The trigger that a finished ``detect`` run, or one of a score or repair that used a recovered trigger, has left.

    Raises:
        ValueError: in one line, for a run that recovered none.
    """
    if run.kind == "detect" and run.has("detection.safetensors"):
        arrays, target = run.arrays("detection"), run.result.get("target")
        if {"mask", "pattern"} <= arrays.keys():
            target = int(run.result["log"]["smallest"]) if target is None else int(target)
            return _bound(arrays["mask"][target][None], arrays["pattern"][target], target)
    if run.has("recovered.safetensors"):
        arrays = run.arrays("recovered")
        return _bound(arrays["mask"], arrays["pattern"], int(run.result["recovered"]["target"]))
    raise ValueError(f"expected a run that recovered a trigger, got run {run.id}")


def _bound(mask: np.ndarray, pattern: np.ndarray, target: int) -> Recovered:
    state = {"mask": torch.from_numpy(mask), "pattern": torch.from_numpy(pattern)}
    return Recovered(target=target).bound(target + 1, state)


def recover(detector: NeuralCleanse, model: nn.Module, evidence: Evidence) -> tuple[Recovered, dict[str, Any]]:
    """Look for the trigger of ``model`` on clean images; see :func:`trigger_of`."""
    return trigger_of(detector(model, evidence))
