"""What the pages read: suspects, their studies and galleries, checked and cached by run.

Every reader takes ``seen``: whether figures that need the trigger may be shown. What must not be seen is removed
here, by :func:`app.redaction.redact`, before a view can touch it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from app.redaction import redact
from app.state import PREFIX
from engine import demos
from engine.paths import workspace
from engine.pruning.cut import cut_at, edited
from engine.runs.store import MANIFEST, Run, open_run

#: In the order in which they are offered.
DEMOS = {
    "badnets": "BadNets",
    "blend": "Blend",
    "sig": "SIG",
    "trojan": "TrojanNN",
    "cl": "Label-consistent",
    "dynamic": "Input-aware",
    "wanet": "WaNet",
    "fc": "Feature collision",
    "dfst": "DFST",
    "awp": "Weight perturbation",
    "lira": "LIRA",
    "adaptive_blend": "Adaptive-Blend",
    "clean": "Clean twin",
}
#: Offered in this order; what else a workspace holds comes after them.
SCORES = (
    "rnp", "activation", "anp", "clp", "bnp", "nwc", "weight_magnitude", "ablation", "unlearning_gradient",
    "grad_prune", "trigger_mask", "tac", "random",
)  # fmt: skip
_LABELS = {
    "rnp": "RNP",
    "activation": "Activation",
    "anp": "ANP",
    "clp": "CLP",
    "bnp": "BNP",
    "nwc": "NWC",
    "weight_magnitude": "Weights",
    "ablation": "Ablation",
    "unlearning_gradient": "Gradient",
    "grad_prune": "Grad-Prune",
    "trigger_mask": "Trigger mask",
    "tac": "TAC",
    "random": "Random",
}
_MEANINGS = {
    "rnp": "1 \u2212 RNP mask",
    "activation": "Fine-pruning score (\u2212 mean activation)",
    "anp": "1 \u2212 ANP mask",
    "clp": "Channel Lipschitz bound, standard deviations above its layer's mean",
    "bnp": "Change of batch-norm statistics, standard deviations above its layer's mean",
    "nwc": "Weight change under clean unlearning",
    "weight_magnitude": "Minus the size of the weights",
    "ablation": "Effect of cutting the unit alone",
    "unlearning_gradient": "Unlearning gradient",
    "grad_prune": "Order of Grad-Prune's choice",
    "trigger_mask": "1 \u2212 mask learned against the trigger",
    "tac": "Trigger-activated change",
    "random": "Random order",
}


@dataclass(frozen=True)
class Listed:
    """A suspect as menus offer it."""

    name: str
    title: str
    run: Run


@dataclass(frozen=True)
class Suspect:
    """``result`` and ``spec`` hold only what may be seen."""

    name: str
    title: str
    folder: Path
    run_id: str
    spec: dict[str, Any]
    result: dict[str, Any]

    @property
    def demo(self) -> bool:
        return self.name.startswith(PREFIX)

    @property
    def classes(self) -> list[str]:
        return list(self.result.get("classes", []))


@dataclass(frozen=True)
class Study:
    """A score of all units with the measured curve; ``result`` holds only what may be seen."""

    score: str
    folder: Path
    run_id: str
    result: dict[str, Any]
    values: np.ndarray
    clean: np.ndarray | None = None
    triggered: np.ndarray | None = None
    #: Accuracy that the default threshold may cost on held-out pictures, and how many there are.
    tolerance: float | None = None
    samples: int = 500

    @property
    def title(self) -> str:
        return str(self.result["title"])

    @property
    def label(self) -> str:
        return _LABELS.get(self.score, self.title)

    @property
    def meaning(self) -> str:
        """What the number is, for axes."""
        return _MEANINGS.get(self.score, self.title)

    @property
    def oracle(self) -> bool:
        return bool(self.result["oracle"])

    @property
    def layers(self) -> list[dict[str, Any]]:
        return list(self.result["layers"])

    @property
    def points(self) -> list[dict[str, Any]]:
        return list(self.result["points"])

    @property
    def default(self) -> float | None:
        """The threshold that the defender's policy chose."""
        chosen = self.result.get("chosen")
        if chosen is not None:
            return None if chosen["threshold"] is None else float(chosen["threshold"])
        return next((p["threshold"] for p in self.result.get("policies", [])), None)


@dataclass(frozen=True)
class Present:
    """The cut that the page is about."""

    threshold: float | None
    edits: dict[str, str]
    cut: np.ndarray

    @property
    def pruned(self) -> int:
        return int(self.cut.sum())

    @property
    def numbers(self) -> list[int]:
        return [int(i) for i in np.flatnonzero(self.cut)]


# --- suspects --------------------------------------------------------------------------------------------------------


