"""The table of defenses: ``assets/results/defenses.json``, a row for each suspect, defense, number of images and seed.

    python -m tests.benchmarks.defenses [DEFENSE …] [--suspects NAME …] [--samples 500] [--seeds 0] [--again]
        [--list | --markdown]

Every row is a run of ``matrix`` on a shipped model. Rows that are there are not made again, unless the model or what
its preset holds has become another one, and each is written as soon as it is measured, so that a table that was
interrupted goes on. What is not measured yet is listed as pending. Rows use the preset for narrow networks, else the
quick one where the published schedule is expensive; on BadNets the published settings have their own row beside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from engine.attacks import ATTACKS
from engine.defenses import DEFENSES
from engine.demos import PREFIX, names, open_suspect
from engine.paths import ASSETS, ROOT
from engine.pruning.thresholds import Policy
from engine.runs.files import write_atomic
from engine.runs.store import Run, find_run
from engine.spec import digest
from tests.benchmarks.attacks import TWELVE

TABLE = ASSETS / "results" / "defenses.json"
PUBLISHED = ASSETS / "results" / "published.json"
#: Every defense meets these; the twelve attacks meet :data:`MAIN`.
FIRST = ("badnets", "blend", "sig")
MAIN = ("rnp", "grad_prune", "fine_pruning")
#: A second preset that the twelve meet, by defense.
ALSO = {"rnp": "classic", "fine_pruning": "quick"}
SAMPLES, SEEDS = (500, 100, 1000), (0, 1, 2)


class Key(NamedTuple):
    """What identifies a row."""

    attack: str
    defense: str
    samples: int
    seed: int
    preset: str


TAKEN = (
    "acc_before", "acc_after", "asr_before", "asr_after", "ra_before", "ra_after", "success_before", "success_after",
    "acc_drop", "acc_drop_interval", "intervals_after", "der", "der_interval", "pruned", "units", "threshold", "oracle",
    "policy", "title", "machine", "recovered",
)  # fmt: skip


def wanted() -> list[Key]:
    """All rows of the table, most wanted first."""
    pairs = [(suspect, defense) for suspect in FIRST for defense in DEFENSES]
    pairs += [(suspect, defense) for defense in MAIN if defense in DEFENSES for suspect in TWELVE]
    pairs = [(suspect, defense) for suspect, defense in dict.fromkeys(pairs) if suspect in names()]
    triples = [(suspect, defense, preset(defense)) for suspect, defense in pairs]
    triples += [(suspect, defense, also) for defense, also in ALSO.items() for suspect in TWELVE if suspect in names()]
    triples += [(FIRST[0], defense, "published") for defense in DEFENSES if preset(defense) != "published"]
    return [Key(s, d, samples, seed, p) for samples in SAMPLES for seed in SEEDS for s, d, p in triples]


def preset(defense: str) -> str:
    """The cheapest preset that is made for such networks."""
    return next((name for name in ("small", "quick") if name in DEFENSES[defense].presets), "published")


def presets(defense: str) -> list[str]:
    """That one, and what the twelve meet beside it."""
    return [preset(defense), *([ALSO[defense]] if defense in ALSO else [])]


def entry(key: Key) -> dict[str, Any]:
    """The defense as a matrix has it: with the true trigger where it needs one, and then an oracle."""
    needs = DEFENSES[key.defense].needs
    trigger = "true" if "trigger" in needs else "none"
    return {"name": key.defense, "preset": key.preset, "trigger": trigger, "training": "training" in needs}


def read() -> dict[Key, dict[str, Any]]:
    """The rows that are there, but for those of models, presets or settings that are others now."""
    if not TABLE.exists():
        return {}
    rows, now = json.loads(TABLE.read_text())["rows"], of()
    found = {Key(*(row[name] for name in Key._fields)): row for row in rows if row.get("of") in now}
    return {key: found[key] for key in wanted() if key in found and found[key].get("holds") == holds(key)}


def of() -> set[str]:
    """The runs that made the models that are shipped now."""
    return {open_suspect(f"{PREFIX}{name}").id for name in names()}


def holds(key: Key) -> str:
    """What the preset of a row holds, which its name does not say, and the policy."""
    defense = DEFENSES[key.defense]
    policy = Policy(**defense.policy_settings(key.preset))
    return digest({"preset": defense.presets[key.preset], "policy": policy.model_dump(mode="json")})


def write(rows: dict[Key, dict[str, Any]]) -> None:
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    every = [rows.get(key) or blank(key) for key in wanted()]
    document = {"about": "Defenses of the shipped suspects: python -m tests.benchmarks.defenses", "rows": every}
    write_atomic(TABLE, (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())


def blank(key: Key) -> dict[str, Any]:
    row = {"suspect": f"{PREFIX}{key.attack}", **key._asdict(), "title": DEFENSES[key.defense].title}
    return row | {"trigger": entry(key)["trigger"], "state": "pending"}


def figures(run: Run, taken: Sequence[str] = TAKEN) -> dict[str, Any]:
    """What a table says of a finished ``defend`` run."""
    found = {name: run.result[name] for name in taken if run.result.get(name) is not None}
    return found | {"preset": run.spec["preset"], "seconds": run.manifest["seconds"], "run": run.id, "state": "done"}


def row(key: Key, found: dict[str, Any]) -> dict[str, Any]:
    """What was found in a row that is valid for the model that is shipped now and what its preset holds now."""
    return {**blank(key), **found, "of": open_suspect(f"{PREFIX}{key.attack}").id, "holds": holds(key)}


def measure(key: Key) -> dict[str, Any]:
    """Run one cell through ``matrix``; one that fails is a row that says why."""
    lines = [f'suspects = ["{PREFIX}{key.attack}"]', f"samples = [{key.samples}]", f"defense_seeds = [{key.seed}]"]
    lines += ["[[defenses]]", *(f"{name} = {json.dumps(value)}" for name, value in entry(key).items())]
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "matrix.toml"
        spec.write_text("\n".join(lines) + "\n")
        command = [sys.executable, "-m", "engine", "matrix", str(spec), "--out", f"{folder}/out", "--json"]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)["rows"][0]
    run = find_run(found["run"]) if found["state"] == "done" else None
    return row(key, {"policy": None, **figures(run)} if run else {"state": "failed", "reason": found["reason"]})


def words(found: dict[str, Any]) -> str:
    if found["state"] != "done":
        return f"{found['state']} {found.get('reason', '')}"
    name = _name(found)
    after = found.get(f"{name}_after")
    figures = f"loss {100 * found['acc_drop']:5.1f}  ACC {100 * found['acc_after']:5.1f}"
    if after is not None:
        figures += f"  {name} {100 * found[f'{name}_before']:5.1f} -> {100 * after:5.1f}"
    if found.get("ra_after") is not None:
        figures += f"  RA {100 * found['ra_after']:5.1f}"
    return f"{figures}  cut {found['pruned']:4}  {found['seconds']:5.0f} s{'  oracle' if found['oracle'] else ''}"


def markdown(rows: dict[Key, dict[str, Any]]) -> str:
    """The README's tables of seed 0 and 500 images: the attacks under the main defenses, the first ones under all, and
    what others published beside it.
    """

    def found(attack: str, defense: str, name: str) -> dict[str, Any] | None:
        row = rows.get(Key(attack, defense, SAMPLES[0], SEEDS[0], name))
        return row if row and row["state"] in ("done", "failed") else None

    def cell(row: dict[str, Any] | None) -> str:
        if row and row["state"] == "failed":
            return "not possible"
        return f"{100 * row['acc_drop']:.1f} / {_after(row)}" if row else "pending"

    columns = [(name, one) for name in MAIN for one in presets(name)]
    titles = [
        DEFENSES[name].title
        + (f", {one}" if name in ALSO else "")
        + (", oracle" if "trigger" in DEFENSES[name].needs else "")
        for name, one in columns
    ]
    lines = [f"| attack | {' | '.join(titles)} |", "| --- |" + " --- |" * len(columns)]
    for attack in dict.fromkeys(TWELVE):
        cells = [cell(found(attack, *column)) for column in columns]
        lines.append(f"| {ATTACKS[attack].title} | {' | '.join(cells)} |")
    heads = [DEFENSES[name].title + (", oracle" if "trigger" in DEFENSES[name].needs else "") for name in MAIN]
    lines += ["", f"| three defense seeds | {' | '.join(heads)} |", "| --- |" + " --- |" * len(MAIN)]
    lines += [
        f"| {ATTACKS[a].title} | {' | '.join(over_seeds(rows, a, d) for d in MAIN)} |" for a in dict.fromkeys(TWELVE)
    ]
    others = FIRST[1:]
    heads = ["defense of `badnets`", "loss, points", "ASR after", "RA after", "units cut", "time, s"]
    heads += [f"of `{name}`: loss / ASR" for name in others]
    lines += ["", f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for defense in DEFENSES:
        for name in dict.fromkeys([*presets(defense), "published"]):
            if (row := found(FIRST[0], defense, name)) and row["state"] == "done":
                low, high = (100 * end for end in row["acc_drop_interval"])
                lost = f"{100 * row['acc_drop']:.1f} [{low:.1f}, {high:.1f}]"
                what = f"{row['title']}, {name}{', oracle' if row['oracle'] else ''}"
                ra = f"{100 * row['ra_after']:.1f} %"
                cells = [what, lost, _after(row), ra, str(row["pruned"]), f"{row['seconds']:.0f}"]
                cells += [cell(found(other, defense, name)) if name == preset(defense) else "" for other in others]
                lines.append(f"| {' | '.join(cells)} |")
    heads = [f"`{name}`, {where}" for name in FIRST for where in ("published", "here")]
    lines += ["", f"| loss / ASR after | {' | '.join(heads)} |", "| --- |" + " --- |" * len(heads)]
    elsewhere: dict[str, dict[str, dict[str, Any]]] = {}
    for row in json.loads(PUBLISHED.read_text())["rows"]:
        elsewhere.setdefault(row["defense"], {})[row["attack"]] = row
    for defense, by_attack in elsewhere.items():
        cells = []
        for attack in FIRST:
            theirs = by_attack.get(attack)
            closest = ("published", *reversed(presets(defense)))
            here = next((row for one in closest if (row := found(attack, defense, one))), None)
            lost = 100 * (theirs["acc_before"] - theirs["acc_after"]) if theirs else 0.0
            cells.append(f"{lost:.1f} / {100 * theirs['asr_after']:.1f} %" if theirs else "")
            cells.append(f"{100 * here['acc_drop']:.1f} / {100 * here['asr_after']:.1f} %" if here and theirs else "")
        lines.append(f"| {DEFENSES[defense].title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def over_seeds(rows: dict[Key, dict[str, Any]], attack: str, defense: str) -> str:
    """Median loss and median ASR after over the seeds, each with its highest, where all are measured."""
    found = [rows.get(Key(attack, defense, SAMPLES[0], seed, preset(defense)), {}) for seed in SEEDS]
    if any(row.get("state") == "failed" for row in found):
        return "not possible"
    if not all(row.get("state") == "done" for row in found):
        return "pending"
    lost = [100 * row["acc_drop"] for row in found]
    left = [100 * row[f"{_name(row)}_after"] for row in found]
    return f"{median(lost):.1f} (to {max(lost):.1f}) / {median(left):.1f} % (to {max(left):.1f})"


def _name(row: dict[str, Any]) -> str:
    """What the attack's success is called: on chosen images, which are few, it is no ASR."""
    return "asr" if row.get("asr_after") is not None else "success"


