"""The attack x defense matrix of rows that :mod:`app.comparison` made, and the Pareto front. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.comparison import KINDS, SOURCES, Figure, Row, Value
from app.figures import Table
from app.palette import Measure, clock, percent, points

#: Whose colour a figure has; the others are grey.
HUES: dict[Figure, Measure] = {"asr": "asr", "acc_drop": "acc", "ra": "ra"}
#: Where a column's colour is at its full strength; else at the largest value.
FULL: dict[Figure, float] = {"asr": 100, "acc_drop": 10, "ra": 100, "der": 100}
ATTACK = "Attack"
#: Share of the suspects that the most tried defense met: means over fewer are not compared with its.
NEARLY_ALL = 0.8
#: Where a column says whether it is an oracle's.
ORACLE = -1


@dataclass(frozen=True)
class Cell:
    """Mean over ``n`` seeds; the interval is the single one's, or goes from the lowest to the highest bound."""

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Matrix:
    """Suspects by defenses: oracle-free columns, then the oracles'; in both those that met nearly all suspects before
    those that met few, best mean first.
    """

    figure: Figure
    suspects: list[str]
    columns: list[tuple[str, ...]]
    names: dict[tuple[str, ...], str]
    attacks: dict[str, str]
    cells: dict[tuple[str, tuple[str, ...]], Cell]

    def mean(self, column: tuple[str, ...]) -> float | None:
        values = [cell.value for (_, c), cell in self.cells.items() if c == column]
        return sum(values) / len(values) if values else None

    def met(self, column: tuple[str, ...]) -> int:
        """How many suspects a defense met."""
        return sum(c == column for _, c in self.cells)

    @property
    def best(self) -> tuple[str, ...] | None:
        """The first oracle-free defense among those that met nearly all suspects that any of them met."""
        free = [c for c in self.columns if c[ORACLE] != "True"]
        return next((c for c in free if self.met(c) >= NEARLY_ALL * max(map(self.met, free))), None)


def cell_of(values: Sequence[Value]) -> Cell:
    lows = [v.low for v in values if v.low is not None]
    highs = [v.high for v in values if v.high is not None]
    whole = len(lows) == len(highs) == len(values)
    mean = sum(v.value for v in values) / len(values)
    return Cell(mean, min(lows) if whole else None, max(highs) if whole else None, len(values))


def matrix(rows: Sequence[Row], figure: Figure) -> Matrix:
    """The cells of the rows that are done."""
    groups: dict[tuple[str, tuple[str, ...]], list[Value]] = {}
    done = [row for row in rows if row.state == "done"]
    for row in done:
        if figure in row.figures:
            groups.setdefault((row.suspect, row.column), []).append(row.figures[figure])
    cells = {key: cell_of(values) for key, values in groups.items()}
    attacks = {row.suspect: row.attack + (" \u2020" if row.targets else "") for row in done}
    found = Matrix(figure, list(attacks), [], names(done), attacks, cells)
    sign = 1 if KINDS[figure].lower else -1

    columns = dict.fromkeys(row.column for row in done)
    most = max(map(found.met, columns), default=0)

    def rank(column: tuple[str, ...]) -> tuple[bool, bool, float]:
        mean = found.mean(column)
        few = mean is None or found.met(column) < NEARLY_ALL * most
        return column[ORACLE] == "True", few, float("inf") if mean is None else sign * mean

    found.columns.extend(sorted(columns, key=rank))
    return found


def names(rows: Sequence[Row]) -> dict[tuple[str, ...], str]:
    """What columns are called: the defense, with what tells it from another column of the same name."""
    heads = {row.column: row.name for row in rows}
    found: dict[tuple[str, ...], str] = {}
    for column, name in heads.items():
        like = [other for other, called in heads.items() if called == name and other != column]
        _, preset, policy, settings, source, _ = column
        parts = []
        for place, words in ((4, SOURCES.get(source, source)), (2, policy), (1, preset), (3, "own settings")):
            if words and any(other[place] != column[place] for other in like) and (place != 3 or settings):
                parts.append(words)
        found[column] = name.replace(" \u25c7", "") + "".join(f", {part}" for part in parts)
        found[column] += " \u25c7" if name.endswith("\u25c7") else ""
    taken: dict[str, int] = {}
    for column, name in found.items():
        taken[name] = taken.get(name, 0) + 1
        if taken[name] > 1:
            found[column] = f"{name} ({taken[name]})"
    return found


def sentence(found: Matrix, rows: Sequence[Row]) -> str:
    """What the matrix says first: the best of the oracle-free defenses on average, beside no defense at all."""
    kind, best = KINDS[found.figure], found.best
    having = [suspect for suspect in found.suspects if any(s == suspect for s, _ in found.cells)]
    n = len(having)
    over = f"over {n} suspects" if n != 1 else f"on {found.attacks[having[0]]}"
    mean = None if best is None else found.mean(best)
    if best is None or mean is None:
        return f"{kind.name} {over}: no defense without an oracle has it yet."
    name, met = found.names[best], found.met(best)
    if met < n:
        over = f"over the {met} of {n} suspects that it met"
    if found.figure == "asr":
        text = f"{name} leaves the lowest ASR {over}, {percent(mean)} on average"
        lost = [row.figures["acc_drop"].value for row in rows if row.column == best and "acc_drop" in row.figures]
        return text + (f", and costs {100 * sum(lost) / len(lost):.1f} points of accuracy." if lost else ".")
    if found.figure == "acc_drop":
        return f"{name} costs the least accuracy {over}: {points(mean).replace('+', '') or '0.0'} points on average."
    if found.figure in ("ra", "der"):
        return f"{name} has the highest {kind.name.split()[0]} {over}, {percent(mean)} on average."
    if found.figure == "pruned":
        return f"{name} cuts the fewest units {over}, {round(mean):,} on average."
    return f"{name} is the fastest {over}: {clock(mean)} on average."


def intervals(found: Matrix) -> Table:
    """The cells line by line with their intervals, in the unit of the matrix."""
    kind = KINDS[found.figure]
    head = f"{kind.name}, {kind.unit}"
    table: Table = {ATTACK: [], "Defense": [], "Oracle": [], head: [], "from": [], "to": [], "Seeds": []}
    for suspect in found.suspects:
        for column in found.columns:
            if (cell := found.cells.get((suspect, column))) is None:
                continue
            figures = [None if v is None else round(kind.scale * v, 2) for v in (cell.value, cell.low, cell.high)]
            line = (found.attacks[suspect], found.names[column], column[ORACLE] == "True", *figures, cell.n)
            for name, value in zip(table, line, strict=True):
                table[name].append(value)
    return table


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Numbers of the points (ACC, ASR) that no other beats in both, by rising ACC."""
    order = sorted(range(len(points)), key=lambda k: (-points[k][0], points[k][1]))
    front: list[int] = []
    lowest = float("inf")
    for k in order:
        if points[k][1] < lowest:
            front.append(k)
            lowest = points[k][1]
    return front[::-1]
