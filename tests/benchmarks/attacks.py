"""The table of attacks: ``assets/results/attacks.json``, one row for each attack and seed.

    python -m tests.benchmarks.attacks [ATTACK …] [--seeds 0] [--list | --markdown]
    python -m tests.benchmarks.attacks [ATTACK …] --on cifar10|imagenette [--file NPZ]

Every row is a model that ``attack --preset demo --store float16 --twin demo:clean`` trained: the architecture, data and
training of the shipped models; with ``--on``, those of :data:`GROUNDS`, beside a clean twin of their own. Rows that are
there are not made again, and each is written as soon as it is measured, so that a table that was interrupted goes on;
trainings themselves go on from their checkpoints. What is not measured yet is listed as pending.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from engine.attacks import ATTACKS
from engine.demos import DEMOS, locate
from engine.paths import ASSETS, ROOT
from engine.runs.files import write_atomic
from engine.runs.store import Run, find_run, open_run, sha256_of
from tests.benchmarks.grounds import Ground, prepared

#: The data of most rows.
HOME = "fashion-mnist:full"
TABLE = ASSETS / "results" / "attacks.json"
#: The attacks that RNP was evaluated on: three seeds each, and a shipped model.
TWELVE = (
    "badnets", "trojan", "blend", "cl", "sig", "dynamic", "wanet", "fc", "dfst", "awp", "lira", "adaptive_blend",
)  # fmt: skip
SEEDS = (0, 1, 2)
#: Least ASR that is expected, for attacks whose papers report it there, and for all others.
HIGH, LOW = 0.95, 0.85
REPORTED_HIGH = ("badnets", "trojan", "blend", "dynamic", "wanet", "lira", "lf", "bpp", "awp")
#: Most accuracy that may be lost against the clean twin.
MOST_LOST = 0.02
#: The picture of the row *custom*, white and opaque where there is a mark.
HEART = (" ## ## ", "#######", "#######", " ##### ", "  ###  ", "   #   ")


class Key(NamedTuple):
    """What identifies a row; ``on`` is the data."""

    attack: str
    seed: int
    on: str = HOME


#: Why a row falls short, where the cause was found.
REASONS: dict[Key, str] = {
    Key("adaptive_gradient", 0): "the penalty that spreads the backdoor costs accuracy: the same training without it "
    "is BadNets, which loses 0.2 points",
    Key("wanet", 0, "cifar10"): "six epochs are too few to learn the warp: accuracy on the training set, warped images "
    "included, still rises from 80 to 83 % in the last one",
}
#: All attacks, most wanted first.
EVERY = (*TWELVE, *(name for name in ATTACKS if name not in TWELVE))
GROUNDS = {
    "imagenette": Ground(
        "Imagenette (photographs of 10 classes) at 96x96, torchvision's ResNet-18 for photographs, 10 epochs",
        (
            "resnet18_imagenet",
            "training.epochs=10",
            "training.batch=64",
            "training.lr=0.05",
            "training.augment=true",
        ),
        ("trojan",),
        side=96,
    ),
    "cifar10": Ground(
        "CIFAR-10, ResNet-18 of width 32, 6 epochs: what one processor core trains in a quarter of an hour, some "
        "points below the usual 93 % of width 64 and 100 epochs or more",
        ("resnet18", "model.width=32", "training.epochs=6", "training.augment=true"),
        ("badnets", "blend", *(name for name in EVERY if name not in ("badnets", "blend"))),
        lacking="needs a GPU: on one core each takes a quarter of an hour to several hours",
    ),
}


def wanted() -> list[Key]:
    """All rows of the table, most wanted first."""
    here = [Key(name, 0) for name in EVERY] + [Key(name, seed) for seed in SEEDS[1:] for name in TWELVE]
    return here + [Key(name, 0, on) for on, ground in GROUNDS.items() for name in ground.attacks]


def read() -> dict[Key, dict[str, Any]]:
    if not TABLE.exists():
        return {}
    return {Key(row["attack"], row["seed"], row.get("on", HOME)): row for row in json.loads(TABLE.read_text())["rows"]}


def blank(key: Key) -> dict[str, Any]:
    lacking = GROUNDS[key.on].lacking if key.on in GROUNDS else ""
    return {**key._asdict(), "state": "pending", **({"reason": lacking} if lacking else {})}


def write(rows: dict[Key, dict[str, Any]]) -> None:
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    every = [
        {**rows[key], "on": key.on, "reason": reason(key, rows[key]["met"])}
        if key in rows and is_done(rows[key])
        else blank(key)
        for key in wanted()
    ]
    document = {
        "about": "Attacks on Fashion-MNIST, ResNet-18 of width 32: python -m tests.benchmarks.attacks",
        "on": {name: ground.about for name, ground in GROUNDS.items()},
        "rows": every,
    }
    write_atomic(TABLE, (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())


def is_done(row: dict[str, Any]) -> bool:
    return bool(row["state"] == "done")


def reason(key: Key, met: bool) -> str | None:
    """Why a row falls short; it may be found long after the row."""
    return None if met else REASONS.get(key, "not yet looked into")


def row(key: Key, run: Run, clean_acc: float) -> dict[str, Any]:
    result, spec = run.result, run.spec
    measure = "success" if result.get("success") is not None else "asr"
    least = HIGH if key.attack in REPORTED_HIGH else LOW
    lost = clean_acc - result["acc"]
    met = result[measure] >= least and lost <= MOST_LOST
    found = {
        **key._asdict(),
        "state": "done",
        "run": run.id,
        "measured_by": "success on chosen images" if measure == "success" else "asr",
        **{k: result.get(k) for k in ("acc", "asr", "success", "ra", "intervals", "n", "triggers", "worst", "leakage")},
        "clean_acc": clean_acc,
        "acc_lost": round(lost, 6),
        "least_asr": least,
        "met": met,
        "poisoned": result["poisoned"],
        "kinds": result.get("kinds"),
        "trained_on": result["trained_on"],
        "spec": {k: spec[k] for k in ("data", "model", "attack", "training", "store")},
        "seconds": run.manifest["seconds"],
        "machine": result["machine"],
    }
    if key.on in GROUNDS:
        found |= elsewhere(key, run)
    return {k: v for k, v in found.items() if v is not None or k == "asr"}


def elsewhere(key: Key, run: Run) -> dict[str, Any]:
    """What a row on other data has beside the usual: its clean twin, its data without their place, its processor."""
    twin = find_run(run.manifest["inputs"]["twin"])
    assert twin is not None
    known = {"acc": twin.result["acc"], "interval": twin.result["intervals"]["acc"], "n": twin.result["n"]["acc"]}
    path, side = Path(run.spec["data"]), GROUNDS[key.on].side
    data = {"name": key.on, "side": side, "sha256": sha256_of(path) if path.is_file() else None}
    return {
        "about": GROUNDS[key.on].about,
        "twin": {"run": twin.id, **known, "seconds": twin.manifest["seconds"]},
        "spec": {**{k: run.spec[k] for k in ("model", "attack", "training", "store")}, "data": data},
        "machine": f"{run.result['machine']}, {processor()}",
    }


def processor() -> str:
    """The processor's name, as the system gives it."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor() or platform.machine()


