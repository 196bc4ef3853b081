"""The commands ``inspect`` and ``import``: from a stranger's file to a suspect that every defense accepts."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from torch import Tensor

from engine.attacks.picture import MAX_SIDE
from engine.compute import Compute
from engine.data import load
from engine.data.base import DataSet
from engine.intake import backdoorbench, given, pictures, preprocess
from engine.intake.fit import Shapes, choose_group, fits, load_into, normalised
from engine.intake.limits import Refused
from engine.intake.reader import Checkpoint, read
from engine.metrics import TestSet, answers
from engine.models import MODELS
from engine.models.neurons import units
from engine.runs.store import Run, finished, new_run, open_run, run_folder
from engine.suspects import (
    ARCHITECTURE,
    Architecture,
    ImportRun,
    layer_rows,
    load_weights,
    make_attack,
    network,
    shares,
    stamped_set,
    vectors,
    weights,
)
from engine.train import Progress, silent

GIVEN = "given"


def shapes_of(checkpoint: Checkpoint) -> dict[str, Shapes]:
    return {g: {n: tuple(row["shape"]) for n, row in rows.items()} for g, rows in checkpoint.groups().items()}


def inspect(path: Path) -> dict[str, Any]:
    """What a file holds, as the ``inspect`` command reports it; nothing in it is executed.

    Keys: ``file, size, sha256, format, verdict, reason, weights`` (the table that an import would take), ``tensors``
    (name, group, shape, dtype), ``content`` (the first 200 values that are no tensors), ``content_total``, ``globals``
    (name; kind ``known``, ``foreign`` or ``running``), ``architectures`` (name, classes, channels, width, renamed), and
    ``backdoorbench``.

    Raises:
        ValueError: if there is no such file, or it is larger than any that is read.
    """
    found = read(path)
    report, groups = found.report, shapes_of(found)
    try:
        group = choose_group(groups)
    except ValueError:
        group = None
    bench = report["backdoorbench"]
    return {
        "file": path.name,
        "size": found.size,
        "sha256": found.sha256,
        "format": report["format"],
        "verdict": found.verdict,
        "reason": report["reason"],
        "weights": group,
        "tensors": [{key: row[key] for key in ("name", "group", "shape", "dtype")} for row in report["tensors"]],
        "content": report["content"],
        "content_total": report["content_total"],
        "globals": report["globals"],
        "architectures": [] if group is None else [fit.row() for fit in fits(groups[group])],
        "backdoorbench": bench and {**bench, "images": len(bench["images"])},
    }


@dataclass(frozen=True)
class Wanted:
    """What the ``import`` command was asked for; ``model`` None takes the only architecture that fits."""

    data: str
    model: str | None = None
    width: int | None = None
    architecture: str | None = None
    weights: str | None = None
    preprocess: str = preprocess.AUTO
    attack: dict[str, Any] | None = None
    pictures: bool = True
    """Whether the triggered pictures that a result of BackdoorBench names are looked for beside it."""


def run_import(
    path: Path, wanted: Wanted, compute: Compute, out: Path | None = None, progress: Progress = silent
) -> Run:
    """Read a foreign checkpoint, load it strictly by name, find its normalisation, measure it, store it as a suspect.

    Raises:
        ValueError: in one line: a file that is refused, weights that fit no architecture, impossible settings.
    """
    data = load(wanted.data)
    # Before the file is touched: the settings that need only themselves.
    if wanted.model is not None and wanted.architecture is not None:
        raise ValueError("expected --model or --arch, got both")
    if wanted.model is not None:
        MODELS[wanted.model]
    attack = make_attack(wanted.attack["name"], wanted.attack["params"]) if wanted.attack else None
    if attack:
        attack.check(len(data.classes))
        attack = attack.bound(len(data.classes))
        if attack.learned:
            raise ValueError(f"expected an attack whose trigger is a formula, got {attack.title}, which learns its own")
        attack.fits(data.shape)
    source, function = given.approve(wanted.architecture) if wanted.architecture else (None, "")
    progress("reading the file in a process of its own", 0.0)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = read(path, Path(folder) / "tensors.safetensors")
        if checkpoint.tensors is None:
            raise Refused(str(checkpoint.report["reason"]))
        group, state = _weights(checkpoint, wanted.weights)
    spec = ImportRun.build(
        file=path.name,
        weights=group,
        data=wanted.data,
        model=_model(checkpoint, group, wanted, data) if source is None else {"name": GIVEN},
        architecture=source and Architecture(function=function, sha256=hashlib.sha256(source).hexdigest()).model_dump(),
        preprocess=wanted.preprocess,
        attack=wanted.attack,
    )
    model, inputs = network(spec, source, data), _inputs(spec, data)
    load_into(model.net, state, spec.model.name)
    chosen = None if spec.preprocess == preprocess.AUTO else preprocess.stated(spec.preprocess, inputs)
    stamped = _stamped(path, checkpoint, data) if attack is None and wanted.pictures else None
    hashes = {"file": checkpoint.sha256}
    if stamped is not None:
        hashes["images"] = hashlib.sha256(stamped["x"].tobytes()).hexdigest()
    asked = spec.model_dump(mode="json")
    if known := finished(asked, hashes, out):
        return known
    with new_run(asked, hashes, out) as draft:
        tried: list[dict[str, Any]] = []
        if chosen is None:
            progress("trying the known normalisations", 0.2)
            chosen, tried = preprocess.best(model, data, inputs, compute)
        model.normalize = chosen.layer(inputs)
        draft.arrays("model", weights(model))
        if source is not None:
            draft.bytes(ARCHITECTURE, source)
        load_weights(model, draft.folder / "model.safetensors")
        compute.model(model).eval()
        progress("measuring on the test set", 0.6)
        test = TestSet.of(data.test, attack)
        if stamped is not None:
            draft.arrays("triggered", stamped)
            test = stamped_set(data.test, stamped)
        found = answers(model, test, compute)
        draft.arrays("answers", vectors(found))
        table = units(model)
        draft.result = {
            **shares(found),
            "clean_acc": None,
            "poisoned": None,
            "trained_on": None,
            "pool": len(data.pool),
            "preprocess": {**chosen.row(), "asked": spec.preprocess, "tried": tried},
            "model": spec.model.model_dump(mode="json"),
            "file": _facts(checkpoint),
            "units": len(table),
            "layers": layer_rows(table),
            "classes": list(data.classes),
            "precision": compute.precision,
            "machine": compute.describe(),
            "history": [],
        }
    return open_run(run_folder(asked, hashes, out))


def _weights(checkpoint: Checkpoint, asked: str | None) -> tuple[str, dict[str, Tensor]]:
    """The table of weights and its tensors, normalised; the file was written by the reading process."""
    groups = shapes_of(checkpoint)
    if asked is None and any(group.endswith(("_parameters", "_buffers")) for group in groups):
        hint = "load it in a sandbox of your own and save its state_dict() with torch.save"
        raise Refused(f"expected a table of weights, got a whole model saved as objects; {hint}")
    group = choose_group(groups, asked)
    assert checkpoint.tensors is not None
    everything = safetensors.torch.load_file(checkpoint.tensors)
    rows = checkpoint.groups()[group]
    return group, normalised({name: everything[row["path"]] for name, row in rows.items()})


def _model(checkpoint: Checkpoint, group: str, wanted: Wanted, data: DataSet) -> dict[str, Any]:
    """The architecture that was asked for, with the width that fits; or the only one that fits."""
    found = fits(shapes_of(checkpoint)[group])
    if wanted.model is None:
        if len(found) != 1:
            names = ", ".join(fit.model for fit in found) or "none"
            raise ValueError(
                f"expected one known architecture that fits, got {names}: choose one with --model or --arch"
            )
    else:
        found = [fit for fit in found if fit.model == wanted.model]
        if not found or wanted.width is not None:
            # It does not fit, or a width was insisted on: loading says exactly why, or agrees.
            return {"name": wanted.model, "width": wanted.width}
    if found[0].classes != len(data.classes):
        raise ValueError(f"expected data of {found[0].classes} classes, as the checkpoint has, got {len(data.classes)}")
    return {"name": found[0].model, "width": found[0].width}


def _inputs(spec: ImportRun, data: DataSet) -> int:
    """How many channels the network takes."""
    return 3 if spec.architecture is None and MODELS[spec.model.name].three_channels else data.shape[0]


def _stamped(path: Path, checkpoint: Checkpoint, data: DataSet) -> dict[str, np.ndarray] | None:
    """The triggered test images of a BackdoorBench result beside it: pixels, true and wanted labels."""
    bench = checkpoint.report["backdoorbench"]
    rows = (bench or {}).get("images") or []
    if not rows:
        return None
    channels, height, width = data.shape
    home = path.absolute().parent
    encoded = [(name, _bytes(backdoorbench.located(home, name))) for _, name, _, _ in rows]
    x = np.empty((len(rows), channels, height, width), np.uint8)
    decoded = pictures.decode(encoded, most=MAX_SIDE**2)
    for i, ((_, _, wanted, truth), pixels) in enumerate(zip(rows, decoded, strict=True)):
        if pixels.shape != (height, width, channels):
            raise Refused(f"expected pictures of {width}x{height}x{channels}, got {pixels.shape[1]}x{pixels.shape[0]}")
        if max(wanted, truth) >= len(data.classes) or wanted == truth:
            raise Refused(
                f"expected labels below {len(data.classes)} that the trigger changes, got {truth} to {wanted}"
            )
        x[i] = pixels.transpose(2, 0, 1)
    labels = np.array([(truth, wanted) for _, _, wanted, truth in rows], np.int64)
    return {"x": x, "truth": labels[:, 0].copy(), "wanted": labels[:, 1].copy()}


def _bytes(file: Path) -> bytes:
    if file.stat().st_size > pictures.MAX_BYTES:
        raise Refused(f"expected a picture of at most {pictures.MAX_BYTES:,} bytes, got a larger {file.name}")
    return file.read_bytes()


def _facts(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "name": checkpoint.file.name,
        "size": checkpoint.size,
        "sha256": checkpoint.sha256,
        "format": checkpoint.report["format"],
        "verdict": checkpoint.verdict,
        "foreign": [row["name"] for row in checkpoint.report["globals"] if row["kind"] != "known"],
    }
