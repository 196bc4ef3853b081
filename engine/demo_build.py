"""How the shipped demos were made: ``python -m engine.demo_build NAME RUN [SCORE …]`` for each, RUN an attack run.

The run folder becomes ``assets/demos/NAME``; its studies and its gallery are computed from the file that ships. The
attack commands themselves are in the README. Nothing is recomputed that is there already. Without a SCORE all studies
are made; ``none`` makes none.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.compute import Compute, generator
from engine.defend import SweepRun, run_sweep
from engine.defenses import DEFENSES
from engine.demos import DEMOS, PREFIX
from engine.metrics import answers
from engine.models.masking import masked
from engine.pruning.cut import cut_at
from engine.runs.store import JOURNAL, Run, finished, new_run, open_run, run_folder
from engine.suspects import Suspect, load_suspect, shares
from engine.train import silent

#: Controls get a coarser curve and no cross-fitting; of the tolerance, only their oracle row takes notice.
CONTROL: dict[str, Any] = {"name": "fraction", "tolerance": 0.05}
#: Score: trigger, policy, points and test images of its study.
STUDIES: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "rnp": ("none", {"name": "tolerance", **DEFENSES["rnp"].policy_settings("small")}, 30, 1000),
    "activation": ("none", CONTROL, 12, 500),
    "unlearning_gradient": ("true", CONTROL, 12, 500),
    "tac": ("true", CONTROL, 12, 500),
    "random": ("none", CONTROL, 12, 500),
}
PICTURES_PER_CLASS = 3
#: Confidence of a picture that is shown: what changes its answer is then the trigger.
SURE = 0.9


def study(suspect: Suspect, defense: str, compute: Compute, progress: Any = silent) -> Run:
    trigger, policy, points, test_samples = STUDIES[defense]
    spec = SweepRun.build(
        suspect=suspect.name,
        defense=defense,
        preset=DEFENSES[defense].preset_for(len(suspect.units)),
        trigger=trigger,
        policy=policy,
        points=points,
        test_samples=test_samples,
    )
    out = DEMOS / suspect.name.removeprefix(PREFIX) / "study" / defense
    return run_sweep(spec, suspect, compute, out, progress)


def gallery(suspect: Suspect, rnp: Run, compute: Compute) -> Run:
    """Test pictures, clean and triggered, with the suspect's probabilities before and after the default cut.

    The first pictures of each class but the target's that the uncut suspect answers rightly, and surely, when clean.
    """
    assert suspect.attack is not None
    test, chosen = suspect.data.test, rnp.result["chosen"]
    asked = {"kind": "gallery", "suspect": suspect.name, "pictures_per_class": PICTURES_PER_CLASS, "sure": SURE}
    inputs = {"suspect": suspect.hash, "study": rnp.id}
    out = DEMOS / suspect.name.removeprefix(PREFIX) / "gallery"
    if known := finished(asked, inputs, out):
        return known
    sure, answer = compute.logits(suspect.model, test.x[:2000]).softmax(1).max(1)
    right = (answer == test.y[:2000]) & (sure > SURE)
    changed = suspect.attack.changed(test.y[:2000])
    picked = [
        ((test.y[:2000] == c) & right & changed).nonzero().squeeze(1)[:PICTURES_PER_CLASS]
        for c in range(len(suspect.data.classes))
    ]
    # Mixed, so that two garments of a kind do not follow each other.
    numbers = torch.cat(picked)
    numbers = numbers[torch.randperm(len(numbers), generator=generator(0, "gallery"))]
    clean = test.x[numbers].float() / 255
    triggered = suspect.attack.trigger(clean)
    cut = torch.from_numpy(cut_at(rnp.arrays("scores")["values"], chosen["threshold"]))

    def probabilities() -> tuple[np.ndarray, np.ndarray]:
        a, b = (compute.logits(suspect.model, x).softmax(1).numpy() for x in (clean, triggered))
        return a, b

    p_clean, p_triggered = probabilities()
    with masked(suspect.model, cut, rnp.spec["mode"]):
        p_clean_cut, p_triggered_cut = probabilities()
        after = answers(suspect.model, suspect.test_set(), compute)
    before = suspect.answers(compute)
    with new_run(asked, inputs, out) as draft:
        draft.arrays(
            "gallery",
            {
                "clean": test.x[numbers].numpy(),
                "triggered": (triggered * 255).round().to(torch.uint8).numpy(),
                "truth": test.y[numbers].numpy(),
                "numbers": numbers.numpy(),
                "p_clean": p_clean,
                "p_triggered": p_triggered,
                "p_clean_cut": p_clean_cut,
                "p_triggered_cut": p_triggered_cut,
            },
        )
        draft.result = {
            "threshold": chosen["threshold"],
            "pruned": int(cut.sum()),
            **{f"{key}_before": value for key, value in shares(before).items()},
            **{f"{key}_after": value for key, value in shares(after).items()},
        }
    return open_run(run_folder(asked, inputs, out))


def main(name: str, source: Path, *scores: str) -> None:
    folder, compute = DEMOS / name, Compute()
    if not folder.exists():
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns(*JOURNAL))
    suspect = load_suspect(f"{PREFIX}{name}", compute)
    for defense, (trigger, *_) in STUDIES.items():
        if (not scores or defense in scores) and (trigger == "none" or suspect.attack is not None):
            run = study(suspect, defense, compute)
            sys.stderr.write(f"{name} {defense}: {run.result['chosen']}\n")
            if defense == "rnp" and suspect.attack is not None:
                gallery(suspect, run, compute)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
