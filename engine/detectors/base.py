"""What a detector is: it answers a question about a model, and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from torch import nn

from engine.scores.base import Evidence, refuse_without
from engine.spec import Spec


@dataclass(frozen=True)
class Detection:
    """The answer: is there a backdoor, and to which class.

    ``statistic`` is what the verdict was read off, larger = more suspicious. ``per_class`` has one row of JSON values
    for each class, ``arrays`` whatever is worth a look, by name.
    """

    verdict: bool
    target: int | None
    statistic: float
    per_class: list[dict[str, Any]]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    log: dict[str, Any] = field(default_factory=dict)


class Detector(Spec):
    """A detector is a frozen specification that can be called on a model; the model is left as it was."""

    title: ClassVar[str]
    paper: ClassVar[str]
    rule: ClassVar[str] = ""
    """When its paper says that there is a backdoor, in words."""
    needs: ClassVar[tuple[str, ...]] = ("images",)
    """What it cannot do without, as for :class:`engine.repairs.base.Repair`."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"published": {}}

    def __call__(self, model: nn.Module, evidence: Evidence) -> Detection:
        """Look at ``model``.

        Raises:
            ValueError: in one line, if something that the detector needs is missing.
        """
        refuse_without(self, evidence)
        return self.run(model, evidence)

    def run(self, model: nn.Module, evidence: Evidence) -> Detection:
        raise NotImplementedError
