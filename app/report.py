"""Reports: what a run or a comparison found as one HTML file that stands alone. Pure: run folders in, text out.

The file says what was found in a sentence, shows every share with its interval and number of pictures, and holds what
is needed to check and to repeat it: the specification, the hashes of inputs and files, versions, machine, command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from app import figures, report_figures, report_page
from app.figures import Chart
from app.palette import MEANING, MEASURES, NAME, Measure, Theme, clock, count, number, percent, points
from app.projection_figures import projection
from app.redaction import redact, redact_text
from app.report_figures import Classes, Line
from app.report_page import Page, esc, mono
from app.report_words import cut_of, measured, name_of, summary
from engine.pruning.cut import cut_at
from engine.runs.repeat import command
from engine.runs.store import Run

KINDS = {
    "attack": "Training of a suspect", "import": "Import of a checkpoint", "defend": "Defense",
    "sweep": "Curve of a score", "detect": "Detection",
}  # fmt: skip
_LONG: dict[Measure, str] = {"acc": "clean accuracy", "asr": "attack success", "ra": "robust accuracy"}
_INTERVALS = (
    "Those of shares are 95\u202f% Wilson intervals, those of differences and of DER paired bootstrap intervals. "
    "They cover the choice of test pictures, not that of training seeds."
)
_DER = "Defense effectiveness rating: 50\u202f% is no change, 100\u202f% a perfect repair."


def of_run(
    run: Run, *, seen: bool = True, title: str = "", pictures: Sequence[Mapping[str, Any]] = (), missing: str = ""
) -> str:
    """The report of one run.

    Args:
        seen: whether what needs the trigger may be in it.
        title: what the run is called; by default its method and suspect.
        pictures: what :func:`engine.explain.examples.examples` gives; left out where they may not be seen.
        missing: why there are none, in one line.

    Raises:
        ValueError: in one line, if a file was altered, or if the run is an oracle's and may not be seen.
    """
    if not seen and run.result.get("oracle") is True:
        raise ValueError("expected a run without the trigger for a report in the Defender view, got an oracle's")
    spec, result = redact(run.spec, seen), redact(run.result, seen)
    lines, page = measured(run.kind, result), Page()
    title, found = title or name_of(run.kind, spec, result), summary(run.kind, result)
    page.markup(report_page.header(KINDS.get(run.kind, run.kind), str(run.manifest.get("created", ""))[:10]))
    page.markup(f'<h1>{esc(title)}</h1><p class="lead">{esc(found)}</p>')
    if result.get("oracle"):
        page.markup(report_page.oracle("It used the true trigger, or chose by what it does; no defender could."))
    if cells := _cells(run.kind, result, lines):
        page.markup(report_page.strip(cells))
    if not seen:
        page.note("As a defender sees it: what needs the trigger is left out.")
    _charts(page, run, result, lines, seen)
    if seen and (pictures or missing):
        page.heading("What the trigger does to pictures")
        if missing:
            page.note(f"The pictures are missing: {missing}.")
        else:
            page.note("The first test picture of some classes that the suspect answers rightly without the trigger.")
            page.markup(report_page.pictures(pictures, result.get("classes", []), ("Before", "After")))
    page.heading("Where it comes from")
    _origin(page, run, spec, result, seen)
    _words(page, lines, result)
    page.markup(report_page.FOOTER)
    return page.html(f"{title} \u00b7 Unmask")


def _words(page: Page, lines: Sequence[Line], result: Mapping[str, Any]) -> None:
    """What the abbreviations mean that the report has used."""
    there = {line.of for line in lines}
    rows = {NAME[m]: esc(MEANING[m]) for m in MEASURES if m in there}
    if result.get("der") is not None:
        rows["DER"] = esc(_DER)
    if rows:
        page.heading("What the figures mean")
        page.facts({**rows, "Intervals": esc(_INTERVALS)})


def _cells(
    kind: str, result: Mapping[str, Any], lines: Sequence[Line]
) -> list[tuple[Measure | None, str, str, str, Sequence[str]]]:
    cells: list[tuple[Measure | None, str, str, str, Sequence[str]]] = []
    for line in lines:
        if line.name not in ("ACC", "ASR", "RA", "Success"):
            continue
        below = [f"{line.after.interval}{f', n = {count(line.after.n)}' if line.after.n else ''}"]
        if line.before is not None:
            moved = points(line.after.value - line.before.value)
            below.insert(0, f"{percent(line.before.value)} before ({moved})")
        elif line.of == "acc" and result.get("clean_acc") is not None:
            below.append(f"a clean twin has {percent(result['clean_acc'])}")
        long = "on chosen pictures" if line.name == "Success" else _LONG[line.of]
        cells.append((line.of, line.name, long, percent(line.after.value), below))
    cut, total = cut_of(result)
    if kind in ("defend", "sweep") and total:
        der, ends = result.get("der"), result.get("der_interval")
        more = [] if der is None else [f"DER {percent(der)}" + (f", {_span(ends)}" if ends else "")]
        cells.append((None, "Units cut", "", count(cut), [f"{percent(cut / total)} of {count(total)}", *more]))
    elif kind == "attack" and result.get("poisoned"):
        total = int(result["trained_on"])
        said = [f"of {count(total)} training pictures", percent(result["poisoned"] / total)]
        cells.append((None, "Poisoned", "", count(int(result["poisoned"])), said))
    elif kind == "detect":
        rule = [f"Rule: {result['rule']}"] if result.get("rule") else []
        cells.append((None, "Statistic", "", number(result.get("statistic")), rule))
    return cells


def _span(ends: Sequence[float]) -> str:
    return f"{100 * ends[0]:.1f} to {percent(ends[1])}"


# --- figures ---------------------------------------------------------------------------------------------------------


def _charts(page: Page, run: Run, result: Mapping[str, Any], lines: Sequence[Line], seen: bool) -> None:
    title = str(result.get("title") or "")
    if lines:
        page.figure(lambda theme: report_figures.shares(lines, _shares_title(lines), theme))
    if run.kind == "sweep" and result.get("points"):
        page.figure(lambda theme: _curve(result, theme))
        numbers = result.get("n") or {}
        kinds = [f"{count(n)} {kind}" for kind, n in (("clean", numbers.get("acc")), ("triggered", numbers.get("asr")))
                 if n]  # fmt: skip
        page.note(
            f"Points are measured on {' and '.join(kinds)} test pictures that no policy saw; lines between them are "
            "interpolated, bands are 95\u202f% intervals. The vertical line is the cut that the policy chose."
        )
    if rows := result.get("heldout"):
        samples, tolerance = int(run.spec.get("samples", 500)), (run.spec.get("policy") or {}).get("tolerance")
        page.figure(
            lambda theme: figures.held_out(
                rows, theme, samples=samples, tolerance=tolerance, pruned=cut_of(result)[0], height=260
            )
        )
        page.note("This is all that the policy looks at: clean pictures that the score did not see.")
    layers = result.get("layers") or []
    cut = _cut_units(run, result)
    if cut is not None and cut.any() and len(cut) == sum(int(row["size"]) for row in layers):
        page.figure(lambda theme: figures.per_layer(layers, cut, theme, height=110 + 17 * len(layers)))
    if run.kind == "sweep" and run.has("activations.safetensors"):
        page.figure(lambda theme: _units(run, layers, title, seen, theme))
    if seen and run.kind == "attack" and len(result.get("history") or []) > 1:
        page.figure(lambda theme: report_figures.losses(result["history"], theme))
    if run.kind == "project":
        places = redact({**result, **run.arrays("projection")}, seen)
        page.figure(
            lambda theme: projection(places, result["classes"], theme, pruned=int(result["pruned"]), height=520)
        )
        stamped = "; an open square is one with the trigger" * ("before_triggered" in places)
        page.note(f"A dot is a clean picture, its colour the true class, whose name stands by it{stamped}.")
    if run.kind == "detect" and result.get("per_class"):
        limit = (result.get("settings") or {}).get("index")
        of = Classes(result.get("classes") or [], result["per_class"], result.get("target"), limit)
        page.figure(lambda theme: report_figures.classes(of, theme))


def _shares_title(lines: Sequence[Line]) -> str:
    """The sentence above the shares; it adds what the first line of the report has not said."""
    ra = next((line for line in lines if line.name == "RA"), None)
    if ra is None or ra.before is None:
        return "What was measured on test pictures, and how surely."
    return (
        f"With the trigger on, {percent(ra.after.value)} of the pictures get their true name; "
        f"before it was {percent(ra.before.value)}."
    )


def _curve(result: Mapping[str, Any], theme: Theme) -> Chart:
    chosen = result.get("chosen") or {}
    return figures.curve(
        result["points"], theme, total=int(result["units"]), pruned=int(chosen.get("pruned") or 0),
        threshold=chosen.get("threshold"), shown={m: chosen.get(m) for m in MEASURES}, score=str(result["title"]),
        height=400,
    )  # fmt: skip


def _units(run: Run, layers: Sequence[Mapping[str, Any]], title: str, seen: bool, theme: Theme) -> Chart:
    found, scores = run.arrays("activations"), run.arrays("scores")["values"]
    triggered = found.get("triggered") if seen else None
    return figures.scatter(
        found["clean"], scores if triggered is None else triggered, layers, theme, colour=scores, colour_label=title,
        kind="score" if triggered is None else "triggered", height=420,
    )  # fmt: skip


def _cut_units(run: Run, result: Mapping[str, Any]) -> np.ndarray | None:
    if run.kind not in ("defend", "sweep") or not run.has("scores.safetensors"):
        return None
    arrays = run.arrays("scores")
    if run.kind == "defend":
        return np.asarray(arrays["cut"], dtype=bool) if "cut" in arrays else None
    return cut_at(arrays["values"], (result.get("chosen") or {}).get("threshold"))


# --- where it comes from ---------------------------------------------------------------------------------------------


def _origin(page: Page, run: Run, spec: Mapping[str, Any], result: Mapping[str, Any], seen: bool) -> None:
    page.markup(circumstances(run, spec, result))
    page.markup(provenance(run, spec, seen))
    if seen:
        page.folded("Everything that the run recorded", f"<pre>{esc(report_page.pretty(result))}</pre>")


def circumstances(run: Run, spec: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """When, where and with what a run was made, as markup."""
    manifest = run.manifest
    made = str(manifest.get("created", "")).replace("T", " ").replace("Z", " UTC")
    versions = ", ".join(f"{name} {version}" for name, version in (manifest.get("environment") or {}).items())
    rows = {
        "Run": mono(run.id), "Suspect": mono(spec.get("suspect", "")) if spec.get("suspect") else "",
        "Made": esc(f"{made}, in {clock(float(manifest.get('seconds') or 0))}"),
        "Machine": esc(result.get("machine", "")), "Precision": esc(result.get("precision", "")),
        "Versions": esc(versions), "Schema": esc(manifest.get("schema", "")),
    }  # fmt: skip
    return report_page.facts({name: value for name, value in rows.items() if value})


def provenance(run: Run, spec: Mapping[str, Any], seen: bool) -> str:
    """Command, specification, and the hashes of inputs and files, as markup.

    The commands and inputs of a suspect, and files called after the trigger, would tell a defender of the attack.
    """
    tells = not seen and run.kind in ("attack", "import")
    again = None if tells else command(run)
    parts = []
    if again is not None:
        parts.append(f'<p class="label">The command that makes it again:</p><pre>{esc(again)}</pre>')
    elif not tells:
        parts.append('<p class="label">No command makes it again: its specification below holds all of it.</p>')
    parts.append(f'<p class="label">Specification:</p><pre>{esc(report_page.pretty(spec))}</pre>')
    files = {
        name: mono(row["sha256"]) + (f' <span class="size">{count(row["size"])} bytes</span>' if seen else "")
        for name, row in run.manifest["files"].items()
        if redact_text(name, seen)
    }
    for words, rows in (
        ("What it depends on besides the specification, by hash:", {} if tells else _hashes(run.manifest["inputs"])),
        ("Files of the run, by SHA-256:", files),
    ):
        if rows:
            parts.append(f'<p class="label">{words}</p>{report_page.facts(rows)}')
    return "".join(parts)


def _hashes(inputs: Mapping[str, str]) -> dict[str, str]:
    return {name: mono(value) for name, value in inputs.items()}
