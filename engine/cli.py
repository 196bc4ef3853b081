"""Everything the dashboard can do, headless: ``python -m engine COMMAND``.

With ``--json`` exactly one JSON document goes to stdout; progress goes to stderr. A refusal is one line on
stderr and exit code 2.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from engine import demos
from engine.runs import checkpoints, jobs, process, worker
from engine.runs.files import disk_full
from engine.runs.journal import Journal
from engine.runs.store import Run, open_run

#: The preset of the shipped models: the attack's ``small`` with their architecture and training.
DEMO = "demo"

Progress = Callable[..., None]
Json = dict[str, Any] | list[Any]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see python -m engine {self.prog.removeprefix('engine').strip()} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or 2 for a refusal (a job has a few more, see ``runs/worker.py``)."""
    journal: Journal | None = None
    process.follow_parent()
    # A cancelled job must leave nothing half-written: SIGTERM unwinds like an exception, at the next step where a
    # loop keeps checkpoints.
    process.on_stop(lambda: None if checkpoints.ask_to_stop() else sys.exit(143))
    try:
        args = parser().parse_args(arguments)
        folder: Path | None = getattr(args, "out", None)
        # A folder that the dashboard made for this command is told how far it is.
        if folder is not None and worker.is_job(folder) and (journal := worker.enter(folder)) is None:
            sys.stderr.write(f"error: expected a job to do in {folder}, got one that is another's or over\n")
            return worker.OTHER
        progress = _Reporter(journal)
        document = args.command(args, progress)
        progress.end()
        _print(document, args.json)
        if journal:
            journal.done()
        return 0
    except (ValueError, OSError, sqlite3.Error) as error:
        line = " ".join(str(error).split())
        if disk_full(error):
            sys.stderr.write(f"error: {line}; {worker.FULL}\n")
            if journal:
                journal.state("paused", worker.FULL)
                return worker.PAUSED
            return 2
        if journal:
            journal.failed(line)
        sys.stderr.write(f"error: {line}\n")
        return 2


class _Reporter:
    """Progress to stderr (one line, rewritten, on a terminal) and to the journal of a job."""

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal
        self._last = 0.0

    def __call__(self, what: str, share: float, **figures: float | None) -> None:
        checkpoints.stop_if_asked()
        if self._journal:
            self._journal.progress(what, share, **figures)
        now = time.monotonic()
        if now - self._last >= (0.2 if sys.stderr.isatty() else 5):
            self._last = now
            line = f"{share:4.0%}  {what}"
            sys.stderr.write(f"\r{line:<78}" if sys.stderr.isatty() else line + "\n")
            sys.stderr.flush()

    def end(self) -> None:
        if sys.stderr.isatty() and self._last:
            sys.stderr.write("\r" + " " * 78 + "\r")


def _print(document: Json, as_json: bool) -> None:
    if as_json:
        print(json.dumps(document, ensure_ascii=False, allow_nan=False))
    elif isinstance(document, list):
        for row in document:
            print(f"{row['name']:<24} {row.get('state', ''):<{10 if 'state' in row else 0}}{row.get('title', '')}")
    else:
        for key, value in document.items():
            if not isinstance(value, (dict, list)):
                print(f"{key:<14} {value:.4f}" if isinstance(value, float) else f"{key:<14} {value}")


def _assignments(pairs: list[str]) -> dict[str, dict[str, Any]]:
    """``--set k=v`` by the part before the dot; keys without one belong to the method itself (``""``)."""
    found: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"expected --set key=value, got {pair!r}")
        group, _, name = key.rpartition(".")
        found.setdefault(group, {})[name] = value
    return found


def _groups(pairs: list[str], *allowed: str) -> list[dict[str, Any]]:
    found = _assignments(pairs)
    for group in found:
        if group not in allowed:
            names = ", ".join(f"{a}.KEY" if a else "KEY" for a in allowed)
            raise ValueError(f"expected --set with {names}, got {group}.{next(iter(found[group]))}")
    return [found.get(group, {}) for group in allowed]


