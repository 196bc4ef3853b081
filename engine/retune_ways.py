"""What tells apart what wakes a backdoor: the ways to retune a repaired model. Without torch, for the pages."""

from __future__ import annotations

from typing import Any

#: Settings of ``retune`` by what they do, in the order in which one asks.
WAYS: dict[str, dict[str, Any]] = {
    "on 5 poisoned images": {},
    "on clean images alone": {"images": 0},
    "on 5, statistics kept": {"statistics": "kept"},
    "on clean alone, statistics kept": {"images": 0, "statistics": "kept"},
}


def words(way: str) -> list[str]:
    """A way's settings as the command takes them."""
    return [word for key, value in WAYS[way].items() for word in (f"--{key}", str(value))]
