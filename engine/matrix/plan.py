"""What a matrix asks for, and the runs that it means."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from engine import cli, demos
from engine.data import DATASETS, load
from engine.defend import DefendRun, input_hashes
from engine.defenses import DEFENSES
from engine.models import MODELS
from engine.models.masking import Mode
from engine.pruning.thresholds import Policy
from engine.runs.executors import Resources
from engine.runs.store import BY_ID, Run, run_id
from engine.spec import Spec
from engine.suspects import ModelSpec, make_attack
from engine.train import Training

#: More runs than this are a mistake.
MOST = 10_000


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    for key, value in settings.items():
        if not isinstance(value, str | int | float | bool):
            raise ValueError(f"text, numbers and true or false, {key} is none of them")
    return settings


def _once(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError("a list in which nothing comes twice")
    return values


Settings = Annotated[dict[str, Any], AfterValidator(_plain)]
Seeds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_once)]
Sizes = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1), AfterValidator(_once)]


class AttackEntry(Spec):
    """An attack of the matrix; ``none`` trains a clean model. ``label`` tells two entries of one name apart."""

    name: str
    label: str = ""
    settings: Settings = {}


class DefenseEntry(Spec):
    """A defense of the matrix; ``preset`` and ``policy`` that are not given are chosen as ``defend`` does.

    ``training``: the defender has the suspect's training set."""

    name: str
    label: str = ""
    preset: str | None = None
    settings: Settings = {}
    trigger: Literal["none", "true", "recovered"] = "none"
    training: bool = False
    mode: Mode = "scale"
    policy: Policy | None = None

    @property
    def chooses(self) -> Policy:
        """The policy that is used."""
        return self.policy or Policy.build(name=DEFENSES[self.name].policy)


class MatrixSpec(Spec):
    """Attacks and ready suspects x defenses x seeds x numbers of clean images."""

    data: str = "fashion-mnist"
    model: ModelSpec = ModelSpec()
    training: Training = Training()
    store: Literal["float32", "float16"] = "float32"
    attacks: list[AttackEntry] = []
    suspects: Annotated[list[str], AfterValidator(_once)] = []
    """``demo:NAME``, ``run:ID`` or run folders, as they are."""
    defenses: list[DefenseEntry] = []
    attack_seeds: Seeds = [0]
    defense_seeds: Seeds = [0]
    samples: Sizes = [500]
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if not self.attacks and not self.suspects:
            raise ValueError("expected attacks or suspects, got neither")
        for kind, entries in (("attack", self.attacks), ("defense", self.defenses)):
            names = [entry.label or entry.name for entry in entries]
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise ValueError(f"expected a label for each {kind} of one name, got {twice!r} twice")
        if self.size > MOST:
            raise ValueError(f"expected at most {MOST:,} runs, got {self.size:,}")
        return self

    @property
    def size(self) -> int:
        trained = len(self.attacks) * len(self.attack_seeds)
        each = len(self.defenses) * len(self.samples) * len(self.defense_seeds)
        return trained + (trained + len(self.suspects)) * each