def _row(run: Run) -> dict[str, Any]:
    return {"run": run.id, "folder": str(run.folder), **run.result, "seconds": run.manifest["seconds"]}


def _compute(args: argparse.Namespace) -> Any:
    """Where to compute, with as many threads as were asked for."""
    from engine.compute import Compute, use_threads

    if args.threads is not None:
        use_threads(args.threads)
    return Compute(args.device)


def attack_run(args: argparse.Namespace) -> Any:
    """The specification that a command line ``attack …`` asks for."""
    from engine.attacks import ATTACKS
    from engine.suspects import AttackRun, make_attack

    params, model, training = _groups(args.set, "", "model", "training")
    preset: dict[str, Any] = {"model": {}, "training": {}}
    chosen = args.preset
    if args.preset == DEMO:
        known = ATTACKS[args.attack].presets.get("small") if args.attack != "none" else None
        epochs = known and known.epochs or 3
        chosen, preset = "small", {"model": {"width": 32}, "training": {"epochs": epochs}}
    if args.attack == "none" and chosen not in (None, "small"):
        raise ValueError(f"expected no attack preset without an attack, got {chosen}")
    if args.trigger is not None:
        if args.attack != "custom":
            raise ValueError(f"expected --trigger FILE with --attack custom, got it with {args.attack}")
        params["picture"] = _picture(args.trigger)
    attack = None if args.attack == "none" else make_attack(args.attack, params, chosen)
    if attack is None and params:
        raise ValueError(f"expected no attack settings without an attack, got {', '.join(params)}")
    return AttackRun.build(
        data=args.data,
        model={"name": args.model, **preset["model"], **model},
        attack={"name": args.attack, "params": attack.model_dump(mode="json")} if attack else None,
        training={**preset["training"], **training},
        seed=args.seed,
        store=args.store,
    )


def _picture(path: Path) -> str:
    """A trigger's picture, written anew, as the attacks ``picture`` and ``custom`` take it."""
    from engine.intake import uploads

    if not path.is_file() or path.stat().st_size > uploads.MAX_PICTURE_BYTES:
        raise ValueError(f"expected a picture file for --trigger, got {str(path)!r}")
    return uploads.trigger(path.read_bytes(), path.name)


def _attack(args: argparse.Namespace, progress: Progress) -> Json:
    from engine.suspects import run_attack

    compute, spec = _compute(args), attack_run(args)
    twin = None
    if args.twin == "train":
        sys.stderr.write("training the clean twin first\n")
        twin = run_attack(spec.model_copy(update={"attack": None}), compute, progress=progress)
    elif args.twin:
        twin = demos.open_suspect(args.twin)
    return _row(run_attack(spec, compute, args.out, twin, progress))


def _list(args: argparse.Namespace, _progress: Progress) -> Json:
    from engine import catalogue

    return catalogue.rows(args.what)


def scoring_values(args: argparse.Namespace, name: str, units: int) -> dict[str, Any]:
    """What ``defend`` and ``sweep`` share in their specifications, for a suspect of so many units."""
    from engine.defenses import DEFENSES, unlearning

    params, policy, repair, recovery, unlearn = _groups(args.set, "", "policy", "repair", "trigger", "unlearn")
    params |= {f"repair.{key}": value for key, value in repair.items()}
    defense = DEFENSES[name]
    preset = args.preset or defense.preset_for(units)
    policy = defense.policy_settings(preset) | policy
    for key in ("tolerance", "threshold", "fraction"):
        if getattr(args, key) is not None:
            policy[key] = getattr(args, key)
    return {
        "suspect": args.suspect,
        "defense": name,
        "preset": preset,
        "params": params,
        "samples": 500 if args.samples is None and args.per_class is None else args.samples,
        "per_class": args.per_class,
        "imbalance": args.imbalance,
        "trigger": args.trigger,
        "recovery": recovery,
        "start": args.start,
        "unlearn": unlearning(units, args.start == "unlearned", unlearn),
        "mode": args.mode,
        "training": args.training,
        "policy": {"name": args.policy or defense.policy, **policy},
        "seed": args.seed,
    }