def drawn(folder: Path) -> Path:
    mark = np.array([[c == "#" for c in line] for line in HEART])
    Image.fromarray(np.dstack([mark] * 4).astype(np.uint8) * 255).save(folder / "heart.png")
    return folder / "heart.png"


def train(key: Key, file: Path | None = None) -> Run:
    """The run of a row; the command finds it where it was made before."""
    command = [sys.executable, "-m", "engine", "attack", "--attack", key.attack, "--seed", str(key.seed), "--json"]
    if ground := GROUNDS.get(key.on):
        command += ["--data", prepared(key.on, ground.side, file), *ground.options()]
    else:
        command += ["--data", HOME, "--model", "resnet18", "--preset", "demo", "--store", "float16"]
        command += ["--twin", "demo:clean"]
    with tempfile.TemporaryDirectory() as folder:
        if key.attack == "custom":
            command += ["--trigger", str(drawn(Path(folder)))]
        made = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return open_run(Path(json.loads(made.stdout)["folder"]))


def markdown(rows: dict[Key, dict[str, Any]]) -> str:
    """The measured rows as the README shows them; seeds beyond the first are given with the first one's."""
    lines = ["| attack | ACC | ASR | training images that are poisoned / cover / cross |", "| --- | --- | --- | --- |"]
    for name in EVERY:
        seeds = [rows[Key(name, s)] for s in SEEDS if Key(name, s) in rows and is_done(rows[Key(name, s)])]
        if not seeds:
            continue
        accs = "; ".join(f"{100 * each['acc']:.1f} %" for each in seeds)
        lines.append(f"| {ATTACKS[name].title} | {accs} | {success(seeds)} | {composition(seeds[0])} |")
    return "\n".join(lines)