def _after(row: dict[str, Any]) -> str:
    """ASR after with its interval, or success on chosen images."""
    name = _name(row)
    low, high = (100 * end for end in row["intervals_after"][name])
    return f"{100 * row[f'{name}_after']:.1f} % [{low:.1f}, {high:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("defenses", nargs="*", metavar="DEFENSE")
    parser.add_argument("--suspects", nargs="+", default=[])
    parser.add_argument("--samples", nargs="+", type=int, default=[500])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--again", action="store_true", help="replace rows that are there")
    parser.add_argument("--list", action="store_true", help="print the table and compute nothing")
    parser.add_argument("--markdown", action="store_true", help="print the README's tables and compute nothing")
    args = parser.parse_args()
    if args.markdown:
        print(markdown(read()))
        return

    def asked(key: Key) -> bool:
        named = not args.defenses or key.defense in args.defenses
        named = named and (not args.suspects or key.attack in args.suspects)
        return named and key.samples in args.samples and key.seed in args.seeds

    for key in [] if args.list else [key for key in wanted() if asked(key)]:
        if not args.again and read().get(key, {}).get("state") == "done":
            continue
        began, found = time.time(), measure(key)
        write({**read(), key: found})  # read now: somebody else may have written meanwhile
        sys.stderr.write(f"{key.defense} ({key.preset}) on {key.attack}: {time.time() - began:.0f} s\n")
    rows = read()
    for key in wanted():
        if asked(key):
            which = f"{key.attack:<15} {key.defense:<20} {key.preset:<9} {key.samples:5} images, seed {key.seed}"
            print(f"{which}  {words(rows.get(key) or blank(key))}")


if __name__ == "__main__":
    main()
