"""Computing a matrix: what is done already is skipped, the rest goes to an executor, and the table grows."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from engine.matrix import table
from engine.matrix.plan import Cell, MatrixSpec, plan
from engine.runs.delivery import commit, pack
from engine.runs.executors import Executor, Task
from engine.runs.files import write_atomic
from engine.runs.store import BY_ID, Run, all_runs, find_run, json_bytes, open_run
from engine.train import Progress

SPEC = "matrix.json"
#: Seconds between two looks at the executor.
PAUSE = 0.3


def run_matrix(
    spec: MatrixSpec, executor: Executor, out: Path, progress: Progress, pause: float = PAUSE
) -> list[dict[str, Any]]:
    """Compute the runs of a matrix; returns the rows of its table, which ``out`` holds after every run.

    A run that fails is a row with a reason and stops no other. If this process is killed, the same call goes on.

    Raises:
        ValueError: if ``out`` holds something else than this matrix.
    """
    _claim(out, spec)
    cells = plan(spec)
    known = {run.id: run for run in all_runs()}
    for cell in cells:
        if isinstance(cell.suspect, Run) and cell.suspect_name.startswith(BY_ID):
            # Known by its id from here on, also where its folder is not.
            commit(pack(cell.suspect), cell.suspect.id)
    written: list[dict[str, Any]] = []
    while True:
        _settle(cells, known)
        rows = [row(cell) for cell in cells]
        if rows != written:
            table.write(out, rows)
            written = rows
        ended = sum(cell.state in ("done", "failed") for cell in cells)
        failed = sum(cell.state == "failed" for cell in cells)
        words = f"{ended} of {len(cells)} runs{f', {failed} failed' if failed else ''}"
        if ended == len(cells):
            progress(words, 1.0)
            return rows
        _hand_over(cells, executor, spec.training.nproc)
        progress(f"{words}; {executor.now()}", ended / len(cells))
        for outcome in executor.ended():
            run, error = None, outcome.error
            if outcome.folder is not None:
                try:
                    run = open_run(outcome.folder)
                    if run.id != outcome.run:
                        error = f"expected run {outcome.run}, got {run.id}; was the program changed in between?"
                except ValueError as trouble:
                    error = str(trouble)
            for cell in cells:
                if cell.state == "open" and cell.id == outcome.run:
                    _end(cell, None if error else run, error)
        time.sleep(pause)


def dry_run(spec: MatrixSpec) -> list[dict[str, Any]]:
    """The rows of a matrix as things stand; nothing is computed or written."""
    cells = plan(spec)
    for cell in cells:
        if (known := cell.identify()) and (run := find_run(known)):
            _end(cell, run, None)
    return [row(cell) for cell in cells]


def row(cell: Cell) -> dict[str, Any]:
    state = cell.state if cell.state in ("done", "failed") else "pending"
    return table.row({**cell.found, **cell.about, "run": cell.id, "state": state, "reason": cell.reason})


def _settle(cells: list[Cell], known: dict[str, Run]) -> None:
    """End what needs no computing: what is done already, and defenses whose suspect failed."""
    known |= {cell.run.id: cell.run for cell in cells if cell.run is not None}
    for cell in cells:
        if cell.state != "waiting":
            continue
        if isinstance(cell.suspect, Cell) and cell.suspect.state == "failed":
            _end(cell, None, f"its suspect failed: {cell.suspect.reason}")
        elif (run := cell.identify()) in known and run is not None:
            _end(cell, known[run], None)


def _hand_over(cells: list[Cell], executor: Executor, processes: int) -> None:
    """Have computed what can be; each run once, however many cells it stands in."""
    under_way = {cell.id for cell in cells if cell.state == "open"}
    for cell in cells:
        if cell.state != "waiting" or (run := cell.identify()) is None:
            continue
        if run not in under_way:
            needs = (cell.ready.id,) if cell.ready and cell.suspect_name.startswith(BY_ID) else ()
            use = processes if cell.kind == "attack" else 1
            executor.submit(Task(run, cell.command(), cell.label, needs, use))
            under_way.add(run)
        cell.state = "open"


def _end(cell: Cell, run: Run | None, error: str | None) -> None:
    try:
        if run is not None:
            cell.found = table.measured(run)
    except (ValueError, OSError, KeyError) as trouble:  # it was altered
        run, error = None, " ".join(str(trouble).split())
    cell.run, cell.reason = run, error
    cell.state = "done" if run is not None else "failed"


def _claim(out: Path, spec: MatrixSpec) -> None:
    """Take a folder for a matrix. What a run may use of the machine is no part of what it asks for."""
    asked = spec.model_dump(mode="json", exclude={"resources"})
    if out.exists() and not out.is_dir():
        raise ValueError(f"expected {out} to be a folder, got a file")
    found = {entry.name for entry in out.iterdir()} if out.is_dir() else set()
    found = {name for name in found if not name.endswith(".part")}
    if found:
        try:
            before = json.loads((out / SPEC).read_text())
        except (OSError, ValueError):
            before = None
        if before != asked:
            raise ValueError(f"expected {out} to be empty or to hold the same specification, got other files")
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / SPEC, json_bytes(asked))
