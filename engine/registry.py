"""One small registry: names to objects, filled by explicit calls, duplicates refused."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """Ordered mapping from a snake_case name to one entry of a kind such as ``attack``."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> T:
        if name in self._entries:
            raise ValueError(f"expected a new {self.kind} name, got {name!r}, which is registered already")
        self._entries[name] = entry
        return entry

    def __getitem__(self, name: str) -> T:
        """Look a name up.

        Raises:
            ValueError: for an unknown name, with the known names and the nearest one.
        """
        try:
            return self._entries[name]
        except KeyError:
            near = difflib.get_close_matches(name, self._entries, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            known = ", ".join(self._entries)
            raise ValueError(f"expected {self.kind} to be one of {known}, got {name!r}{hint}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def items(self) -> Iterator[tuple[str, T]]:
        return iter(self._entries.items())
