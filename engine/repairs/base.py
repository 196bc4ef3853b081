"""What a repair is.

A repair is given a suspect, or what a cut has left of it, and returns a model that it has tuned or trained. What was
cut stays cut. Beside the model it may return whatever is worth looking at: losses, a path through weight space, a
number for each training image.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from torch import nn

from engine.scores.base import Evidence, refuse_without
from engine.spec import Spec


@dataclass(frozen=True)
class Repaired:
    """The repaired model, whether the true trigger was used, and what was seen on the way.

    ``log`` holds JSON values, ``extras`` named arrays such as the points of a path.
    """

    model: nn.Module
    oracle: bool = False
    log: dict[str, Any] = field(default_factory=dict)
    extras: dict[str, np.ndarray] = field(default_factory=dict)


class Repair(Spec):
    """A repair is a frozen specification that can be called on a model; the model is left as it was."""

    title: ClassVar[str]
    paper: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ("images", "labels")
    """What it cannot do without: ``images`` (clean), their ``labels``, a ``trigger``, the ``training`` set, a ``fresh``
    network of the same architecture."""

    def __call__(self, model: nn.Module, evidence: Evidence) -> Repaired:
        """Repair ``model``; the result is in evaluation mode and shares no tensor with it.

        Raises:
            ValueError: in one line, if something that the repair needs is missing.
        """
        refuse_without(self, evidence)
        work = evidence.compute.model(copy.deepcopy(model)).requires_grad_(True)
        found = self.run(work, evidence)
        found.model.eval().requires_grad_(False)
        oracle = found.oracle or ("trigger" in self.needs and evidence.trigger_is_true)
        return replace(found, oracle=oracle)

    def run(self, model: nn.Module, evidence: Evidence) -> Repaired:
        """Repair ``model``, which is a copy on the device and may be changed in place."""
        raise NotImplementedError
