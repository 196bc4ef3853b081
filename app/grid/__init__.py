"""The neuron grid: all units of a network on one canvas, under a histogram of the same scores.

Python gives scores, layers, a threshold, hand edits and a selected unit; the browser draws them, lets a person drag
the threshold, select and edit, and reports back when they let go. Nothing goes to the server in mid-drag.

Who is right when both sides change? Each of ``threshold``, ``edits``, ``selected`` and ``group`` follows one rule:
*Python wins exactly when it passes something new.* A value is new if it differs from what the last call passed and is
not simply a report that comes back (a page stores what the grid reported and passes it on the next run). A new value
raises that field's revision; the browser takes a field from Python only if its revision moved, and taking one never
reports anything. So undo and links overrule the grid, a page that passes a constant never pulls the line back, a report
that is echoed late does not disturb a hand that has moved on, and the two sides cannot chase each other.
"""

from __future__ import annotations

import base64
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import streamlit as st

Origin = Literal["threshold", "select", "edit", "group"]

_FIELDS = ("threshold", "selected", "edits", "group")
_ORIGINS = ("threshold", "select", "edit", "group")
_EDITS = ("cut", "spare")
_HERE = Path(__file__).parent

_component = st.components.v2.component(
    "unmask_neuron_grid",
    html=(_HERE / "grid.html").read_text("utf-8"),
    css=(_HERE / "grid.css").read_text("utf-8"),
    # One module for the browser: how it looks, then how it behaves.
    js="\n".join((_HERE / name).read_text("utf-8") for name in ("paint.js", "several.js", "find.js", "grid.js")),
)


@dataclass(frozen=True)
class GridEvent:
    """What the grid shows now, and what the person changed last.

    Attributes:
        threshold: units with a score at or above it are cut; None cuts nothing by score.
        selected: id of the selected unit, such as ``layer4.1.bn2:87``, or None.
        edits: unit id -> ``"cut"`` or ``"spare"``, against or beyond the threshold.
        origin: ``"threshold"``, ``"select"``, ``"edit"`` or ``"group"`` in the one run that delivers a change by hand,
            else None.
        group: ids of several units that are marked together, ``selected`` among them; empty for none.
    """

    threshold: float | None
    selected: str | None
    edits: dict[str, str]
    origin: Origin | None = None
    group: tuple[str, ...] = ()


@dataclass
class Ledger:
    """Which side set each field last: the rule in the module docstring, without any Streamlit in it."""

    passed: dict[str, Any]  # what Python passed in the last call
    current: dict[str, Any] = field(default_factory=dict)  # what holds
    revision: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_FIELDS, 0))
    unechoed: dict[str, deque[Any]] = field(default_factory=lambda: {name: deque(maxlen=16) for name in _FIELDS})
    sizes: dict[str, int] = field(default_factory=dict)  # layer name -> units, to check reports against
    handled: str | None = None  # id of the last report taken in
    origin: Origin | None = None  # of a report not yet returned by neuron_grid

    def __post_init__(self) -> None:
        self.current = {**self.passed, **self.current}

    def receive(self, report: object) -> bool:
        """Take a report from the browser in; False if it is old or malformed."""
        if not isinstance(report, Mapping) or report.get("id") in (None, self.handled):
            return False
        threshold, selected, edits, group = (report.get(name) for name in _FIELDS)
        if report.get("origin") not in _ORIGINS or not isinstance(edits, Mapping):
            return False
        if threshold is not None and not (isinstance(threshold, int | float) and math.isfinite(threshold)):
            return False
        news = {
            "threshold": None if threshold is None else float(threshold),
            "selected": selected if self.knows(selected) else None,
            "edits": {unit: edit for unit, edit in edits.items() if self.knows(unit) and edit in _EDITS},
            "group": self.known(group),
        }
        self.handled, self.origin = report["id"], report["origin"]
        for name, value in news.items():
            if value != self.current[name]:
                self.current[name] = value
                self.unechoed[name].append(value)
        return True

    def merge(self, passed: Mapping[str, Any]) -> None:
        """Compare what Python passes now with what it passed before, and let news win."""
        for name, value in passed.items():
            if value == self.passed[name]:
                continue
            self.passed[name] = value
            waiting = self.unechoed[name]
            if value in waiting:  # a report coming back; newer reports may still be on their way
                while waiting.popleft() != value:
                    pass
                continue
            waiting.clear()
            if value != self.current[name]:
                self.current[name] = value
                self.revision[name] += 1

    def knows(self, unit: object) -> bool:
        if not isinstance(unit, str):
            return False
        layer, _, index = unit.rpartition(":")
        return index.isdecimal() and int(index) < self.sizes.get(layer, 0)

    def known(self, group: object) -> tuple[str, ...]:
        return tuple(unit for unit in group if self.knows(unit)) if isinstance(group, list | tuple) else ()

    def event(self, origin: Origin | None = None) -> GridEvent:
        now = self.current
        return GridEvent(now["threshold"], now["selected"], dict(now["edits"]), origin, now["group"])