def markdown_elsewhere(rows: dict[Key, dict[str, Any]]) -> str:
    """The measured rows on other data, as the README shows them."""
    lines = ["| data, network | attack | ACC (clean twin) | ASR | poisoned / cover / cross |", "| --- " * 5 + "|"]
    before = ""
    for key, found in rows.items():
        if key.on in GROUNDS and is_done(found):
            acc = f"{100 * found['acc']:.1f} % ({100 * found['clean_acc']:.1f} %)"
            about = "as above" if key.on == before else found["about"]
            before = key.on
            lines.append(
                f"| {about} | {ATTACKS[key.attack].title} | {acc} | {success([found])} | {composition(found)} |"
            )
    return "\n".join(lines)


def success(seeds: list[dict[str, Any]]) -> str:
    """ASR, or success on chosen images, of the first seed with its interval, and of the others."""
    first = seeds[0]
    measure = "asr" if first.get("asr") is not None else "success"
    low, high = (100 * end for end in first["intervals"][measure])
    got = f"{100 * first[measure]:.1f} % [{low:.1f}, {high:.1f}]"
    got += f" of {first['n'][measure]} chosen images" if measure == "success" else ""
    got += "".join(f"; {100 * later[measure]:.1f} %" for later in seeds[1:])
    return got + ("" if first["met"] else f" (aim {100 * first['least_asr']:.0f} %)")


def composition(found: dict[str, Any]) -> str:
    known = found.get("kinds") or {"poisoned": found["poisoned"]}
    kinds = [known.get(kind, 0) for kind in ("poisoned", "cover", "cross")]
    return " / ".join(f"{n:,}" for n in kinds) + f" of {found['trained_on']:,}"


def line(key: Key, found: dict[str, Any]) -> str:
    """A row as the command prints it."""
    start = f"{'' if key.on == HOME else key.on + ' '}{key.attack:<16} seed {key.seed}  "
    if not is_done(found):
        return f"{start}pending {found.get('reason', '')}".rstrip()
    value, measure = (found["asr"], "ASR") if found["asr"] is not None else (found["success"], "success")
    low, high = found["intervals"]["asr" if measure == "ASR" else "success"]
    return (
        f"{start}ACC {found['acc']:.2%} (lost {100 * found['acc_lost']:.2f})  "
        f"{measure} {value:.2%} [{low:.2%}, {high:.2%}]  {'met' if found['met'] else 'missed'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--on", choices=list(GROUNDS), default=HOME, help="other data than Fashion-MNIST")
    parser.add_argument("--file", type=Path, metavar="NPZ", help="with --on: the data, instead of a download")
    parser.add_argument("--again", action="store_true", help="replace rows that are there")
    parser.add_argument("--list", action="store_true", help="print the table and train nothing")
    parser.add_argument("--markdown", action="store_true", help="print the README's tables and train nothing")
    args = parser.parse_args()
    if args.markdown:
        print(markdown(read()), markdown_elsewhere(read()), sep="\n\n")
        return
    clean_acc = open_run(locate("demo:clean")).result["acc"]
    for key in [] if args.list else wanted():
        if key.on != args.on or key.seed not in args.seeds or (args.attacks and key.attack not in args.attacks):
            continue
        if key in (rows := read()) and is_done(rows[key]) and not args.again:
            continue
        shipped = DEMOS / key.attack
        began = time.time()
        try:
            known = key.on == HOME and key.seed == 0 and (shipped / "manifest.json").exists()
            run = open_run(shipped) if known else train(key, args.file)
        except subprocess.CalledProcessError as error:
            sys.stderr.write(f"{line(key, blank(key))}: exit code {error.returncode}\n")
            continue
        twin = clean_acc if key.on == HOME else run.result["clean_acc"]
        write({**read(), key: row(key, run, twin)})
        sys.stderr.write(f"{line(key, read()[key])}: {time.time() - began:.0f} s\n")
    rows = read()
    print(f"# clean twin: ACC {clean_acc:.2%}; n = 10,000 clean test images, triggered n in the row")
    for key in wanted():
        print(line(key, rows.get(key) or blank(key)))


if __name__ == "__main__":
    main()