def suspects() -> list[Listed]:
    """The shipped demos, then the attack and import runs of the workspace, newest first."""
    names = [n for n in DEMOS if n in demos.names()] + [n for n in demos.names() if n not in DEMOS]
    found = [Listed(f"{PREFIX}{n}", DEMOS.get(n, n), open_run(demos.locate(f"{PREFIX}{n}"))) for n in names]
    for run in _workspace_runs():
        if run.kind in ("attack", "import"):
            found.append(Listed(str(run.folder), _title(run), run))
    return found


def suspect(name: str, seen: bool) -> Suspect:
    """Open a suspect.

    Raises:
        ValueError: in one line, if there is none of this name or its folder was altered.
    """
    run = demos.open_suspect(name)
    spec, result = _documents(str(run.folder), _stamp(run))
    title = DEMOS.get(name.removeprefix(PREFIX), name.removeprefix(PREFIX)) if name.startswith(PREFIX) else _title(run)
    return Suspect(name, title, run.folder, run.id, redact(spec, seen), redact(result, seen))


def _title(run: Run) -> str:
    """A suspect of one's own is told apart by network, seed and time; its attack would give away the trigger."""
    model = run.spec.get("model") or {}
    name = model.get("name", "model") if isinstance(model, Mapping) else str(model)
    made = str(run.manifest.get("created", ""))
    return f"{name}, {made[5:10]} {made[11:16]}"


# --- studies ---------------------------------------------------------------------------------------------------------


def studies(name: str, seen: bool) -> dict[str, Study]:
    """The studies of a suspect by score, in the order of the menus; those that used the trigger only if ``seen``.

    Raises:
        ValueError: in one line, if a study's files were altered.
    """
    found = {score: _study(score, run, seen) for score, run in _study_runs(name).items()}
    return {score: study for score, study in found.items() if seen or not study.oracle}


def study_labels(name: str, seen: bool) -> dict[str, str]:
    """What :func:`studies` finds, by score, but only what each is called: for menus, without reading arrays.

    Raises:
        ValueError: in one line, if a study's result was altered.
    """
    found = {score: _named(str(run.folder), _stamp(run)) for score, run in _study_runs(name).items()}
    return {score: _LABELS.get(score, title) for score, (title, oracle) in found.items() if seen or not oracle}


def _study_runs(name: str) -> dict[str, Run]:
    """The studies of a suspect by score, in the order of the menus."""
    if name.startswith(PREFIX):
        runs = demos.studies(name)
    else:
        digest = weights_of(name)
        runs = {}
        for run in reversed(_workspace_runs()):
            if run.kind == "sweep" and run.manifest["inputs"].get("suspect") == digest:
                runs[str(_documents(str(run.folder), _stamp(run))[1].get("score", "rnp"))] = run
    order = [s for s in SCORES if s in runs] + [s for s in runs if s not in SCORES]
    return {score: runs[score] for score in order}


def _study(score: str, run: Run, seen: bool) -> Study:
    folder, stamp = str(run.folder), _stamp(run)
    spec, result = _documents(folder, stamp)
    values = _arrays(folder, stamp, "scores")["values"]
    activations = _arrays(folder, stamp, "activations") if run.has("activations.safetensors") else {}
    triggered = activations.get("triggered") if seen else None
    tolerance = spec.get("policy", {}).get("tolerance")
    samples = int(result.get("samples") or spec.get("samples") or 500)
    shown, clean = redact(result, seen), activations.get("clean")
    return Study(score, run.folder, run.id, shown, values, clean, triggered, tolerance, samples)


def present(study: Study, thr: float | None | str, edits: Mapping[str, str]) -> Present:
    """The cut of a threshold (``"default"``: the policy's) with hand edits; units this network has not are left out."""
    threshold = study.default if thr == "default" else thr
    assert threshold is None or isinstance(threshold, float | int)
    known = {unit: k for unit, k in ((u, index_of(study.layers, u)) for u in edits) if k is not None}
    spare = [k for unit, k in known.items() if edits[unit] == "spare"]
    also = [k for unit, k in known.items() if edits[unit] == "cut"]
    return Present(
        None if threshold is None else float(threshold),
        {unit: edits[unit] for unit in known},
        edited(cut_at(study.values, threshold), spare, also),
    )


def index_of(layers: Sequence[Mapping[str, Any]], unit: str) -> int | None:
    """The number of a unit in the order of all units, or None if there is no such unit."""
    layer, _, index = unit.strip().rpartition(":")
    for row in layers:
        if row["name"] == layer and index.isdecimal() and int(index) < row["size"]:
            return int(row["offset"]) + int(index)
    return None


def id_of(layers: Sequence[Mapping[str, Any]], number: int) -> str:
    for row in layers:
        if row["offset"] <= number < row["offset"] + row["size"]:
            return f"{row['name']}:{number - row['offset']}"
    raise ValueError(f"expected a unit of this network, got number {number}")


