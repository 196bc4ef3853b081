"""How RNP's presets and their tolerances were chosen: curves of RNP on a model that is not shipped.

    python -m tests.benchmarks.tune_rnp RUN [--preset classic] [--seeds 10 11 12] [--set KEY=VALUE …]

RUN is a model that is not shipped, of an attack seed other than 0, trained like the shipped ones (README). For each
defense seed it prints the label and the cut, the held-out drop that the policy sees and, beside it, accuracy loss, ASR
and RA on test images at the same number of units, so that a preset and a tolerance can be fixed before any reported
seed is looked at.
"""

from __future__ import annotations

import argparse

import numpy as np

from engine.compute import Compute
from engine.defend import DefendRun, build_score, evidence_for
from engine.defenses import DEFENSES
from engine.pruning.sweep import sweep
from engine.pruning.thresholds import by_policy, cross_fit
from engine.suspects import load_suspect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suspect")
    parser.add_argument("--seeds", nargs="+", type=int, default=[10, 11, 12])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--preset", help="default: the one for so many units")
    args = parser.parse_args()
    compute = Compute()
    suspect = load_suspect(args.suspect, compute)
    params = dict(pair.split("=", 1) for pair in args.set)
    rnp = DEFENSES["rnp"]
    preset = args.preset or rnp.preset_for(len(suspect.units))
    test = suspect.test_set().head(4000)
    print(
        f"# {args.suspect}, preset {preset} {params}, {compute.describe()}, n = 4,000 clean and 4,000 triggered images"
    )
    for seed in args.seeds:
        asked = {"preset": preset, "params": params, "policy": rnp.policy_settings(preset)}
        spec = DefendRun.build(suspect=args.suspect, seed=seed, **asked)
        evidence = evidence_for(spec, suspect, compute)
        policy = spec.policy
        scores, held_out = cross_fit(build_score(spec), suspect.model, evidence, policy.folds, spec.mode, give_up=0.1)
        forgot = ", ".join(f"{row['acc']:.2f}" for row in scores.log["unlearn"])
        print(f"seed {seed}: accuracy while unlearning {forgot}")
        if "favourite" in scores.log:
            tried = [f"{one['label']} ({one['units']} units)" for one in scores.log.get("rivals", ())]
            print(f"label {scores.log['favourite']}" + (f", tried: {', '.join(tried)}" if tried else ""))
        print(f"the policy cuts {by_policy(held_out, policy, scores)}", flush=True)
        counts = [int(n) for n in held_out.counts if n >= 20]
        rows = sweep(suspect.model, scores.values.numpy(), [0, *counts], test, spec.mode, compute)
        for row in rows[1:]:
            at = int(np.searchsorted(held_out.counts, row["pruned"]))
            drop = 100 * float(held_out.drops[min(at, len(held_out.counts) - 1)])
            loss = 100 * (rows[0]["acc"] - row["acc"])
            print(
                f"  {row['pruned']:4} units  held-out drop {drop:4.1f}  test: loss {loss:4.1f}  "
                f"ASR {100 * row['asr']:5.1f}  RA {100 * row['ra']:5.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