def _scoring(args: argparse.Namespace, name: str) -> tuple[dict[str, Any], Any, Any]:
    """The values of ``defend`` and ``sweep``, the suspect and where to compute."""
    from engine.defenses import DEFENSES
    from engine.suspects import load_suspect

    DEFENSES[name]
    compute = _compute(args)
    suspect = load_suspect(args.suspect, compute)
    return scoring_values(args, name, len(suspect.units)), suspect, compute


def _defend(args: argparse.Namespace, progress: Progress) -> Json:
    values, suspect, compute = _scoring(args, args.defense)
    from engine.defend import DefendRun, run_defend
    from engine.signatures import warnings_of

    run = run_defend(DefendRun.build(values), suspect, compute, args.out, progress)
    return {**_row(run), "warnings": warnings_of(run.spec, run.result)}


def _sweep(args: argparse.Namespace, progress: Progress) -> Json:
    values, suspect, compute = _scoring(args, args.score)
    from engine.defend import SweepRun, run_sweep

    spec = SweepRun.build(values, points=args.points, test_samples=args.test_samples)
    return _row(run_sweep(spec, suspect, compute, args.out, progress))


def _detect(args: argparse.Namespace, progress: Progress) -> Json:
    from engine.detect import detect_run, run_detect
    from engine.detectors import DETECTORS
    from engine.suspects import load_suspect

    DETECTORS[args.detector]
    params, unlearn = _groups(args.set, "", "unlearn")
    compute = _compute(args)
    suspect = load_suspect(args.suspect, compute)
    more = {"state": args.state, "samples": args.samples, "seed": args.seed}
    spec = detect_run(args.suspect, len(suspect.units), args.detector, args.preset, params, unlearn, **more)
    return _row(run_detect(spec, suspect, compute, args.out, progress))


def _retune(args: argparse.Namespace, progress: Progress) -> Json:
    from engine.retune import retune_run, run_retune

    settings = {key: getattr(args, key) for key in ("images", "clean", "epochs", "lr", "statistics", "seed")}
    spec, defended = retune_run(args.run, **settings)
    return _row(run_retune(spec, defended, _compute(args), args.out, progress))


def _project(args: argparse.Namespace, progress: Progress) -> Json:
    from engine.project import ProjectRun, run_project, unit_numbers
    from engine.suspects import load_suspect

    compute = _compute(args)
    suspect = load_suspect(args.suspect, compute)
    settings = {key: getattr(args, key) for key in ("method", "layer", "mode", "trigger", "seed")}
    settings |= {key: v for key in ("samples", "perplexity", "steps") if (v := getattr(args, key)) is not None}
    spec = ProjectRun.build(settings, suspect=args.suspect, cut=unit_numbers(args.cut, suspect.units))
    return _row(run_project(spec, suspect, compute, args.out, progress))


def _export(args: argparse.Namespace, _progress: Progress) -> Json:
    from engine.export import export_run

    files = export_run(args.run, args.format, args.out)
    run = args.run[0] if len(args.run) == 1 else args.run
    return {"run": run, "format": args.format, "files": [str(file) for file in files]}


def _verify(args: argparse.Namespace, _progress: Progress) -> Json:
    run = open_run(demos.locate(args.run))
    return {"run": run.id, "kind": run.kind, "verified": run.verify()}


def _inspect(args: argparse.Namespace, _progress: Progress) -> Json:
    from engine.intake.importing import inspect

    return inspect(args.file)


def _import(args: argparse.Namespace, progress: Progress) -> Json:
    from engine.intake.importing import Wanted, run_import
    from engine.suspects import ModelSpec, make_attack

    params, model = _groups(args.set, "", "model")
    attack = None
    if args.trigger is not None:
        if args.attack is not None or params or args.target is None:
            raise ValueError("expected --trigger FILE with --target N and without --attack, got something else")
        params = {"target": args.target, "opacity": args.opacity, "picture": _picture(args.trigger)}
        attack = {"name": "picture", "params": make_attack("picture", params).model_dump(mode="json")}
    elif args.attack is not None:
        if args.target is not None:
            params = {"target": args.target, **params}
        attack = {"name": args.attack, "params": make_attack(args.attack, params).model_dump(mode="json")}
    elif params or args.target is not None:
        raise ValueError("expected settings and a target only with --attack or --trigger, got them alone")
    size = ModelSpec.build(model, name=args.model or "")
    wanted = Wanted(
        args.data,
        args.model,
        size.width,
        args.arch,
        args.weights,
        args.preprocess,
        attack,
        not args.without_pictures,
    )
    return _row(run_import(args.file, wanted, _compute(args), args.out, progress))


