"""Export: a model that plain torch loads, with its card and, where torchvision lacks it, its architecture's source;
or a report in HTML of a run, of several, or of a matrix.

The exported tensors are those of the bare network under their usual names. The normalisation is not part of them;
the card gives it, and a few lines of code that put the two together.
"""

from __future__ import annotations

import importlib
import json
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors.torch

from engine.compute import Compute
from engine.data import DATASETS
from engine.demos import locate
from engine.explain.examples import examples, suspect_of
from engine.intake import given
from engine.matrix import table
from engine.matrix.run import SPEC
from engine.models import constructor_call, import_line, source_file
from engine.models.neurons import module_prefix
from engine.runs.store import MANIFEST, Run, find_run, open_run, write_atomic
from engine.suspects import ARCHITECTURE, ImportRun, load_repaired, load_suspect, recipe

FORMATS = ("safetensors", "html")


def export_run(runs: str | Path | Sequence[str], format: str, path: Path) -> list[Path]:
    """Write the model of a run to ``path`` (``NAME.safetensors``), with ``NAME.md`` and the source file beside it.

    A ``defend`` run gives the repaired model, an ``attack`` or ``import`` run the suspect. In the format ``html`` the
    one file is a report: of any run, of several that are compared, or of the output folder of a matrix.

    Raises:
        ValueError: for another format or suffix, a run that holds no model, or a file that is there already.
    """
    if format not in FORMATS:
        raise ValueError(f"expected format to be {' or '.join(FORMATS)}, got {format!r}")
    if path.suffix != f".{format}":
        raise ValueError(f"expected a path that ends in .{format}, got {path.name!r}")
    names = [str(runs)] if isinstance(runs, str | Path) else list(runs)
    if len(names) > 1 and format != "html":
        raise ValueError(f"expected one run for a model, got {len(names)}")
    if path.exists():
        raise ValueError(f"expected no file at {path}, got one; nothing was overwritten")
    html = format == "html"
    files = {path.name: report(names).encode()} if html else _files(open_run(locate(names[0])), path.stem)
    present = [name for name in files if (path.parent / name).exists() and not name.endswith(".py")]
    if present:
        raise ValueError(f"expected no file at {path.parent / present[0]}, got one; nothing was overwritten")
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        write_atomic(path.parent / name, data)
    return [path.parent / name for name in files]


def report(names: Sequence[str]) -> str:
    """A report in HTML of one run, of several that are compared, or of the output folder of a matrix.

    Raises:
        ValueError: in one line, without plotly, for altered files, and for runs that cannot be compared.
    """
    if len(names) > 1:
        return str(_writer("report_comparison").of_runs([open_run(locate(name)) for name in names]))
    folder = locate(names[0])
    if (folder / table.JSON).is_file() and not (folder / MANIFEST).exists():
        try:
            spec, rows = (json.loads((folder / name).read_text()) for name in (SPEC, table.JSON))
            runs = {row["run"]: run for row in rows if row.get("run") and (run := find_run(row["run"]))}
        except (OSError, ValueError, TypeError, AttributeError):
            raise ValueError(f"expected the output of a matrix in {folder}, got files that do not read") from None
        return str(_writer("report_comparison").of_matrix(spec, rows, runs))
    run, writer, missing = open_run(folder), _writer("report"), ""
    pictures: list[dict[str, Any]] = []
    try:
        compute = Compute("cpu")
        pictures = examples(run, load_suspect(suspect_of(run), compute), compute)
    except ValueError as error:  # the suspect is gone; what was found is not
        missing = " ".join(str(error).split())
    return str(writer.of_run(run, pictures=pictures, missing=missing))


def _writer(name: str) -> ModuleType:
    """A module of the app by its name: figures are drawn there, and the engine runs where neither it nor plotly is."""
    try:
        return importlib.import_module(f"app.{name}")
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise ValueError(f"expected the package {package} for a report in HTML, got none") from None


def export_zip(folder: Path) -> Path:
    """The same files and the run's record in one archive inside the run folder; made once."""
    run = open_run(folder)
    path = folder / "export.zip"
    if not path.exists():
        files = {**_files(run, "repaired"), "record.json": _record(run)}
        handle, part = tempfile.mkstemp(dir=folder, suffix=".part")
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        os.replace(part, path)
    return path


def _record(run: Run) -> bytes:
    whole = {"run": run.id, "manifest": run.manifest, "spec": run.spec, "result": run.result}
    return (json.dumps(whole, indent=1, ensure_ascii=False) + "\n").encode()


