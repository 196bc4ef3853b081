"""The figures of the README: RNP with the default, oracle-free policy on the shipped demos and on unseen models.

    python -m tests.benchmarks.figures                          demo:badnets and demo:blend, defense seeds 0, 1, 2
    python -m tests.benchmarks.figures --unseen                 two further BadNets models, trained first if need be
    python -m tests.benchmarks.figures --suspects RUN [RUN …]   any suspects

One row a run: accuracy and attack success before and after, RA, the same for a random cut of equal per-layer counts,
and what the unlearned model answers on clean test images. Finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from engine.compute import Compute, generator
from engine.defend import DefendRun, run_defend
from engine.defenses import DEFENSES
from engine.demos import open_suspect
from engine.metrics import answers
from engine.models.masking import masked
from engine.models.neurons import Units
from engine.runs.store import Run
from engine.suspects import AttackRun, Suspect, load_suspect, make_attack, run_attack

SEEDS = (0, 1, 2)
UNSEEN_SEEDS = (1, 2)


def random_cut(units: Units, cut: np.ndarray, seed: int) -> torch.Tensor:
    """As many units of each layer as ``cut`` has, drawn at random."""
    rng, drawn = generator(seed, "random control"), torch.zeros(len(cut), dtype=torch.bool)
    for layer in units.layers:
        n = int(cut[layer.span].sum())
        drawn[layer.offset + torch.randperm(layer.size, generator=rng)[:n]] = True
    return drawn


def unlearned_answers(suspect: Suspect, run: Run, compute: Compute) -> tuple[float | None, float, int]:
    """ASR of the unlearned model, and its most frequent answer to clean test images with its share."""
    keep = {k: v.clone() for k, v in suspect.model.state_dict().items()}
    try:
        state = {k: torch.from_numpy(v) for k, v in run.arrays("unlearned").items()}
        suspect.model.load_state_dict(state)
        found = answers(suspect.model, suspect.test_set().head(2000), compute)
        said = compute.logits(suspect.model, suspect.data.test.x[:2000]).argmax(1)
    finally:
        suspect.model.load_state_dict(keep)
    counts = said.bincount(minlength=len(suspect.data.classes))
    return found.asr and found.asr.value, float(counts.max() / len(said)), int(counts.argmax())


def one(suspect: Suspect, seed: int, compute: Compute, preset: str | None = None) -> dict[str, float]:
    started = time.perf_counter()
    rnp = DEFENSES["rnp"]
    preset = preset or rnp.preset_for(len(suspect.units))
    policy = rnp.policy_settings(preset)
    spec = DefendRun.build(suspect=suspect.name, defense="rnp", preset=preset, policy=policy, seed=seed)
    run = run_defend(spec, suspect, compute)
    seconds = time.perf_counter() - started
    result, cut = run.result, run.arrays("scores")["cut"].astype(bool)
    with masked(suspect.model, random_cut(suspect.units, cut, seed), spec.mode):
        control = answers(suspect.model, suspect.test_set().head(2000), compute)
    asr, share, label = unlearned_answers(suspect, run, compute)
    loss = 100 * (result["acc_before"] - result["acc_after"])
    low, high = (100 * v for v in result["acc_drop_interval"])
    before, acc_drop = 100 * result["acc_before"], f"{loss:5.1f} [{low:4.1f},{high:4.1f}]"
    row = f"{suspect.name:<24} {seed:>4} {result['pruned']:>5} {before:6.1f} {acc_drop}"
    if result["asr_after"] is None:
        print(f"{row}   (clean)   unlearned: {100 * share:.0f} % answer {label}", flush=True)
        return {"loss": loss}
    a_low, a_high = (100 * v for v in result["intervals_after"]["asr"])
    assert control.asr is not None
    success = f"{100 * result['asr_before']:6.1f} {100 * result['asr_after']:6.1f} [{a_low:4.1f},{a_high:4.1f}]"
    drawn = f"{100 * control.acc.value:5.1f} / {100 * control.asr.value:5.1f}"
    forgot = f"ASR {100 * (asr or 0):5.1f}, {100 * share:.0f} % answer {label}"
    print(f"{row} {success} {100 * result['ra_after']:6.1f} {result['der']:6.3f}", end="")
    print(f"   {drawn}   {forgot}   {seconds:5.0f}", flush=True)
    return {"loss": loss, "asr": 100 * result["asr_after"]}


def unseen(seed: int, compute: Compute) -> Run:
    """A BadNets model like the shipped one but of another attack seed (needs the complete Fashion-MNIST)."""
    spec = AttackRun.build(
        data="fashion-mnist:full",
        model={"name": "resnet18", "width": 32},
        attack={"name": "badnets", "params": make_attack("badnets", {}, "small").model_dump(mode="json")},
        training={"epochs": 3},
        seed=seed,
        store="float16",
    )

    def progress(what: str, share: float, **_: float | None) -> None:
        sys.stderr.write(f"\r{share:4.0%} {what:<60}")

    return run_attack(spec, compute, twin=open_suspect("demo:clean"), progress=progress)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unseen", action="store_true")
    parser.add_argument("--suspects", nargs="+", default=["demo:badnets", "demo:blend"])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--preset", help="default: the one for so many units")
    args = parser.parse_args()
    compute = Compute()
    names: Iterable[str] = args.suspects
    if args.unseen:
        names = (str(Path(unseen(seed, compute).folder)) for seed in UNSEEN_SEEDS)
    print(
        f"# {compute.describe()}; n = 10,000 clean and 9,000 triggered test images; intervals 95 %; controls n = 2,000"
    )
    print(
        "# suspect               seed   cut    ACC  loss [interval]    ASR  after [interval]     RA    DER   "
        "random cut ACC / ASR   unlearned model             seconds"
    )
    for name in names:
        suspect = load_suspect(name, compute)
        rows = [one(suspect, seed, compute, args.preset) for seed in args.seeds]
        medians = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        print(
            f"# {name}: median loss {medians['loss']:.1f}, median ASR {medians.get('asr', float('nan')):.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