def _matrix(args: argparse.Namespace, progress: Progress) -> Json:
    from engine.matrix.plan import read_spec
    from engine.matrix.run import dry_run, run_matrix
    from engine.runs.executors import executor

    spec, began = read_spec(args.spec), time.time()
    if args.address is not None and args.executor != "ray":
        raise ValueError("expected --address with --executor ray, got it without")
    if args.dry_run:
        rows = dry_run(spec)
    else:
        # Ray has words of its own for stdout, which holds one document here.
        with contextlib.redirect_stdout(sys.stderr):
            where = executor(args.executor, spec.resources, args.address)
            try:
                rows = run_matrix(spec, where, args.out, progress)
            except KeyboardInterrupt:
                raise ValueError("interrupted; the same command goes on from here") from None
            finally:
                where.close()
    counts = {state: sum(row["state"] == state for row in rows) for state in ("done", "failed", "pending")}
    head = {"out": str(args.out), "dry_run": args.dry_run, "runs": len(rows), **counts}
    return {**head, "seconds": round(time.time() - began, 2), "rows": rows}


def _runs(_args: argparse.Namespace, _progress: Progress) -> Json:
    rows = []
    for entry in jobs.entries():
        row: dict[str, Any] = {"name": entry.name, "title": entry.label or entry.kind, "kind": entry.kind}
        row |= {"state": entry.state, "suspect": entry.suspect, "run": entry.run, "folder": str(entry.folder)}
        row |= {"share": None, "what": "", "error": None, "seconds": entry.seconds}
        if entry.argv is not None and entry.state != "done":
            stands = jobs.status(entry.folder)
            row |= {"state": stands.state, "share": stands.share, "what": stands.what, "error": stands.error}
            row["seconds"] = round(stands.seconds, 1)
        rows.append(row)
    return rows


def _cancel(args: argparse.Namespace, _progress: Progress) -> Json:
    jobs.cancel(args.run)
    return {"run": args.run, "state": jobs.status(args.run).state}


def _resume(args: argparse.Namespace, _progress: Progress) -> Json:
    jobs.resume(args.run)
    return {"run": args.run, "state": jobs.status(args.run).state}


def _bench(args: argparse.Namespace, progress: Progress) -> Json:
    from engine.bench import BENCHMARKS

    return BENCHMARKS[args.name](_compute(args), progress)


def _reindex(_args: argparse.Namespace, _progress: Progress) -> Json:
    return dict(jobs.reindex())