def _files(run: Run, stem: str) -> dict[str, bytes]:
    if run.kind not in ("defend", "attack", "import"):
        raise ValueError(
            f"expected a run with a model (attack, import or defend), got a {run.kind} run in {run.folder}"
        )
    repaired = run.kind == "defend"
    suspect = load_suspect(run.spec["suspect"] if repaired else str(run.folder), Compute("cpu"))
    model = load_repaired(run, suspect) if repaired else suspect.model
    spec = recipe(suspect.run)
    prefix = module_prefix(model)
    state = {
        key.removeprefix(prefix): value.contiguous()
        for key, value in model.state_dict().items()
        if key.startswith(prefix)
    }
    metadata = {"format": "pt", "run": run.id, "architecture": spec.model.name}
    files = {f"{stem}.safetensors": safetensors.torch.save(state, metadata)}
    shape, classes = suspect.data.shape, suspect.data.classes
    if isinstance(spec, ImportRun) and spec.architecture:
        function = spec.architecture.function
        own = files[ARCHITECTURE] = suspect.run.path(ARCHITECTURE).read_bytes()
        make = given.expression(own, function, len(classes), shape[0])
        code = {"import": f"from architecture import {function}", "make": make}
    else:
        source = source_file(spec.model.name)
        if source is not None:
            files[source.name] = source.read_bytes()
        make = constructor_call(spec.model.name, len(classes), shape[0], spec.model.width)
        code = {"import": import_line(spec.model.name), "make": make}
    facts = {
        "stem": stem,
        **code,
        "mean": [round(v, 6) for v in model.normalize.mean.flatten().tolist()],
        "std": [round(v, 6) for v in model.normalize.std.flatten().tolist()],
        "shape": shape,
        "classes": classes,
        "licence": _licence(spec.data),
        "suspect": suspect.name,
    }
    files[f"{stem}.md"] = card(run, facts).encode()
    return files


def _licence(data: str) -> str:
    return DATASETS[data].licence if data in DATASETS else "unknown"


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.1f} %"


def card(run: Run, facts: dict[str, Any]) -> str:
    """The model card in Markdown."""
    result, repaired = run.result, run.kind == "defend"
    what = "repaired" if repaired else "suspect"
    rows = [("Clean accuracy (ACC)", "acc"), ("Attack success (ASR)", "asr"), ("Robust accuracy (RA)", "ra")]
    if {"success", "success_before"} & set(result):
        rows.append(("Success on the images that the attacker chose", "success"))
    if repaired:
        table = ["| on test images | before | after |", "| --- | --- | --- |"]
        table += [f"| {t} | {_percent(result[k + '_before'])} | {_percent(result[k + '_after'])} |" for t, k in rows]
        how = (
            f"{result['pruned']:,} of {result['units']:,} units were cut from `{facts['suspect']}` "
            f"(mode `{result['mode']}`, score `{result['score']}`, policy `{result['policy']}`"
            f"{', **oracle**: attack success was in view' if result['oracle'] else ''})."
        )
        # Measured by ``retune --images 0``.
        how += (
            "\n\n**Measure it again after any tuning.** Even a few passes over clean images alone can wake a backdoor "
            "that a cut or a repair had only covered."
        )
    else:
        table = ["| on test images | |", "| --- | --- |"] + [f"| {t} | {_percent(result[k])} |" for t, k in rows]
        how = "This is the suspect itself. **It may hold a backdoor; do not deploy it.**"
    return f"""# {what.capitalize()} model, run `{run.id}`

{how}

{chr(10).join(table)}

Measured on {result["machine"]}. Cutting units lowers what was measured; it proves nothing about other triggers.

## Use

```python
import safetensors.torch
import torch
{facts["import"]}

net = {facts["make"]}
net.load_state_dict(safetensors.torch.load_file("{facts["stem"]}.safetensors"))
net.eval()
mean = torch.tensor({facts["mean"]}).reshape(1, -1, 1, 1)
std = torch.tensor({facts["std"]}).reshape(1, -1, 1, 1)


def predict(x):
    \"\"\"Float images (N, {", ".join(map(str, facts["shape"]))}) in [0, 1] -> class numbers (N,).\"\"\"
    with torch.no_grad():
        return net((x - mean) / std).argmax(1)
```

Classes, in order: {", ".join(facts["classes"])}.

Trained on data under the licence: {facts["licence"] or "unknown"}. Record of the run: specification
`{json.dumps(run.spec, sort_keys=True)}`.
"""
