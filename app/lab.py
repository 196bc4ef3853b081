"""What the Attack lab is set to, read from the address against what there is to choose from, and the command for it.

A link holds an attack, a preset and the settings that differ from it, for one column or two; data and network are
common to both. Where a link asks for what there is not, one line says so and the default is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from app import data, forms, state
from app.forms import Setting
from engine.intake import desk

#: The training of the shipped models.
MODEL, WIDTH, EPOCHS = "resnet18", 32, 3
DATA, ATTACK, ANOTHER, PRESET = "fashion-mnist", "badnets", "blend", "small"
TRAIN = "train"
SIDES = ("", "2")
#: The setting that holds a picture, as a PNG in base64, of attacks with a trigger of one's own.
PICTURE = "picture"
_OWN = re.compile(r"own:([0-9a-f]{64})/(data\.npz|images)")
#: Characters of one setting that a link holds; longer ones stay in the session.
_LONGEST = 1500


@dataclass(frozen=True)
class Bench:
    """Data and network, common to both columns. ``path`` is what the command is given for the data."""

    data: str
    path: str
    title: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    model: str
    width: int | None
    epochs: int
    seed: int


@dataclass(frozen=True)
class Side:
    """One column: an attack with all its settings. ``suffix`` stands behind the names of its keys in the URL."""

    suffix: str
    row: Mapping[str, Any]
    preset: str
    settings: dict[str, Setting]
    values: dict[str, Any]
    wanted_twin: str | None = None

    @property
    def name(self) -> str:
        return str(self.row["name"])

    @property
    def title(self) -> str:
        return str(self.row["title"] or self.name)

    @property
    def preset_values(self) -> dict[str, Any]:
        return _preset(self.row, self.preset, self.settings)

    @property
    def changed(self) -> dict[str, Any]:
        """The settings that differ from the preset."""
        base = self.preset_values
        return {name: value for name, value in self.values.items() if value != base[name]}

    @property
    def draft(self) -> dict[str, Any]:
        """The settings as a question spells them."""
        return {name: value for name, value in self.values.items() if value is not None}


@dataclass(frozen=True)
class Lab:
    bench: Bench
    sides: tuple[Side, ...]
    wrong: tuple[str, ...]


# --- reading ---------------------------------------------------------------------------------------------------------


def raw() -> dict[str, str]:
    return dict(state.load().lab)


def put(**changes: str | None) -> None:
    """Change what the lab is set to; None takes a key out."""
    now = {**raw(), **changes}
    state.go(lab=tuple((key, value) for key in state.LAB if (value := now.get(key))))


def own_path() -> Path | None:
    """The pictures of one's own that the address names: uploads of this workspace, while they are there."""
    found = _OWN.fullmatch(raw().get("data", ""))
    if found is None:
        return None
    path = desk.uploads_folder() / found[1] / found[2]
    return path if path.exists() else None


def own_key(path: Path) -> str:
    """The name of an upload in the address."""
    return f"own:{path.parent.name}/{path.name}"


def read(choices: Mapping[str, Any]) -> Lab:
    asked = raw()
    wrong: list[str] = []
    bench = _bench(asked, choices, wrong)
    attacks = {row["name"]: row for row in choices["attacks"]}
    sides = []
    for suffix in SIDES:
        name = asked.get(f"attack{suffix}", "" if suffix else ATTACK)
        if name and name not in attacks:
            wrong.append(f"expected an attack in the link, got {name[:60]!r}; {ATTACK} is shown")
            name = ATTACK
        if name:
            sides.append(_side(suffix, attacks[name], asked, wrong))
    return Lab(bench, tuple(sides), tuple(wrong))


def _bench(asked: Mapping[str, str], choices: Mapping[str, Any], wrong: list[str]) -> Bench:
    sets = {row["name"]: row for row in choices["datasets"] if row["offline"]}
    models = {row["name"]: row for row in choices["models"]}
    name, path = asked.get("data", DATA), own_path()
    own = choices["own"] if path is not None else None
    if name not in sets and own is None:
        wrong.append(f"expected a data set that is at hand in the link, got {name[:60]!r}; {DATA} is used")
        name = DATA
    row = own if own is not None else sets[name]
    model = asked.get("model", MODEL)
    if model not in models:
        wrong.append(f"expected a network in the link, got {model[:60]!r}; {MODEL} is used")
        model = MODEL

    def number(key: str, default: int, least: int, most: int) -> int:
        with contextlib.suppress(ValueError):
            if least <= (value := int(asked.get(key, default))) <= most:
                return value
        wrong.append(f"expected {key} in the link from {least} to {most:,}, got {asked[key][:60]!r}; {default} is used")
        return default

    wide = models[model]["width"] is not None
    return Bench(
        name, str(path) if own is not None else name, "your pictures" if own is not None else row["title"],
        tuple(row["classes"]), tuple(row["shape"]), model, number("width", WIDTH, 1, 512) if wide else None,
        number("epochs", EPOCHS, 1, 1000), number("seed", 0, 0, 2**31 - 1),
    )  # fmt: skip


def _preset(row: Mapping[str, Any], preset: str, settings: Mapping[str, Setting]) -> dict[str, Any]:
    given = row["presets"].get(preset, {"settings": {}})["settings"]
    return {name: one.cast(given.get(name, one.default)) for name, one in settings.items()}


