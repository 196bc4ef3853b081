"""What the Compare page reads: the shipped table of defenses and the workspace's own, as rows that may be seen."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from app import comparison, data
from app.comparison import Row
from app.palette import percent
from app.state import PREFIX
from engine.paths import ASSETS
from engine.runs.store import BY_ID

#: ``$UNMASK_TABLE`` puts another in its place, for tests.
TABLE = Path(os.environ.get("UNMASK_TABLE") or ASSETS / "results" / "defenses.json")
#: What others published of the same attacks and defenses, on other data and networks.
PUBLISHED = ASSETS / "results" / "published.json"
COVERED = "a covered suspect"


@dataclass(frozen=True)
class Found:
    """``rows`` of everything that may be seen, in the order of the suspects' menu; ``trouble`` with the table."""

    rows: list[Row]
    trouble: str | None = None


def rows(listed: Sequence[data.Listed], revealed: Callable[[str], bool]) -> Found:
    """The rows of the shipped table and of the workspace.

    Args:
        revealed: says of a suspect's name whether figures that need the trigger may be seen.
    """
    titles = {suspect.name: suspect.title for suspect in listed}
    known = aliases(listed)
    trouble = None
    shipped: list[Row | None] = []
    try:
        for entry in entries(TABLE):
            suspect = str(entry["suspect"])
            seen = revealed(suspect)
            called = _called(suspect, titles, entry.get("attack"), seen)
            shipped.append(comparison.table_row(entry, called, seen))
    except (ValueError, TypeError, AttributeError, OSError) as error:
        trouble, shipped = f"expected {TABLE.name} to be a table of defenses, got {error}", []
    own = []
    for run in data.runs_of("defend"):
        spec, result = data.documents(run)
        suspect = _name(str(spec.get("suspect", "")), titles, known)
        seen = revealed(suspect)
        own.append(
            comparison.run_row(
                spec, result, _called(suspect, titles, None, seen), seen, suspect=suspect, run=run.id,
                folder=run.folder.name, seconds=float(run.manifest.get("seconds") or 0),
            )
        )  # fmt: skip
    found = comparison.joined([row for row in shipped if row], [row for row in own if row])
    menu = dict.fromkeys([*(f"{PREFIX}{demo}" for demo in data.DEMOS), *titles])
    order = {name: place for place, name in enumerate(menu)}
    return Found(sorted(found, key=lambda row: order.get(row.suspect, len(order))), trouble)


def aliases(listed: Sequence[data.Listed]) -> dict[str, str]:
    """The name in the menus by what else a suspect may be called: its run's id, and its folder."""
    found = {f"{BY_ID}{suspect.run.id}": suspect.name for suspect in listed}
    return found | {str(suspect.run.folder.resolve()): suspect.name for suspect in listed}


def published(suspect: str, defense: str) -> str | None:
    """What others published of a defense of a shipped suspect's attack, in a line; None if nothing is known."""
    known = json.loads(PUBLISHED.read_text())
    for row in known["rows"]:
        if (f"{PREFIX}{row['attack']}", row["defense"]) == (suspect, defense):
            source = known["sources"][row["source"]]
            parts = [
                f"{n.upper()} {percent(row[f'{n}_before'])} \u2192 {percent(row[f'{n}_after'])}" for n in ("acc", "asr")
            ]
            parts += [f"RA {percent(row['ra_after'])}"] if "ra_after" in row else []
            return f"Published: {', '.join(parts)} ({source['title']}: {source['setting']})."
    return None


def entries(table: Path) -> list[dict[str, Any]]:
    """The rows of a table, none where there is no such file.

    Raises:
        ValueError: if it is something else.
    """
    return _table(str(table), table.stat().st_mtime_ns) if table.is_file() else []


def _name(suspect: str, titles: dict[str, str], known: dict[str, str]) -> str:
    """A suspect as the menus name it: runs name it by id, by a path that may be relative, or as a demo."""
    if suspect in titles or suspect.startswith(PREFIX):
        return suspect
    path = str(Path(suspect).resolve())
    return known.get(suspect) or known.get(path) or path


def _called(suspect: str, titles: dict[str, str], attack: Any, seen: bool) -> str:
    """What a suspect's line is called; its attack would give the trigger away where it is covered."""
    if suspect in titles:
        return titles[suspect]
    if suspect.startswith(PREFIX):
        return data.DEMOS.get(suspect.removeprefix(PREFIX), suspect.removeprefix(PREFIX))
    return str(attack or Path(suspect).name) if seen else COVERED


@st.cache_data(show_spinner=False, max_entries=4)
def _table(path: str, stamp: int) -> list[dict[str, Any]]:  # noqa: ARG001 (the stamp is the key)
    found = json.loads(Path(path).read_text())
    entries = found.get("rows") if isinstance(found, dict) else None
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and {"suspect", "defense"} <= set(e) for e in entries
    ):
        raise ValueError("something without rows of suspect and defense")
    return entries
