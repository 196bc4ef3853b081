"""The open questions: ``assets/results/questions.json``, a row for each variant that is compared.

    python -m tests.benchmarks.questions [QUESTION …] [--again] [--list]

Every row is one ``defend`` of the command line on a shipped model, or on one that a question needs and that ``attack``
trains first (``MODELS``; their runs stay in the workspace). Rows that are there are not made again, unless the shipped
model has become another one, and each is written as soon as it is measured, so that an interrupted list goes on. What
is not measured yet is listed as pending.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from engine.defenses import DEFENSES
from engine.demos import PREFIX, open_suspect
from engine.paths import ASSETS, ROOT
from engine.retune_ways import WAYS, words
from engine.runs.files import write_atomic
from engine.runs.store import BY_ID, Run, open_run
from engine.spec import digest
from tests.benchmarks import defenses

TABLE = ASSETS / "results" / "questions.json"
_TAKEN = (*defenses.TAKEN, "intervals_before", "triggers_after", "worst_after", "samples", "n_after")
_FULL = ("--data", "fashion-mnist:full", "--store", "float16", "--seed", "0")
_DEMO = (*_FULL, "--model", "resnet18", "--preset", "demo", "--twin", "demo:clean")
_LIGHT = (*_FULL, "--attack", "badnets", "--preset", "small", "--set", "training.epochs=3")
#: Models that questions need beside the shipped ones, by name: the command that trains each.
MODELS: dict[str, tuple[str, ...]] = {
    "multi_trigger": (*_DEMO, "--attack", "multi_trigger"),
    "adaptive_gradient": (*_DEMO, "--attack", "adaptive_gradient"),
    "mobilenet_v2": (*_LIGHT, "--model", "mobilenet_v2"),
    "efficientnet_b0": (*_LIGHT, "--model", "efficientnet_b0"),
}
RNP = ("--defense", "rnp")
#: The masks learned on the unlearned model alone, as in the paper: what levels and depth mean.
CLASSIC = (*RNP, "--preset", "classic", "--tolerance", "0.01")
#: These need the trigger and are given the true one: oracles.
GRAD_PRUNE = ("--defense", "grad_prune", "--trigger", "true")
GRADIENT = ("--defense", "unlearning_gradient", "--trigger", "true")
JOINT = ("--defense", "joint", "--trigger", "true")
FINE_PRUNING = ("--defense", "fine_pruning", "--preset", "small")
FINE_TUNING = ("--defense", "fine_tuning", "--preset", "quick")
ANP = ("--defense", "anp")


def _set(**settings: object) -> tuple[str, ...]:
    return tuple(word for key, value in settings.items() for word in ("--set", f"{key}={value}"))


@dataclass(frozen=True)
class Variant:
    """One row: what is compared within a ``group`` under a ``label``; ``words`` follow ``defend SUSPECT``.

    ``suspect`` is a shipped model or one of :data:`MODELS`. ``retune``: words of the
    retuning afterwards, if there is any.
    """

    group: str
    label: str
    words: tuple[str, ...]
    suspect: str = "badnets"
    retune: tuple[str, ...] | None = None

    @property
    def defense(self) -> str:
        return self.words[self.words.index("--defense") + 1]

    @property
    def shipped(self) -> bool:
        return self.suspect not in MODELS


Key = tuple[str, str, str]


def _each(groups: Iterable[tuple[str, tuple[str, ...]]], ways: Iterable[tuple[str, tuple[str, ...]]]) -> list[Variant]:
    ways = list(ways)
    return [Variant(group, label, (*words, *more)) for group, words in groups for label, more in ways]


def _levels(up: str, down: str) -> tuple[str, ...]:
    return _set(unlearn_level=up, recover_level=down)


_THREE = [("RNP", RNP), ("Fine-Pruning", FINE_PRUNING), ("Grad-Prune", GRAD_PRUNE)]
_DEEP = [0.9, 0.8, 0.6, 0.4, 0.2, 0.1]
_TOLERATED = (0.005, 0.01, 0.02, 0.03)
_RULES = [
    *((f"tolerance {100 * t:g} points", ("--policy", "tolerance", "--tolerance", str(t))) for t in _TOLERATED),
    ("knee", ("--policy", "knee")),
    *((f"fraction {100 * f:g} %", ("--policy", "fraction", "--fraction", str(f))) for f in (0.02, 0.05, 0.1)),
    ("chosen by test ASR", ("--policy", "oracle")),
]
#: The questions in the order of the page, and what is measured for each.
QUESTIONS: dict[str, list[Variant]] = {
    "asymmetry": [
        Variant("RNP", f"{up} up, {down} down", (*CLASSIC, *(() if usual else _levels(up, down))))
        for up, down, usual in (
            ("neuron", "filter", True), ("neuron", "neuron", False), ("filter", "filter", False),
            ("filter", "neuron", False),
        )
    ],
    "samples": _each(_THREE, [(f"{n:,} images", ("--samples", str(n))) for n in (100, 500, 1000)]),
    "triggers": [
        Variant(title, called, words, suspect)
        for title, words in [*_THREE, ("ANP", ANP)]
        for suspect, called in (("badnets", "one trigger"), ("multi_trigger", "four triggers"))
    ],
    "start": _each(
        [
            ("Activation", ("--defense", "activation")), ("ANP", ANP), ("Fine-tuning", FINE_TUNING),
            ("FT-SAM", ("--defense", "ft_sam")), ("I-BAU", ("--defense", "i_bau")), ("Grad-Prune", GRAD_PRUNE),
        ],
        [("from the suspect", ()), ("from the unlearned model", ("--start", "unlearned"))],
    ),
    "tuning_data": [
        *_each([("Grad-Prune", GRAD_PRUNE)], [(d, _set(**{"repair.data": d})) for d in ("both", "clean", "triggered")]),
        *_each([("Tuning alone", JOINT)], [(d, _set(data=d)) for d in ("both", "clean", "triggered")]),
    ],
    "adaptive": [
        Variant(title, called, words, suspect)
        for title, words in [("Gradient", GRADIENT), ("Grad-Prune", GRAD_PRUNE), ("RNP", RNP)]
        for suspect, called in (("badnets", "BadNets"), ("adaptive_gradient", "spread BadNets"))
    ],
    "light": [
        Variant(title, called, words, suspect)
        for title, words in _THREE
        for suspect, called in (
            ("badnets", "ResNet-18"), ("mobilenet_v2", "MobileNetV2"), ("efficientnet_b0", "EfficientNet-B0"),
        )
    ],
    "reactivation": [
        Variant(title, label, how, retune=retune)
        for title, how in [
            *_THREE, ("Fine-tuning", FINE_TUNING), ("FT-SAM", ("--defense", "ft_sam")),
            ("Retraining", ("--defense", "retrain", "--preset", "quick")),
        ]
        for label, retune in (("repaired", None), *((f"retuned {way}", tuple(words(way))) for way in WAYS))
    ],
    "few": _each(
        [("RNP", RNP), ("Grad-Prune", GRAD_PRUNE)],
        [
            ("2 a class", ("--per-class", "2")), ("10 a class", ("--per-class", "10")),
            ("50 a class", ("--per-class", "50")), ("500, 10 : 1", ("--imbalance", "10")),
            ("500, 100 : 1", ("--imbalance", "100")),
        ],
    ),
    "depth": _each([("RNP", CLASSIC)], [(f"to {100 * a:.0f} %", _set(stop_acc=a, recover_acc=a)) for a in _DEEP]),
    "threshold": [
        Variant(called, label, (*RNP, *words), suspect)
        for suspect, called in (("badnets", "BadNets"), ("blend", "Blend"))
        for label, words in _RULES
    ],
}  # fmt: skip


def wanted(asked: Sequence[str] = ()) -> dict[Key, Variant]:
    """The rows of the questions that are ``asked`` for, of all if none is named."""
    chosen = {name: QUESTIONS[name] for name in asked} if asked else QUESTIONS
    return {(name, one.group, one.label): one for name, rows in chosen.items() for one in rows}


def read() -> dict[Key, dict[str, Any]]:
    """The rows that are there, but for those of models or settings that are others now."""
    if not TABLE.exists():
        return {}
    now = defenses.of()
    rows = json.loads(TABLE.read_text())["rows"]
    current = [row for row in rows if not row["suspect"].startswith(PREFIX) or row.get("of") in now]
    found = {(row["question"], row["group"], row["label"]): row for row in current}
    variants = wanted()
    return {
        key: row
        for key, row in found.items()
        if key not in variants or row.get("holds") == holds(variants[key], row.get("units", 0))
    }


def holds(variant: Variant, units: int) -> str:
    """What is asked of a model of so many units, and what its preset holds, which its name does not say."""
    defense, words = DEFENSES[variant.defense], variant.words
    preset = words[words.index("--preset") + 1] if "--preset" in words else defense.preset_for(units)
    also = {"retune": variant.retune} if variant.retune else {}
    policy = defense.policy_settings(preset)
    return digest({"words": words, "preset": defense.presets[preset], "policy": policy} | also)


def write(rows: dict[Key, dict[str, Any]]) -> None:
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    every = [rows.get(key) or blank(key, variant) for key, variant in wanted().items()]
    document = {"about": "Open questions: python -m tests.benchmarks.questions", "rows": every}
    write_atomic(TABLE, (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())


def blank(key: Key, variant: Variant) -> dict[str, Any]:
    question, group, label = key
    suspect = f"{PREFIX}{variant.suspect}" if variant.shipped else variant.suspect
    found: dict[str, Any] = {"question": question, "group": group, "label": label, "suspect": suspect}
    found |= {"attack": variant.suspect, "defense": variant.defense, "title": DEFENSES[variant.defense].title}
    trigger = "true" if "true" in variant.words else "none"
    found |= {"trigger": trigger, "seed": 0, "command": command(variant, suspect), "state": "pending"}
    if not variant.shipped:
        found["trained_by"] = f"python -m engine attack {' '.join(MODELS[variant.suspect])}"
    return found


def command(variant: Variant, suspect: str) -> str:
    return f"python -m engine defend {suspect} {' '.join(variant.words)} --seed 0"


def _engine(*words: str) -> dict[str, Any]:
    """One command; its document. What it says of its progress is passed on.

    Raises:
        ValueError: with the line in which it was refused.
    """
    full, line = [sys.executable, "-m", "engine", *words, "--json"], ""
    with TemporaryFile("w+") as written:
        with subprocess.Popen(full, cwd=ROOT, stdout=written, stderr=subprocess.PIPE, text=True) as process:
            for line in process.stderr or ():
                sys.stderr.write(line)
        if process.returncode:
            raise ValueError(line.strip().removeprefix("error: ") or f"exit code {process.returncode}")
        written.seek(0)
        document = written.read()
    found: dict[str, Any] = json.loads(document)
    return found


def measure(key: Key, variant: Variant) -> dict[str, Any]:
    """Defend, after a training where the model is not shipped; a row that fails says why."""
    found = blank(key, variant)
    try:
        suspect = f"{PREFIX}{variant.suspect}"
        if not variant.shipped:
            suspect = f"{BY_ID}{_engine('attack', *MODELS[variant.suspect])['run']}"
        run = open_run(Path(_engine("defend", suspect, *variant.words, "--seed", "0")["folder"]))
        found |= {"suspect": suspect, "command": command(variant, suspect), **row(run)}
        return {
            **found,
            **({} if variant.retune is None else retuned(run, variant.retune)),
            "of": open_suspect(suspect).id,
            "holds": holds(variant, run.result["units"]),
        }
    except ValueError as error:
        return {**found, "state": "failed", "reason": str(error)}


def row(run: Run) -> dict[str, Any]:
    """A finished ``defend`` run as a row has it; ``forgot``: whether the unlearned model had forgotten enough."""
    forgot = run.result["log"].get("forgot")
    return defenses.figures(run, _TAKEN) | ({} if forgot is None else {"forgot": forgot})


def retuned(run: Run, given: Sequence[str] = ()) -> dict[str, Any]:
    """What the ``retune`` command finds after 5 epochs, in place of what the repair left.

    The loss is against the suspect. Its interval and DER are the repair's, not retuning's: there are none.
    """
    found = _engine("retune", f"{BY_ID}{run.id}", *given)
    last = found["epochs"][-1]
    after = {f"{name}_after": last[name] for name in ("acc", "asr", "ra")}
    after |= {"intervals_after": last["intervals"], "n_after": last["n"], "oracle": True}
    after |= dict.fromkeys(("acc_drop_interval", "der", "der_interval"))
    lost = run.result["acc_before"] - last["acc"]
    return {**after, "acc_drop": lost, "run": found["run"], "seconds": found["seconds"]}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("questions", nargs="*", metavar="QUESTION", help=", ".join(QUESTIONS))
    options.add_argument("--again", action="store_true", help="replace rows that are there")
    options.add_argument("--list", action="store_true", help="print the rows and compute nothing")
    args = options.parse_args()
    if unknown := [name for name in args.questions if name not in QUESTIONS]:
        options.error(f"expected questions among {', '.join(QUESTIONS)}, got {unknown[0]!r}")
    for key, variant in [] if args.list else wanted(args.questions).items():
        if not args.again and read().get(key, {}).get("state") == "done":
            continue
        began, found = time.time(), measure(key, variant)
        write({**read(), key: found})
        sys.stderr.write(f"{' | '.join(key)}: {found['state']}, {time.time() - began:.0f} s\n")
    rows = read()
    for key, variant in wanted(args.questions).items():
        print(f"{key[0]:<13} {key[1]:<28} {key[2]:<30} {defenses.words(rows.get(key) or blank(key, variant))}")


if __name__ == "__main__":
    main()
