"""Forms from specifications: one widget for each field of a JSON schema, and the words that a command takes for it.

A field says its title, help, default, range and step; numbers, integers, switches and choices are known, each also as
one that may be left empty. A field that names a class is chosen by the class's name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote, unquote

import streamlit as st

from app import panels

Kind = Literal["integer", "number", "boolean", "choice", "text"]
#: Settings that hold a class.
CLASSES = ("target", "source")
NONE = "none"


@dataclass(frozen=True)
class Setting:
    """A field of a specification. ``least`` and ``most`` may be taken unless the schema excludes them."""

    name: str
    title: str
    help: str
    kind: Kind
    default: Any
    optional: bool = False
    least: float | None = None
    most: float | None = None
    excluded: tuple[bool, bool] = (False, False)
    step: float | None = None
    choices: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, schema: Mapping[str, Any]) -> Setting:
        """From a property of a JSON schema, as pydantic writes it."""
        forms = [dict(part) for part in schema.get("anyOf", [schema])]
        optional = any(part.get("type") == "null" for part in forms)
        form = next((part for part in forms if part.get("type") != "null"), {})
        kind: Kind = "text"
        if choices := form.get("enum"):
            kind = "choice"
        elif form.get("type") in ("integer", "number", "boolean"):
            kind = form["type"]
        least, most = (form.get(key, form.get(f"exclusive{key.capitalize()}")) for key in ("minimum", "maximum"))
        return cls(
            name, schema.get("title", name), schema.get("description", ""), kind, schema.get("default"), optional,
            least, most, ("exclusiveMinimum" in form, "exclusiveMaximum" in form), schema.get("step"),
            tuple(choices or ()),
        )  # fmt: skip

    def cast(self, value: Any) -> Any:
        """A value of a preset or a default in this setting's type."""
        if value is None or self.kind not in ("integer", "number"):
            return value
        return int(value) if self.kind == "integer" else float(value)

    def words(self, value: Any) -> str:
        """A value as a command line and a link spell it."""
        if value is None:
            return NONE
        if isinstance(value, bool):
            return str(value).lower()
        short = f"{value:g}" if isinstance(value, float) else str(value)
        return repr(value) if isinstance(value, float) and float(short) != value else short

    def read(self, words: str) -> Any:
        """The value that :meth:`words` spelled.

        Raises:
            ValueError: in one line, for what this setting cannot be.
        """
        if self.optional and words == NONE:
            return None
        value: Any = words
        try:
            if self.kind == "integer":
                value = int(words)
            elif self.kind == "number":
                value = float(words)
            elif self.kind == "boolean":
                value = {"true": True, "false": False}[words]
            elif self.kind == "choice":
                value = self.choices[self.choices.index(words)]
        except (ValueError, KeyError):
            raise ValueError(f"expected {self.name} to be {self._range()}, got {words[:60]!r}") from None
        if self.kind in ("integer", "number"):
            low, high = self.excluded
            below = self.least is not None and (value < self.least or low and value == self.least)
            above = self.most is not None and (value > self.most or high and value == self.most)
            if below or above or not math.isfinite(value):
                raise ValueError(f"expected {self.name} to be {self._range()}, got {words[:60]!r}")
        return value

    def _range(self) -> str:
        if self.kind == "choice":
            return " or ".join(self.choices)
        if self.kind == "boolean":
            return "true or false"
        number = "a whole number" if self.kind == "integer" else "a number"
        least = "" if self.least is None else f" {'above' if self.excluded[0] else 'from'} {self.least:g}"
        most = "" if self.most is None else f" {'below' if self.excluded[1] else 'to'} {self.most:g}"
        return f"{number}{least}{most}"


def settings(schema: Mapping[str, Mapping[str, Any]]) -> dict[str, Setting]:
    """The fields of a specification by name, in its order."""
    return {name: Setting.of(name, field) for name, field in schema.items()}


def packed(values: Mapping[str, str]) -> str:
    """Words by name as one value of a link: ``rate=0.05,size=4``."""
    return ",".join(f"{name}={quote(words, safe=' ')}" for name, words in values.items())


def unpacked(value: str) -> dict[str, str]:
    """What :func:`packed` packed; parts that are no assignment are left out."""
    pairs = (part.partition("=") for part in value.split(","))
    return {name: unquote(words) for name, equals, words in pairs if equals and name}


def field(
    setting: Setting,
    value: Any,
    *,
    key: str,
    on_change: Callable[[], None] | None = None,
    classes: Sequence[str] = (),
    rules: Sequence[str] = (),
) -> Any:
    """The widget of a setting; returns what it shows.

    Args:
        value: what it shows at first; a widget under this ``key`` that is in the session shows what the session says.
        classes: names of the classes, for settings that hold one.
        rules: the choices that this attack allows, where they are fewer than the schema's.
    """
    # Streamlit refuses a default beside a value that the session holds.
    value = setting.cast(value)
    first: dict[str, Any] = {} if key in st.session_state else {"value": value}
    common: dict[str, Any] = {"help": panels.plain(setting.help) or None, "key": key, "on_change": on_change}
    if setting.name in CLASSES and classes:
        return _class(setting, value, classes, common)
    if setting.kind == "boolean":
        return st.toggle(setting.title, **first, **common)
    if setting.kind == "choice":
        offered = [choice for choice in setting.choices if not rules or choice in rules or choice == value]
        first = {} if key in st.session_state else {"index": offered.index(value) if value in offered else None}
        words = {choice: choice.replace("_", " ").capitalize() for choice in offered}
        return st.selectbox(setting.title, offered, format_func=lambda v: words.get(v, str(v)), **first, **common)
    if setting.kind == "text":
        return st.text_input(setting.title, **first, **common)
    whole = setting.kind == "integer"
    kind = int if whole else float
    limits = [None if limit is None else kind(limit) for limit in (setting.least, setting.most)]
    if whole:
        ends = zip(limits, setting.excluded, (1, -1), strict=True)
        limits = [limit if limit is None or not out else limit + by for limit, out, by in ends]
    number: Any = st.number_input  # its overloads know no limits that may be missing
    return number(
        setting.title, *limits, step=kind(setting.step or (1 if whole else 0.05)), format="%d" if whole else "%g",
        placeholder=NONE if setting.optional else None, **({"value": value, **first} if first else {}), **common,
    )  # fmt: skip


def _class(setting: Setting, value: Any, classes: Sequence[str], common: dict[str, Any]) -> Any:
    options: list[int | None] = [*([None] if setting.optional else []), *range(len(classes))]
    if value not in options:  # of a link, or of another data set: shown as what it is
        options.append(value)

    def words(k: int | None) -> str:
        if k is None:
            return NONE.capitalize()
        return f"{k} \u00b7 {classes[k][:60]}" if k < len(classes) else f"{k} \u00b7 no such class"

    first: dict[str, Any] = {} if common["key"] in st.session_state else {"index": options.index(value)}
    return st.selectbox(setting.title, options, format_func=words, **first, **common)
