"""The report of a comparison: the matrix, ACC against ASR, and every run's facts, in one HTML file. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from app import compare_figures, comparison, report, report_figures, report_page, score_figures
from app.compare_figures import Side
from app.comparison import KINDS, Figure, Row
from app.figures import Table
from app.matrix import Matrix, matrix, sentence
from app.palette import MEASURES, count
from app.redaction import redact
from app.report_page import Page, esc, table
from app.report_words import measured, name_of, summary
from app.score_figures import Curve, Curves
from engine import demos
from engine.runs.store import Run

#: The maps that a comparison has, where any run has the figure.
_MAPS: tuple[Figure, ...] = ("asr", "acc_drop", "ra")


def of_rows(
    rows: Sequence[Row],
    *,
    title: str = "Defenses compared",
    curves: Sequence[Curves] = (),
    runs: Mapping[str, Run] | None = None,
    spec: Mapping[str, Any] | None = None,
    extra: Mapping[str, Table] | None = None,
) -> str:
    """The report of defenses side by side.

    Args:
        rows: what may be seen of them; see :mod:`app.comparison`.
        curves: of the scores of some suspects, also only what may be seen.
        runs: the rows' runs by id, as far as they are at hand, for their provenance.
        spec: what was asked for, where it was a matrix. ``extra``: more tables by their titles.
    """
    page, done = Page(), [row for row in rows if row.state == "done"]
    there: list[Figure] = [f for f in _MAPS if any(f in row.figures for row in done)]
    page.markup(report_page.header("Comparison", _dates((runs or {}).values())))
    page.markup(f'<h1>{esc(title)}</h1><p class="lead">{esc(_lead(rows, there, curves))}</p>')
    if any(row.oracle for row in done) or any(c.oracle for side in curves for c in side.curves):
        page.markup(report_page.oracle("What is marked \u25c7 used the true trigger; no defender could."))
    if rows:
        page.markup(f'<p class="label">{esc(_counted(rows))}</p>')
    if any(not row.seen for row in rows):
        page.note("Some suspects are covered: as a defender sees them, without what needs the trigger.")
    for figure in there:
        found = matrix(done, figure)
        # The first line of the report says what is said of the first map.
        words = _reach(found) if figure == there[0] else sentence(found, done)
        page.figure(partial(report_figures.matrix_map, found, words))
        page.note(
            f"{KINDS[figure].name} in {KINDS[figure].unit}: {KINDS[figure].about}. Best mean first, then "
            "what met few suspects, oracles last."
        )
    _tradeoffs(page, done)
    for m in MEASURES:
        if any(p.get(m) is not None for side in curves for c in side.curves for p in c.points):
            for first in range(0, len(curves), 2):
                page.figure(partial(score_figures.score_curves, curves[first : first + 2], m, height=400))
    if rows:
        page.heading("Every run")
        page.markup(table(_facts(rows), "every run"))
        page.folded("All columns, as fractions", table(comparison.long(rows), "every run, all columns"))
    for name, values in (extra or {}).items():
        page.heading(name)
        page.markup(table(values, name))
    _provenance(page, rows, runs or {})
    if spec is not None:
        page.heading("What was asked for")
        page.code(report_page.pretty(spec))
    page.markup(report_page.FOOTER)
    return page.html(f"{title} \u00b7 Unmask")


def _lead(rows: Sequence[Row], there: Sequence[Figure], curves: Sequence[Curves]) -> str:
    if there:
        return sentence(matrix(rows, there[0]), rows)
    if curves:
        return f"{count(sum(len(side.curves) for side in curves))} scores, each along its own cuts."
    return "Nothing of this comparison is measured yet."


def _facts(rows: Sequence[Row]) -> Table:
    """One line for each run: after the defense, with intervals."""

    def after(row: Row, figure: Figure) -> str:
        kind, value = KINDS[figure], row.figures.get(figure)
        if value is None:
            return "\u2013"
        text = f"{kind.scale * value.value:.{kind.digits}f}"
        if value.low is not None and value.high is not None:
            text += f" ({kind.scale * value.low:.1f} to {kind.scale * value.high:.1f})"
        return text.replace("-", "\u2212")

    found: Table = {
        "Suspect": [row.attack for row in rows], "Defense": [row.name for row in rows],
        "Pictures": [row.samples for row in rows], "Seed": [row.seed for row in rows],
    }  # fmt: skip
    shown: tuple[Figure, ...] = ("acc", "asr", "ra", "acc_drop", "der", "pruned", "seconds")
    for figure in shown:
        if any(figure in row.figures for row in rows):
            kind = KINDS[figure]
            head = kind.name if kind.name.lower() in ("units cut", "seconds") else f"{kind.name}, {kind.unit}"
            found[head] = [after(row, figure) for row in rows]
    return {**found, "State": [row.state for row in rows], "Run": [row.run for row in rows]}


def _counted(rows: Sequence[Row]) -> str:
    states = Counter(row.state for row in rows)
    of = f"{count(len(rows))} runs" if len(rows) > 1 else "1 run"
    suspects, defenses = len({row.suspect for row in rows}), len({row.column for row in rows})
    here = f"{of} of {defenses} defense{'s' * (defenses > 1)} on {suspects} suspect{'s' * (suspects > 1)}"
    rest = [f"{count(n)} {state}" for state, n in states.items() if state != "done"]
    return f"{here}, of which {' and '.join(rest)}." if rest else f"{here}."


def _reach(found: Matrix) -> str:
    """From the best cell of a matrix to the worst."""
    kind = KINDS[found.figure]
    order = sorted(found.cells.items(), key=lambda item: item[1].value if kind.lower else -item[1].value)
    unit = "\u202f%" if kind.unit == "%" else f" {kind.unit}"
    ends = [
        f"{kind.scale * cell.value:.{kind.digits}f}{unit} ({found.names[column]} on {found.attacks[suspect]})"
        for (suspect, column), cell in (order[0], order[-1])
    ]
    return f"{kind.name} is {ends[0]}." if len(order) == 1 else f"{kind.name} goes from {ends[0]} to {ends[1]}."


def _dates(runs: Iterable[Run]) -> str:
    """When the runs were made, from the first day to the last."""
    days = sorted({str(run.manifest.get("created", ""))[:10] for run in runs} - {""})
    return " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""


def _tradeoffs(page: Page, rows: Sequence[Row]) -> None:
    sides = []
    for suspect in dict.fromkeys(row.suspect for row in rows):
        of = [row for row in rows if row.suspect == suspect]
        if compare_figures.marks(of):
            sides.append(Side(of[0].attack, of))
    for first in range(0, len(sides), 2):  # two suspects fit on the same axes
        page.figure(partial(compare_figures.tradeoff, sides[first : first + 2]))
    if sides:
        page.note(
            "Dots are defenses, open diamonds oracles, the cross is the undefended model; lower right is better. The "
            "line joins the oracle-free ones that no other beats in both. Bars are 95\u202f% intervals, thin marks "
            "single seeds."
        )


def _provenance(page: Page, rows: Sequence[Row], runs: Mapping[str, Run]) -> None:
    """What each run is made of and how it is repeated, folded."""
    if not runs:
        return
    page.heading("Where each run comes from")
    seen = {row.run: row.seen for row in rows}
    called = {row.run: f"{row.name} on {row.attack}, seed {row.seed}" for row in rows}
    for name, run in runs.items():
        may = seen.get(name, True)
        spec, result = redact(run.spec, may), redact(run.result, may)
        lines = measured(run.kind, result)
        shares = report_figures.shares_table(lines)
        words = called.get(name) or name_of(run.kind, spec, result)
        page.folded(
            f"{words} \u00b7 {name}",
            f"<p>{esc(summary(run.kind, result))}</p>{table(shares, words) if lines else ''}"
            f"{report.circumstances(run, spec, result)}{report.provenance(run, spec, may)}",
            "run",
        )


# --- from folders ----------------------------------------------------------------------------------------------------


def of_runs(runs: Sequence[Run]) -> str:
    """The report of several ``defend`` and ``sweep`` runs.

    Raises:
        ValueError: in one line, for runs of another kind, or altered ones.
    """
    for run in runs:
        if run.kind not in ("defend", "sweep"):
            raise ValueError(f"expected defend and sweep runs for a comparison, got a {run.kind} run in {run.folder}")
    called = _called(str(run.spec["suspect"]) for run in runs)
    rows = [_row(run, called[str(run.spec["suspect"])]) for run in runs if run.kind == "defend"]
    sides: dict[str, list[Curve]] = {}
    for run in runs:
        if run.kind == "sweep":
            lines = sides.setdefault(called[str(run.spec["suspect"])], [])
            lines.append(Curve(run.result["title"], run.result["points"], bool(run.result["oracle"]), not lines))
    curves = [Curves(name, lines) for name, lines in sides.items()]
    return of_rows([row for row in rows if row], curves=curves, runs={run.id: run for run in runs})


def of_matrix(spec: Mapping[str, Any], cells: Sequence[Mapping[str, Any]], runs: Mapping[str, Run]) -> str:
    """The report of a matrix: its specification, the rows of its table, and those of its runs that are at hand."""
    rows = []
    for cell in cells:
        if cell.get("kind") != "defend":
            continue
        asked = {key: cell.get(key) for key in ("suspect", "defense", "preset", "samples", "trigger", "mode")}
        asked |= {"seed": cell.get("defense_seed"), "policy": {"name": cell.get("policy")}}
        run = runs.get(str(cell.get("run")))
        rows.append(
            comparison.run_row(
                asked, run.result if run else _result(cell), str(cell["suspect"]), True, suspect=str(cell["suspect"]),
                run=cell.get("run"), seconds=cell.get("seconds"), state=cell.get("state"),
            )
        )  # fmt: skip
    extra: dict[str, Table] = {}
    for name, those in (
        ("Suspects", [cell for cell in cells if cell.get("kind") == "attack"]),
        ("What failed", [cell for cell in cells if cell.get("state") == "failed"]),
    ):
        shown = ("suspect", "defense", "reason") if name == "What failed" else (
            "suspect", "attack", "attack_seed", "acc_before", "acc_before_low", "acc_before_high", "asr_before",
            "asr_before_low", "asr_before_high", "state", "run",
        )  # fmt: skip
        if those:
            extra[name] = {key: [cell.get(key) for cell in those] for key in shown}
    return of_rows(
        [row for row in rows if row], title="Matrix of attacks and defenses", runs=runs, spec=spec, extra=extra
    )


def _called(names: Iterable[str]) -> dict[str, str]:
    """What suspects are called: by their attack, with their own name where that is not enough."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        try:
            attack = (demos.open_suspect(name).spec.get("attack") or {}).get("name", "clean")
        except ValueError:  # it is gone, its runs are not
            attack = ""
        found[name] = attack
    taken = Counter(found.values())
    return {
        name: attack if attack and taken[attack] == 1 else " ".join(filter(None, (attack, name.rpartition("/")[2])))
        for name, attack in found.items()
    }


def _row(run: Run, attack: str) -> Row | None:
    seconds = float(run.manifest.get("seconds") or 0)
    row = comparison.run_row(
        run.spec, run.result, attack, True, suspect=str(run.spec["suspect"]), run=run.id, seconds=seconds
    )
    # Cuts made by hand are not seeds of one another: each gets a column.
    return replace(row, settings=run.id) if row and row.defense == comparison.BY_HAND else row


def _result(cell: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a matrix's table as the result of the run that it is of."""

    def ends(name: str) -> list[Any] | None:
        low, high = cell.get(f"{name}_low"), cell.get(f"{name}_high")
        return None if low is None or high is None else [low, high]

    before, after = cell.get("acc_before"), cell.get("acc_after")
    return {
        **cell, "intervals_after": {m: ends(f"{m}_after") for m in MEASURES}, "der_interval": ends("der"),
        "acc_drop": None if before is None or after is None else before - after,
    }  # fmt: skip
