"""Frozen, validated specifications: what to run.

A specification is the only thing that describes a run. Its canonical JSON, with the hashes of the inputs,
is the run id; its fields carry label, range, step and help, from which the command line, the forms of the
dashboard and the documentation are made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from copy import copy
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

SCHEMA_VERSION = 1


class Spec(BaseModel):
    """Base of every specification: frozen, keyword-only, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def canonical(self) -> str:
        """The specification as JSON with sorted keys and no spaces."""
        return canonical_json(self.model_dump(mode="json"))

    @classmethod
    def build(cls, values: Mapping[str, Any] | None = None, **more: Any) -> Self:
        """Make a specification from untyped values.

        Raises:
            ValueError: in one line, naming the field, what was expected and what came.
        """
        try:
            return cls.model_validate({**(values or {}), **more})
        except ValidationError as error:
            raise ValueError("; ".join(_sentence(cls, e) for e in error.errors())) from None


def _sentence(cls: type[Spec], error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"]) or cls.__name__
    if error["type"] == "extra_forbidden":
        known = ", ".join(cls.model_fields) or "no settings"
        return f"expected one of {known} for {cls.__name__}, got the unknown setting {name!r}"
    if error["type"] == "missing":
        return f"expected a value for {name}, got none"
    what = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if what.startswith("expected "):
        return str(what)
    return f"expected {name} to be {what}, got {error['input']!r}"


def param(
    default: Any,
    *,
    label: str,
    help: str,
    step: float | None = None,
    tacit: bool = False,
    **limits: Any,
) -> Any:
    """A field with everything a form needs; ``limits`` are pydantic's ``ge``, ``le``, ``gt``, ``lt``.

    A ``tacit`` one is left out of records at its default: run ids from before there was such a field stay as they are.
    """
    if tacit:
        limits["exclude_if"] = lambda value: value == default
    return Field(default, title=label, description=help, json_schema_extra={"step": step}, **limits)


def again(spec: type[Spec], name: str, default: Any) -> Any:
    """The field ``name`` of another specification, with its label, help and limits, but another default."""
    field = copy(spec.model_fields[name])
    field.default = default
    return field


def canonical_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