def neuron_grid(
    values: np.ndarray,
    layers: Sequence[Mapping[str, Any]],
    *,
    threshold: float | None,
    edits: Mapping[str, str],
    selected: str | None,
    group: Sequence[str] = (),
    marks: Sequence[Mapping[str, Any]] = (),
    curve: Sequence[Mapping[str, Any]] = (),
    score_label: str,
    show_histogram: bool = True,
    show_threshold: bool = True,
    height: int,
    key: str,
    alt: str,
    on_change: Callable[[GridEvent], None] | None = None,
) -> GridEvent:
    """Show the grid and say what holds after this run's news.

    Args:
        values: [U] scores, higher = more suspicious; NaN = not eligible, never cut. Sent as float32.
        layers: ``name``, ``size`` and ``offset`` of each layer, in order and without gaps.
        threshold: cut what is at or above it, compared in float32; None (or infinity) cuts nothing.
        edits: unit id -> ``"cut"`` or ``"spare"``.
        selected: a unit id; one this network does not have selects nothing.
        group: ids of units to mark as chosen together; those that this network does not have are left out.
        curve: measured points, rising in ``pruned``, with ``acc`` and, where they may be seen, ``asr`` and ``ra``
            (0..1). What they say of the number of units at or above the line stands above the grid and follows the
            line; without points nothing does.
        marks: ``value``, ``label`` and ``kind`` (``paper``, ``default``, ``knee`` or ``oracle``) on the threshold axis.
        score_label: what the score is, such as ``1 - RNP mask``.
        show_histogram: False leaves only the colour strip with its axis.
        show_threshold: False hides line, number box and marks; a threshold given is still applied.
        height: of the whole component in CSS pixels, reserved before it loads. About 210 of them are not grid.
            Cells grow to 18 px where there is room; the grid scrolls where 8 px cells do not fit.
        key: widget key, unique on the page.
        alt: what the picture shows, one sentence built from the data, for screen readers.
        on_change: called with the event before the script runs, so that the whole page already sees it. Without it,
            act on the returned event's ``origin``.

    Raises:
        ValueError: if shapes do not fit, an edit is unknown or the threshold is NaN.
    """
    packed, bands = _pack(values, layers)
    sizes = {band["name"]: band["size"] for band in bands}
    passed = _normalise(threshold, selected, edits, sizes, group)
    slot = f"{key}:ledger"
    ledger: Ledger | None = st.session_state.get(slot)
    if ledger is None or ledger.sizes != sizes:  # another network: nothing of the last one holds
        ledger = Ledger(passed=dict(passed), sizes=sizes, handled=ledger.handled if ledger else None)
        st.session_state[slot] = ledger
    ledger.receive(_report(key))
    ledger.merge(passed)

    def changed() -> None:
        if ledger.receive(_report(key)) and on_change is not None:
            on_change(ledger.event(ledger.origin))

    _component(
        key=key,
        height=height,
        data={
            "values": packed,
            "layers": bands,
            **ledger.current,
            "revision": ledger.revision,
            "marks": [_mark(mark) for mark in marks],
            "curve": _curve(curve),
            "scoreLabel": score_label,
            "showHistogram": show_histogram,
            "showThreshold": show_threshold,
            "height": height,
            "alt": alt,
        },
        on_report_change=changed,
    )
    origin, ledger.origin = ledger.origin, None
    return ledger.event(origin)


def _pack(values: np.ndarray, layers: Sequence[Mapping[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    values = np.asarray(values)
    if values.ndim != 1:
        raise ValueError(f"expected values of shape [U], got {list(values.shape)}")
    bands: list[dict[str, Any]] = [
        {"name": str(b["name"])} | {k: int(b[k]) for k in ("size", "offset")} for b in layers
    ]
    end = 0
    for band in bands:
        if band["offset"] != end or band["size"] < 1:
            raise ValueError(f"expected layer {band['name']!r} to start at {end} with at least one unit, got {band}")
        end += band["size"]
    if end != len(values):
        raise ValueError(f"expected one value for each of the layers' {end} units, got {len(values)}")
    return base64.b64encode(values.astype("<f4").tobytes()).decode("ascii"), bands


def _normalise(
    threshold: float | None,
    selected: str | None,
    edits: Mapping[str, str],
    sizes: Mapping[str, int],
    group: Sequence[str] = (),
) -> dict[str, Any]:
    """The four fields in the one form that compares equal to what comes back from the browser."""
    if threshold is not None and math.isnan(threshold):
        raise ValueError("expected threshold to be a number or None, got NaN")
    book = Ledger(passed={}, sizes=dict(sizes))
    known = book.knows
    for unit, edit in edits.items():
        if edit not in _EDITS or not known(unit):
            raise ValueError(f"expected edits to map unit ids of this network to cut or spare, got {unit!r}: {edit!r}")
    return {
        "threshold": None if threshold is None or math.isinf(threshold) else float(threshold),
        "selected": selected if known(selected) else None,
        "edits": dict(edits),
        "group": book.known(tuple(group)),
    }


def _curve(points: Sequence[Mapping[str, Any]]) -> dict[str, list[float] | None]:
    """The points by column; a figure that some of them lack is left out."""
    columns: dict[str, list[float] | None] = {"pruned": [float(point["pruned"]) for point in points]}
    for name in ("acc", "asr", "ra"):
        column = [point.get(name) for point in points]
        columns[name] = None if None in column else [round(float(value), 5) for value in column if value is not None]
    return columns


def _mark(mark: Mapping[str, Any]) -> dict[str, Any]:
    return {"value": float(mark["value"]), "label": str(mark["label"]), "kind": str(mark.get("kind", "default"))}


def _report(key: str) -> object:
    state = st.session_state.get(key)
    return state.get("report") if isinstance(state, Mapping) else None