def find_unit(layers: Sequence[Mapping[str, Any]], text: str) -> str:
    """A unit id from what a person typed: the id, a short form of it, or its number among all units.

    ``layer4.1:87`` and ``l4.1 87`` name a block: its last layer that has such a unit is taken.

    Raises:
        ValueError: in one line, with an example that would work.
    """
    total = sum(int(row["size"]) for row in layers)
    text = text.strip()
    if (number := text.replace(",", "")).isdecimal() and int(number) < total:
        return id_of(layers, int(number))
    if index_of(layers, text) is not None:
        return text
    if short := re.fullmatch(r"([\w.\-]+?)\s*[:/#\s]\s*(\d{1,6})", text):
        having = [row for row in layers if int(short[2]) < int(row["size"]) and _abbreviates(short[1], row["name"])]
        if having:
            return f"{having[-1]['name']}:{int(short[2])}"
    last = layers[-1]
    example = f"{last['name']}:{last['size'] - 1}"
    raise ValueError(f"expected a unit id such as {example} or a number from 0 to {total - 1:,}, got {text!r}")


def _abbreviates(short: str, name: str) -> bool:
    """Whether each part of ``short`` begins the part of ``name`` at its place: letters may be few, digits count."""
    parts, wanted = name.lower().split("."), short.lower().split(".")
    if len(wanted) > len(parts):
        return False
    split = re.compile(r"(.*?)(\d*)")
    for part, begin in zip(parts, wanted, strict=False):
        (letters, digits), (few, number) = (split.fullmatch(p).groups() for p in (part, begin))  # type: ignore[union-attr]
        if not letters.startswith(few) or number != digits:
            return False
    return True


# --- galleries -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gallery:
    """Test pictures with the suspect's answers, before and after the default cut; fields not to be seen are None."""

    classes: list[str]
    result: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.arrays["clean"])


def gallery(name: str, seen: bool) -> Gallery | None:
    """The pictures of a demo; None for a suspect without any."""
    if not name.startswith(PREFIX):
        return None
    folder = demos.locate(name) / "gallery"
    if not (folder / MANIFEST).is_file():
        return None
    run = open_run(folder)
    _, result = _documents(str(folder), _stamp(run))
    arrays = _arrays(str(folder), _stamp(run), "gallery")
    classes = result.get("classes") or suspect(name, True).classes
    return Gallery(list(classes), redact(result, seen), redact(arrays, seen))


# --- runs of one kind ------------------------------------------------------------------------------------------------


def runs_of(kind: str) -> list[Run]:
    """The finished runs of one kind in the workspace, newest first; altered ones are passed over."""
    found = []
    for run in _workspace_runs():
        with contextlib.suppress(ValueError, OSError):
            if documents(run)[0].get("kind") == kind:
                found.append(run)
    return found


def weights_of(name: str) -> str:
    """SHA-256 of the weights of a suspect, as runs about it record it; empty where it has none."""
    return str(demos.open_suspect(name).manifest["files"].get("model.safetensors", {}).get("sha256", ""))


def retuned(run: str, way: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result of the newest retuning of a defense's model, given the id of its run and one of the engine's
    :data:`WAYS`; an oracle's, all of it.
    """
    usual = {"images": 5, "statistics": "batch"}
    for found in runs_of("retune"):
        spec, result = documents(found)
        if spec.get("run") == run and {**usual, **way}.items() <= {**usual, **spec}.items():
            return result
    return None


# --- reading run folders ---------------------------------------------------------------------------------------------


def _workspace_runs() -> list[Run]:
    found = []
    for path in (workspace() / "runs").glob(f"*/{MANIFEST}"):
        with contextlib.suppress(ValueError, OSError):
            found.append(open_run(path.parent))
    return sorted(found, key=lambda run: str(run.manifest.get("created")), reverse=True)


def documents(run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """Specification and result of a run, kept in memory; what must not be seen is the caller's to remove.

    Raises:
        ValueError: in one line, if they were altered.
    """
    return _documents(str(run.folder), _stamp(run))


def _stamp(run: Run) -> str:
    """Changes when a run is written anew; a part of every cache key."""
    return f"{run.id} {(run.folder / MANIFEST).stat().st_mtime_ns}"


@st.cache_data(show_spinner=False, max_entries=256)
def _documents(folder: str, stamp: str) -> tuple[dict[str, Any], dict[str, Any]]:  # noqa: ARG001 (the stamp is the key)
    run = open_run(Path(folder))
    return run.spec, run.result


@st.cache_data(show_spinner=False, max_entries=256)
def _named(folder: str, stamp: str) -> tuple[str, bool]:
    """Title of a study and whether it used the trigger."""
    result = _documents(folder, stamp)[1]
    return str(result["title"]), bool(result["oracle"])


@st.cache_data(show_spinner=False, max_entries=64)
def _arrays(folder: str, stamp: str, name: str) -> dict[str, np.ndarray]:  # noqa: ARG001
    return open_run(Path(folder)).arrays(name)
