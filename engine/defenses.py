"""The catalogue of defenses: named recipes of score, threshold, repair and settings.

``published`` holds the settings of the paper's own code. ``small`` holds settings for narrow networks on small
images, chosen by ``tests/benchmarks/tune_rnp.py`` on models that are not shipped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from engine.registry import Registry
from engine.repairs import REPAIRS, Repair
from engine.scores import SCORES, Score

#: Networks with fewer units than this use the preset ``small`` unless another is named.
SMALL_UNITS = 4000


@dataclass(frozen=True)
class Defense:
    """A score, a repair, or a score whose cut is repaired; the caller chooses policy and mode.

    Settings of the repair are named ``repair.KEY`` where there is a score, too. ``policy`` is the one that the defense
    uses unless another is chosen.
    """

    title: str
    about: str
    score: str | None = None
    presets: dict[str, dict[str, Any]] = field(default_factory=lambda: {"published": {}})
    repair: str | None = None
    policy: str = "tolerance"

    @property
    def needs(self) -> tuple[str, ...]:
        """What score and repair cannot do without."""
        of_score = SCORES[self.score].needs if self.score else ()
        return tuple(dict.fromkeys([*of_score, *(REPAIRS[self.repair].needs if self.repair else ())]))

    def preset_for(self, units: int) -> str:
        return "small" if "small" in self.presets and units < SMALL_UNITS else "published"

    def build(self, preset: str, params: dict[str, Any]) -> tuple[Score | None, Repair | None]:
        """Score and repair with a preset's settings, overridden by ``params``.

        Raises:
            ValueError: for an unknown preset or setting.
        """
        if preset not in self.presets:
            raise ValueError(f"expected preset to be one of {', '.join(self.presets)}, got {preset!r}")
        own: dict[str, Any] = {}
        of_repair: dict[str, Any] = {}
        for key, value in {**self.presets[preset], **params}.items():
            if self.score is None or key.startswith("repair."):
                of_repair[key.removeprefix("repair.")] = value
            else:
                own[key] = value
        if of_repair and self.repair is None:
            raise ValueError(f"expected no settings of a repair for {self.title}, got {next(iter(of_repair))!r}")
        score = SCORES[self.score].build(own) if self.score else None
        return score, REPAIRS[self.repair].build(of_repair) if self.repair else None


#: Two things differ from the published settings besides the rates. At temperature 1 the few images that a quickly
#: trained network already gets wrong steer the unlearning, and it ends in whichever class they are confused with; at 3
#: all images push, and it ends in the backdoor's target. The first half of the layers is skipped: masks there mend the
#: unlearned network best, but what they cut every clean class needs. Masks are learned while most is still known;
#: unlearning then goes on until the backdoor's label shows.
RNP_SMALL: dict[str, Any] = {
    "unlearn_lr": 0.0007,
    "unlearn_passes": 40,
    "lr_drop": 0,
    "temperature": 3.0,
    "stop_acc": 0.4,
    "recover_acc": 0.8,
    "skip": 0.5,
    "mask_lr": 1.0,
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
DEFENSES.add(
    "fine_tuning",
    Defense(
        "Fine-tuning",
        "Train on the clean images, nothing else.",
        presets={"published": {}, "quick": {"epochs": 20}},
        repair="fine_tuning",
    ),
)

#: Five percent of CIFAR-10, which the published settings are for, are ten batches an epoch; 500 images are two. Smaller
#: batches take as many steps in a fifth of the epochs. The push is relative to the weights and spread over all of them:
#: a network of a quarter as many feels one of half that length as much.
FT_SAM_QUICK: dict[str, Any] = {"epochs": 20, "batch": 50}
DEFENSES.add(
    "ft_sam",
    Defense(
        "FT-SAM",
        "Fine-tune with the gradient of weights that were first pushed uphill, large ones farthest.",
        presets={"published": {}, "quick": FT_SAM_QUICK, "small": {**FT_SAM_QUICK, "rho": 1.0}},
        repair="ft_sam",
    ),
)
DEFENSES.add(
    "nad",
    Defense(
        "Neural Attention Distillation",
        "Fine-tune a copy, then hold the suspect to where the copy looks.",
        repair="nad",
    ),
)
DEFENSES.add(
    "seam",
    Defense(
        "Selective Amnesia",
        "Teach random labels until the network has forgotten, then the true ones again.",
        repair="seam",
    ),
)
DEFENSES.add(
    "distillation",
    Defense(
        "Distillation into a new network",
        "A new network learns the suspect's soft answers to clean images.",
        presets={"published": {}, "quick": {"epochs": 30}},
        repair="distillation",
    ),
)
DEFENSES.add(
    "retrain",
    Defense(
        "Retraining from scratch",
        "Train a new network on the clean images alone: what a defense must exceed.",
        presets={"published": {}, "quick": {"epochs": 30}},
        repair="retrain",
    ),
)
#: At the published rate the bend does not leave the straight line in so few steps: here it moves as fast as the copy.
MCR_QUICK: dict[str, Any] = {"epochs": 20, "tuned_epochs": 20, "lr": 0.01}
DEFENSES.add(
    "mcr",
    Defense(
        "Mode Connectivity Repair",
        "Bend a path from the suspect to a fine-tuned copy through good weights, take a point near the suspect.",
        presets={"published": {}, "quick": MCR_QUICK},
        repair="mcr",
    ),
)
#: The settings are Unmask's own, not the paper's, which also finds its trigger; here one is given. Ten to twenty logits
#: of margin, as trained networks have, leave no slope at temperature 1.
DEFENSES.add(
    "gradient_ascent",
    Defense(
        "Gradient ascent on the trigger",
        "Climb on the loss of the attacker's answer to triggered images, while clean ones hold the rest.",
        repair="gradient_ascent",
    ),
)
DEFENSES.add(
    "gradient_ascent_ewc",
    Defense(
        "Gradient ascent with a guard",
        "The same, with the weights that clean images need held where they were (EWC).",
        presets={"published": {"ewc": 1.0}},
        repair="gradient_ascent",
    ),
)
#: With 500 images ``small`` takes as many steps a round, with as many changed images in each, as the published settings
#: do with five percent of CIFAR-10.
DEFENSES.add(
    "i_bau",
    Defense(
        "I-BAU",
        "Find one change that fools the network on all images, unlearn it, again and again.",
        presets={"published": {}, "small": {"batch": 50, "portion": 0.05}},
        repair="i_bau",
    ),
)
