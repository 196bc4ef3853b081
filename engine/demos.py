"""The suspects that the project ships: attack runs in ``assets/demos``, with their studies precomputed.

``demos/NAME`` is an ordinary run folder of the ``attack`` command; ``demos/NAME/study/SCORE`` is an ordinary
run folder of the ``sweep`` command. This module needs no torch.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

from engine.paths import ASSETS
from engine.runs.store import BY_ID, Run, find_run, open_run

#: ``$UNMASK_DEMOS`` puts others in their place, for tests.
DEMOS = Path(os.environ.get("UNMASK_DEMOS") or ASSETS / "demos")
PREFIX = "demo:"


def names() -> list[str]:
    try:
        return _names(DEMOS, DEMOS.stat().st_mtime_ns)
    except OSError:
        return []


@functools.lru_cache(maxsize=4)
def _names(folder: Path, stamp: int) -> list[str]:  # noqa: ARG001 (a demo that comes or goes changes it)
    return sorted(p.parent.name for p in folder.glob("*/manifest.json"))


def locate(suspect: str) -> Path:
    """The run folder of a suspect: ``demo:NAME``, ``run:ID`` of the workspace, or a path.

    Raises:
        ValueError: for an unknown demo, and an id that no run of the workspace has.
    """
    if suspect.startswith(BY_ID):
        found = find_run(suspect.removeprefix(BY_ID))
        if found is None:
            raise ValueError(f"expected a run of the workspace by its id, got {suspect!r}, which it does not have")
        return found.folder
    if not suspect.startswith(PREFIX):
        return Path(suspect)
    name = suspect.removeprefix(PREFIX)
    if name not in names():
        raise ValueError(f"expected demo to be one of {', '.join(names()) or 'none (no demos found)'}, got {name!r}")
    return DEMOS / name


def open_suspect(suspect: str) -> Run:
    """Open a suspect's run.

    Raises:
        ValueError: if it is not a finished run of the attack or import command.
    """
    run = open_run(locate(suspect))
    if run.kind not in ("attack", "import"):
        raise ValueError(f"expected a suspect (an attack run), got a {run.kind} run in {run.folder}")
    return run


def studies(suspect: str) -> dict[str, Run]:
    """The precomputed sweeps of a demo by score name; empty for other suspects."""
    if not suspect.startswith(PREFIX):
        return {}
    return {p.parent.name: open_run(p.parent) for p in sorted(locate(suspect).glob("study/*/manifest.json"))}