def read_spec(path: Path) -> MatrixSpec:
    """Read a matrix from a TOML file.

    Raises:
        ValueError: in one line, naming the value, what was expected and what came.
    """
    try:
        values = tomllib.loads(path.read_bytes().decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"expected {path.name} to be TOML, got: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise ValueError(f"expected a TOML file that can be read, got {str(path)!r}: {error.strerror}") from None
    spec = MatrixSpec.build(values)
    if spec.data not in DATASETS:
        spec = spec.model_copy(update={"data": str(Path(spec.data).absolute())})
    _check(spec)
    return spec


def _check(spec: MatrixSpec) -> None:
    """Refuse now what every run would refuse."""
    if spec.attacks:
        MODELS[spec.model.name]
        classes = len(load(spec.data).classes)
        for attack in spec.attacks:
            if attack.name != "none":
                make_attack(attack.name, attack.settings).check(classes)
            elif attack.settings:
                raise ValueError(f"expected no attack settings without an attack, got {', '.join(attack.settings)}")
    for entry in spec.defenses:
        known = DEFENSES[entry.name]
        for preset in known.presets if entry.preset is None else [entry.preset]:
            known.build(preset, entry.settings)
        if entry.chooses.name == "fixed" and entry.chooses.threshold is None:
            raise ValueError("expected a threshold with the policy fixed, got none")
    for suspect in spec.suspects:
        demos.open_suspect(suspect)


@dataclass
class Cell:
    """One run of the matrix: ``about`` is what its row says of it before it is done, ``argv`` its command.

    ``suspect`` is a ready run, the cell that makes it, or None where this cell trains one. ``argv`` of a defense
    has ``None`` in the suspect's place. ``state`` is waiting, open (handed to an executor), done or failed;
    ``found`` is what a finished run adds to the row.
    """

    kind: Literal["attack", "defend"]
    about: dict[str, Any]
    argv: list[str | None]
    suspect: Run | Cell | None = None
    state: str = "waiting"
    reason: str | None = None
    run: Run | None = None
    id: str | None = None
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        about = self.about
        if self.kind == "attack":
            return f"{about['attack']}, seed {about['attack_seed']}"
        # Of a suspect that was trained here without its attack: the label shows where that must stay hidden.
        return f"{about['defense']} on {self.suspect_name}, {about['samples']} images, seed {about['defense_seed']}"

    @property
    def ready(self) -> Run | None:
        """The suspect that it is about, if it is there."""
        return self.suspect.run if isinstance(self.suspect, Cell) else self.suspect

    @property
    def suspect_name(self) -> str:
        """The suspect's name in a specification: one that means the same on every machine."""
        given = str(self.about["suspect"])
        if isinstance(self.suspect, Run) and given.startswith(demos.PREFIX):
            return given
        return f"{BY_ID}{self.ready.id}" if self.ready else given

    def command(self) -> tuple[str, ...]:
        """The command; before its suspect is there, with what that will be in its place."""
        return tuple(self.suspect_name if word is None else word for word in self.argv)

    def identify(self) -> str | None:
        """The id of the run, once it can be known: what a defense makes depends on its suspect's weights."""
        if self.id is None and (self.kind == "attack" or self.ready is not None):
            args = cli.parser().parse_args(self.command())
            if self.ready is None:
                self.id = run_id(cli.attack_run(args).model_dump(mode="json"), {})
            else:
                units = self.ready.result["units"]
                spec = DefendRun.build(cli.scoring_values(args, args.defense, units))
                weights = self.ready.manifest["files"]["model.safetensors"]["sha256"]
                self.about["preset"] = spec.preset
                self.id = run_id(spec.model_dump(mode="json"), input_hashes(weights, spec))
        return self.id


def _pairs(prefix: str, values: dict[str, Any]) -> list[str]:
    return [word for key, value in values.items() for word in ("--set", f"{prefix}{key}={value}")]


def _given(spec: Spec, *but: str) -> dict[str, Any]:
    """What was said of a specification, without what was left to its defaults."""
    return {key: getattr(spec, key) for key in sorted(spec.model_fields_set - {*but}) if getattr(spec, key) is not None}


def plan(spec: MatrixSpec) -> list[Cell]:
    """The runs of a matrix, attacks before the defenses that need them."""
    use = ["--device", "cuda" if spec.resources.gpus else "cpu", "--threads", str(spec.resources.threads)]
    trained = [
        Cell("attack", {"kind": "attack", "suspect": f"{entry.label or entry.name}, seed {seed}",
                        "attack": entry.name, "attack_seed": seed}, _attack(spec, entry, seed, use))
        for entry in spec.attacks for seed in spec.attack_seeds
    ]  # fmt: skip
    suspects: list[tuple[dict[str, Any], Run | Cell]] = [(cell.about, cell) for cell in trained]
    for name in spec.suspects:
        run = demos.open_suspect(name)
        attack = run.spec.get("attack") or {}
        about = {"suspect": name, "attack": attack.get("name", "none"), "attack_seed": run.spec.get("seed")}
        suspects.append((about, run))
    defended = []
    for about, suspect in suspects:
        for entry in spec.defenses:
            for samples in spec.samples:
                for seed in spec.defense_seeds:
                    more = {"defense": entry.label or entry.name, "samples": samples, "defense_seed": seed}
                    more |= {"trigger": entry.trigger, "mode": entry.mode, "policy": entry.chooses.name}
                    more |= {"preset": entry.preset, "kind": "defend"}
                    defended.append(
                        Cell("defend", {**about, **more}, _defend(entry, samples, seed, use), suspect),
                    )
    return trained + defended


def _attack(spec: MatrixSpec, entry: AttackEntry, seed: int, use: list[str]) -> list[str | None]:
    settings = _pairs("", entry.settings) + _pairs("model.", _given(spec.model, "name"))
    settings += _pairs("training.", _given(spec.training))
    words = ["attack", "--data", spec.data, "--model", spec.model.name, "--attack", entry.name]
    return [*words, "--store", spec.store, *settings, "--seed", str(seed), *use]


def _defend(entry: DefenseEntry, samples: int, seed: int, use: list[str]) -> list[str | None]:
    policy = entry.chooses
    settings = _pairs("", entry.settings) + _pairs("policy.", _given(policy, "name"))
    words = ["--defense", entry.name, *(["--preset", entry.preset] if entry.preset else [])]
    words += ["--samples", str(samples), "--trigger", entry.trigger, "--mode", entry.mode]
    words += ["--training"] if entry.training else []
    return ["defend", None, *words, "--policy", policy.name, *settings, "--seed", str(seed), *use]
