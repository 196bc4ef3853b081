"""The catalogue of defenses: named recipes of score, threshold and settings.

``published`` holds the settings of the paper's own code. ``small`` holds settings for narrow networks on small
images, chosen by ``tests/benchmarks/tune_rnp.py`` on models that are not shipped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from engine.registry import Registry
from engine.scores import SCORES, Score

#: Networks with fewer units than this use the preset ``small`` unless another is named.
SMALL_UNITS = 4000


@dataclass(frozen=True)
class Defense:
    """A score with its presets; the policy and the mode are chosen by the caller."""

    title: str
    about: str
    score: str
    presets: dict[str, dict[str, Any]] = field(default_factory=lambda: {"published": {}})

    def preset_for(self, units: int) -> str:
        return "small" if "small" in self.presets and units < SMALL_UNITS else "published"

    def build(self, preset: str, params: dict[str, Any]) -> Score:
        """The score with a preset's settings, overridden by ``params``.

        Raises:
            ValueError: for an unknown preset or setting.
        """
        if preset not in self.presets:
            raise ValueError(f"expected preset to be one of {', '.join(self.presets)}, got {preset!r}")
        return SCORES[self.score].build(self.presets[preset], **params)


#: Gentler than published: masks are learned while most is still known, in large steps and long enough for accuracy to
#: come back; on a state that has forgotten everything, they single out units that whole clean classes need.
RNP_SMALL: dict[str, Any] = {
    "unlearn_lr": 0.002,
    "unlearn_passes": 40,
    "lr_drop": 0,
    "stop_acc": 0.5,
    "recover_acc": 0.84,
    "mask_lr": 0.25,
    "mask_passes": 14,
    "batch": 62,
    "augment": False,
}

DEFENSES: Registry[Defense] = Registry("defense")
DEFENSES.add(
    "rnp",
    Defense(
        "Reconstructive Neuron Pruning",
        "Unlearn on clean images, recover one mask per filter, cut the filters whose mask stays low.",
        "rnp",
        {"published": {}, "small": RNP_SMALL},
    ),
)
DEFENSES.add(
    "unlearning_gradient",
    Defense(
        "Unlearning gradient",
        "Cut the filters that would change most if triggered images had to be answered correctly (one pass).",
        "unlearning_gradient",
    ),
)
DEFENSES.add(
    "activation",
    Defense(
        "Fine-Pruning, cutting only",
        "Cut the filters that clean images activate least; the paper's fine-tuning is not done.",
        "activation",
    ),
)
DEFENSES.add(
    "tac",
    Defense("Trigger-activated change", "Cut the filters that the true trigger changes most: an upper bound.", "tac"),
)
DEFENSES.add("random", Defense("Random", "Cut filters in random order: the control.", "random"))