def parser() -> _Parser:
    whole = _Parser(prog="engine", description="Unmask: see, score and cut backdoors in neural networks.")
    commands = whole.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, handler: Callable[..., Json], help: str) -> _Parser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.add_argument("--json", action="store_true", help="print one JSON document")
        sub.set_defaults(command=handler)
        return sub

    def running(sub: _Parser, settings: bool = True) -> None:
        if settings:
            sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one setting; repeatable")
        sub.add_argument("--seed", type=int, default=0)
        sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
        sub.add_argument("--threads", type=int, help="processor threads (default: one per core)")
        sub.add_argument("--out", type=Path, help="run folder (default: runs/<run id> in the workspace)")

    attack = command("attack", _attack, "poison a training set and train a suspect on it")
    attack.add_argument("--data", required=True)
    attack.add_argument("--model", required=True)
    attack.add_argument("--attack", required=True, help="an attack's name, or none for a clean model")
    attack.add_argument("--twin", help="run of a clean model, or train")
    attack.add_argument(
        "--trigger", type=Path, metavar="PICTURE", help="with custom: its trigger; transparent where it covers nothing"
    )
    attack.add_argument(
        "--preset",
        help="settings of the attack: paper (default), small, strong or stealthy; demo: small, trained like the "
        "shipped models",
    )
    attack.add_argument("--store", choices=["float32", "float16"], default="float32")
    running(attack)

    def scoring(sub: _Parser) -> None:
        sub.add_argument("suspect", metavar="SUSPECT", help="a run folder, run:ID of the workspace, or demo:NAME")
        sub.add_argument("--preset", help="published, small (default: by the size of the network)")
        sub.add_argument("--samples", type=int, help="clean images that the defender has (default: 500)")
        sub.add_argument("--per-class", type=int, help="so many images of each class instead")
        sub.add_argument(
            "--imbalance", type=float, default=1.0, metavar="RATIO",
            help="images of the most frequent class for each one of the rarest (default: 1)",
        )  # fmt: skip
        triggers = ["none", "true", "recovered"]
        how = "true: oracle; recovered: the one that Neural Cleanse finds (--set trigger.KEY=VALUE for its settings)"
        sub.add_argument("--trigger", choices=triggers, default="none", help=how)
        sub.add_argument(
            "--training", action="store_true", help="give the defender the suspect's training set, as it was poisoned"
        )
        sub.add_argument(
            "--start", choices=["suspect", "unlearned"], default="suspect",
            help="unlearned: look at what RNP's unlearning leaves (--set unlearn.KEY=VALUE), and cut the suspect all "
            "the same; what only tunes starts from it",
        )  # fmt: skip
        sub.add_argument("--mode", choices=["scale", "silence"], default="scale")
        policies = ["tolerance", "knee", "native", "fixed", "fraction", "oracle"]
        sub.add_argument("--policy", choices=policies, help="what chooses the threshold (default: the defense's own)")
        sub.add_argument("--tolerance", type=float, help="accepted drop of held-out accuracy, a fraction")
        sub.add_argument("--threshold", type=float, help="with --policy fixed: cut units at or above it")
        sub.add_argument("--fraction", type=float, help="with --policy fraction: share of units to cut")
        running(sub)

    defend = command("defend", _defend, "score, choose a threshold, cut, and measure the repaired model")
    defend.add_argument("--defense", required=True)
    scoring(defend)

    sweep = command("sweep", _sweep, "score, and measure the curve over thresholds")
    sweep.add_argument("--score", required=True)
    sweep.add_argument("--points", type=int, default=50)
    sweep.add_argument("--test-samples", type=int, default=2000, help="test images per point, at most")
    scoring(sweep)

    detect = command("detect", _detect, "look for a backdoor with a few clean images; nothing is changed")
    detect.add_argument("suspect", metavar="SUSPECT", help="a run folder, run:ID of the workspace, or demo:NAME")
    detect.add_argument("--detector", required=True)
    detect.add_argument("--preset", help="published (default) or another of the detector's own")
    detect.add_argument("--samples", type=int, default=500, help="clean images that the defender has")
    detect.add_argument(
        "--state", choices=["suspect", "unlearned"], default="suspect", help="unlearned: what is left when RNP forgot"
    )
    running(detect)

    retune = command("retune", _retune, "tune a repaired model on a few poisoned images: what returns (oracle)")
    retune.add_argument("run", metavar="RUN", help="a defend run: its folder, or run:ID of the workspace")
    retune.add_argument("--images", type=int, default=5, help="images with the trigger and the attacker's label")
    retune.add_argument("--clean", type=int, default=1000, help="correctly labelled images beside them, at most")
    retune.add_argument("--epochs", type=int, default=5)
    retune.add_argument("--lr", type=float, default=0.01)
    retune.add_argument(
        "--statistics", choices=["batch", "kept"], default="batch", help="kept: normalisation stays as repaired"
    )
    running(retune, settings=False)

    project = command("project", _project, "place pictures by the network's features, before and after a cut")
    project.add_argument("suspect", metavar="SUSPECT", help="a run folder, run:ID of the workspace, or demo:NAME")
    project.add_argument("--method", choices=["pca", "tsne"], default="tsne")
    project.add_argument("--layer", help="a layer of units, averaged (default: what the last linear layer reads)")
    project.add_argument("--cut", default="", metavar="UNITS", help="numbers, runs of them and ids: 3,5-9,bn1:7")
    project.add_argument("--mode", choices=["scale", "silence"], default="scale")
    project.add_argument(
        "--trigger", choices=["none", "true"], default="none", help="true: triggered ones too (oracle)"
    )
    project.add_argument("--samples", type=int, help="clean pictures, and as many triggered ones (default: 250)")
    project.add_argument("--perplexity", type=float, help="neighbours that count in a t-SNE (default: 10)")
    project.add_argument("--steps", type=int, help="steps of the t-SNE (default: 750)")
    running(project, settings=False)

    looking = command("inspect", _inspect, "say what an untrusted checkpoint holds; nothing in it is executed")
    looking.add_argument("file", metavar="FILE", type=Path)

    taking = command("import", _import, "make a suspect of an untrusted checkpoint, loaded strictly by name")
    taking.add_argument("file", metavar="FILE", type=Path)
    taking.add_argument("--data", required=True)
    taking.add_argument("--model", help="a known architecture (default: the only one that fits)")
    taking.add_argument("--arch", metavar="FILE.py:FUNCTION", help="your own architecture; this file is run")
    taking.add_argument("--weights", help="the table of the file that holds the weights (default: the usual names)")
    taking.add_argument("--preprocess", default="auto", help="auto, a known name such as cifar10, or MEAN,…/STD,…")
    taking.add_argument("--attack", help="a known attack that the model is said to carry, with --set for its settings")
    taking.add_argument(
        "--trigger", type=Path, metavar="PICTURE", help="its trigger as a picture; transparent elsewhere"
    )
    taking.add_argument(
        "--without-pictures", action="store_true", help="leave out the triggered pictures that a result file names"
    )
    taking.add_argument("--target", type=int, help="the class that the trigger forces")
    taking.add_argument("--opacity", type=float, default=1.0, help="with --trigger: weight of the picture")
    running(taking)

    listing = command("list", _list, "what there is")
    listing.add_argument(
        "what", metavar="WHAT", help="attacks, defenses, scores, repairs, detectors, models, datasets or demos"
    )

    export = command("export", _export, "write a model that plain torch loads, with its card, or a report in HTML")
    export.add_argument("run", metavar="RUN", nargs="+", help="for html: any run, several, or a matrix's folder")
    export.add_argument("--format", default="safetensors", help="safetensors (default) or html")
    export.add_argument("--out", "--path", dest="out", type=Path, required=True, help="NAME.safetensors or NAME.html")

    matrix = command("matrix", _matrix, "attacks x defenses x seeds x numbers of clean images as runs, and one table")
    matrix.add_argument("spec", metavar="SPEC.toml", type=Path)
    matrix.add_argument("--executor", choices=["local", "ray"], default="local", help="local: the workspace's queue")
    matrix.add_argument("--address", help="with --executor ray: HOST:PORT of the cluster (default: one made here)")
    matrix.add_argument("--out", type=Path, required=True, help="folder of the table")
    matrix.add_argument("--dry-run", action="store_true", help="say what is done and what would be; write nothing")

    command("runs", _runs, "the runs and jobs of the workspace, newest first")
    for name, handler, text in (
        ("cancel", _cancel, "stop a job; its last checkpoint is kept"),
        ("resume", _resume, "queue a paused, failed or cancelled job again; it goes on from its last checkpoint"),
    ):
        command(name, handler, text).add_argument("run", metavar="RUN")
    command("reindex", _reindex, "make the queue and the index anew from the run folders")

    bench = command("bench", _bench, "measure the engine's speed against the plain way, side by side")
    bench.add_argument("name", metavar="NAME", help="train or whatif")
    bench.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    bench.add_argument("--threads", type=int, help="processor threads (default: one per core)")

    verify = command("verify", _verify, "check every file of a run against its manifest")
    verify.add_argument("run", metavar="RUN")
    return whole