def _side(suffix: str, row: Mapping[str, Any], asked: Mapping[str, str], wrong: list[str]) -> Side:
    settings = forms.settings(row["settings"])
    preset = asked.get(f"preset{suffix}", "")
    if preset not in row["presets"]:
        if preset:
            wrong.append(f"expected a preset of {row['name']} in the link, got {preset[:60]!r}; its usual one is used")
        preset = PRESET if PRESET in row["presets"] else next(iter(row["presets"]))
    values = _preset(row, preset, settings)
    for name, words in forms.unpacked(asked.get(f"set{suffix}", "")).items():
        try:
            if name not in settings:
                raise ValueError(f"expected a setting of {row['name']}, got {name[:60]!r}")
            values[name] = settings[name].read(_long(words))
        except ValueError as refusal:
            wrong.append(f"{refusal}; the preset's is used")
    return Side(suffix, row, preset, settings, values, asked.get(f"twin{suffix}"))


# --- changing --------------------------------------------------------------------------------------------------------


def choose(suffix: str, attack: str | None) -> None:
    """Another attack in a column, at its usual preset; None closes the second column."""
    put(**{f"{key}{suffix}": None for key in ("preset", "set", "twin")}, **{f"attack{suffix}": attack})


def choose_preset(suffix: str, preset: str) -> None:
    put(**{f"preset{suffix}": preset, f"set{suffix}": None})


def change(side: Side, name: str, value: Any) -> None:
    """Another value of a setting. A source class and its label rule come and go together."""
    values = {**side.values, name: value}
    if name == "rule" and "source" in values:
        other = 1 if values.get("target") == 0 else 0
        values["source"] = other if value == "source" else None
    base = side.preset_values
    different = {k: side.settings[k].words(v) for k, v in values.items() if v != base[k]}
    packed = forms.packed({k: _short(words) for k, words in different.items()})
    put(**{f"preset{side.suffix}": side.preset, f"set{side.suffix}": packed or None})


def _short(words: str) -> str:
    if len(words) <= _LONGEST:
        return words
    name = "~" + hashlib.sha256(words.encode()).hexdigest()[:16]
    st.session_state.setdefault("lab:long", {})[name] = words
    return name


def _long(words: str) -> str:
    if not words.startswith("~"):
        return words
    kept: dict[str, str] = st.session_state.setdefault("lab:long", {})
    if words not in kept:
        raise ValueError("expected the trigger's picture, got a link too short to hold it: draw or upload it again")
    return kept[words]


# --- what it comes to ------------------------------------------------------------------------------------------------


def command(bench: Bench, side: Side, twin: str | None) -> list[str]:
    """The words of the command that trains a suspect with this attack."""
    words = ["attack", "--data", bench.path, "--model", bench.model, "--attack", side.name]
    if twin is not None:
        words += ["--twin", twin]
    if bench.width is not None:
        words += ["--set", f"model.width={bench.width}"]
    words += ["--set", f"training.epochs={bench.epochs}"]
    if bench.seed:
        words += ["--seed", str(bench.seed)]
    for name, value in side.values.items():
        setting = side.settings[name]
        if value is not None and value != setting.cast(setting.default):
            words += ["--set", f"{name}={setting.words(value)}"]
    return words


def mine() -> set[str]:
    """The jobs of which this session is the attacker: it knows their triggers, having made them."""
    found: set[str] = st.session_state.setdefault("lab:mine", set())
    return found


def seen(folder: Path) -> bool:
    """Whether ASR and trigger of a run may be shown here: to the one who trains it, and to an oracle."""
    return folder.name in mine() or state.revealed(state.load(), str(folder))


def _trained() -> Iterator[tuple[data.Listed, dict[str, Any], dict[str, Any]]]:
    """Finished trainings whose attack may be known here, the workspace's before the demos."""
    for listed in sorted(data.suspects(), key=lambda one: one.name.startswith(state.PREFIX)):
        if listed.name.startswith(state.PREFIX) or seen(listed.run.folder):
            with contextlib.suppress(ValueError):  # an altered folder is the Runs page's to report
                spec, result = data.documents(listed.run)
                if spec["kind"] == "attack":
                    yield listed, spec, result


def twins(bench: Bench) -> dict[str, str]:
    """Clean models of this network for these classes, by what ``--twin`` takes, with what each is."""
    found = {}
    for listed, spec, result in _trained():
        same = spec["model"] == {"name": bench.model, "width": bench.width} and spec["attack"] is None
        if same and tuple(result["classes"]) == bench.classes:
            name = listed.name if listed.name.startswith(state.PREFIX) else f"run:{listed.run.id}"
            on = "" if spec["data"] == bench.path else f", trained on {Path(spec['data']).name}"
            found[name] = f"{listed.title}{on}"
    return found


def learned_by(bench: Bench, side: Side) -> data.Listed | None:
    """A finished run of a learned attack whose trigger may be looked at: the newest of the workspace, else a demo."""
    for listed, spec, result in _trained():
        same = (spec["attack"] or {}).get("name") == side.name and listed.run.has("trigger.safetensors")
        if same and tuple(result["classes"]) == bench.classes:
            return listed
    return None


def estimate(bench: Bench, side: Side) -> float | None:
    """Seconds of such a training, from finished ones of this workspace; None where there are none."""
    paces, images = [], 0
    for listed, spec, result in _trained():
        same = (spec["data"], spec["model"]) == (bench.path, {"name": bench.model, "width": bench.width})
        named = (spec["attack"] or {}).get("name") == side.name
        if same and named and not listed.name.startswith(state.PREFIX) and listed.run.manifest.get("seconds"):
            images = int(result["trained_on"])
            paces.append(float(listed.run.manifest["seconds"]) / (images * int(spec["training"]["epochs"])))
    return statistics.median(paces) * images * bench.epochs if paces else None
