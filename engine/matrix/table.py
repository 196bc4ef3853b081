"""The table of a matrix: one row per run, the same columns always, as JSON and as Parquet.

Shares are 0..1 with 95 % intervals in ``_low`` and ``_high``; what cannot be measured is null. A suspect's own row has
its figures under ``before``. ``state`` is done, failed (with one line in ``reason``) or pending.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from engine.runs.files import write_atomic
from engine.runs.store import Run, json_bytes

JSON, PARQUET = "table.json", "table.parquet"

_SHARES = [f"{name}_{when}" for when in ("before", "after") for name in ("acc", "asr", "ra")]
COLUMNS: dict[str, str] = {
    "kind": "string", "suspect": "string", "attack": "string", "attack_seed": "int64", "defense": "string",
    "preset": "string", "samples": "int64", "defense_seed": "int64", "trigger": "string", "mode": "string",
    "policy": "string", "oracle": "bool_",
    **{f"{share}{end}": "float64" for share in _SHARES for end in ("", "_low", "_high")},
    "der": "float64", "der_low": "float64", "der_high": "float64", "threshold": "float64", "pruned": "int64",
    "units": "int64", "precision": "string", "seconds": "float64", "run": "string", "state": "string",
    "reason": "string",
}  # fmt: skip


def measured(run: Run) -> dict[str, Any]:
    """What a finished run has to say in the table."""
    result = run.result
    row: dict[str, Any] = {key: result.get(key) for key in ("oracle", "pruned", "units", "threshold", "precision")}
    for when in ("before", "after") if run.kind == "defend" else ("before",):
        end = f"_{when}" if run.kind == "defend" else ""
        for name in ("acc", "asr", "ra"):
            interval = result[f"intervals{end}"][name]
            row |= {f"{name}_{when}": result[f"{name}{end}"], **_ends(f"{name}_{when}", interval)}
    row |= {"der": result.get("der"), **_ends("der", result.get("der_interval"))}
    return {**row, "seconds": run.manifest["seconds"]}


def _ends(name: str, interval: list[float] | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def row(values: dict[str, Any]) -> dict[str, Any]:
    """A row with every column, null where there is no value."""
    return {column: values.get(column) for column in COLUMNS}


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write both tables anew; a reader of either sees the old one or the new one, whole.

    Raises:
        ValueError: without pyarrow.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError("expected the package pyarrow for a table in Parquet, got none") from None
    schema = pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in COLUMNS.items()])
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), out)
    write_atomic(folder / PARQUET, out.getvalue())
    write_atomic(folder / JSON, json_bytes(rows))
