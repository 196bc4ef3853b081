"""Figures of the Picture page: what a picture is answered while units are cut one after the other. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.compare_figures import side_by_side
from app.figures import Chart, Table
from app.palette import DASH, MARKER, Measure, Theme, percent

#: One order in which units are cut: what it is called, and the units' ids.
Order = tuple[str, Sequence[str]]


def first_right(row: Mapping[str, Any], truth: int) -> int | None:
    """The number of cuts after which the answer is the true class for the first time."""
    return next((k for k, said in enumerate(row["said"]) if said == truth), None)


def one_after_the_other(
    orders: Sequence[Order],
    rows: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    truth: int,
    step: int,
    trigger: str,
    theme: Theme,
    height: int = 300,
) -> Chart:
    """Probabilities of the first answer and of the true class by step, one panel for each order.

    Args:
        rows: for each order what :func:`engine.picture_questions.steps` says of the picture with the trigger.
        step: the number of cut units that is looked at.
        trigger: what the trigger is called in mid-sentence.
    """
    first = int(rows[0]["said"][0])
    most = max(len(row["said"]) for row in rows) - 1
    figure_layout = side_by_side(
        theme, height, [name[:1].upper() + name[1:] for name, _ in orders],
        xaxis={"title": "Units cut", "range": [-0.4, most + 0.4], "tickformat": "d", "nticks": 8},
        yaxis={"title": "Probability", "range": [-0.03, 1.06], "tickformat": ".0%", "dtick": 0.25},
    )  # fmt: skip
    figure_layout["shapes"] = []
    data: list[dict[str, Any]] = []
    lines: list[tuple[str, Measure, str]] = [("truth", "ra", classes[truth])]
    if first != truth:
        lines.insert(0, ("first", "asr", classes[first]))
    table: Table = {"Units cut": list(range(most + 1))}
    for place, ((name, units), row) in enumerate(zip(orders, rows, strict=True)):
        axis = place + 1 if place else ""
        steps = list(range(len(row["said"])))
        last = ["nothing", *units]
        table[f"{name}: unit"] = _filled(last[: len(steps)], most)
        for key, measure, label in lines:
            values = [round(float(v), 4) for v in row[key]]
            table[f"{name}: {label}"] = _filled(values, most)
            data.append(
                {
                    "type": "scatter", "mode": "lines+markers", "x": steps, "y": values, "name": label,
                    "text": last[: len(steps)], "xaxis": f"x{axis}", "yaxis": f"y{axis}",
                    "line": {"color": theme.line[measure], "width": 2, "dash": DASH[measure]},
                    "marker": {"size": 5, "symbol": MARKER[measure], "color": theme.line[measure]},
                    "hovertemplate": f"<b>{label} %{{y:.1%}}</b><br>%{{x}} cut, the last: %{{text}}<extra></extra>",
                }
            )  # fmt: skip
            end = _labelled_at(row, lines)
            figure_layout["annotations"].append(
                {
                    "x": steps[end], "y": values[end], "xref": f"x{axis}", "yref": f"y{axis}",
                    "text": f"<b>{label}</b>", "xanchor": "right" if end else "left", "showarrow": False,
                    "yanchor": "top" if values[end] > 0.5 else "bottom", "yshift": -5 if values[end] > 0.5 else 5,
                    "xshift": 0 if end else 8, "font": {"color": theme.text[measure], "size": 12},
                }
            )  # fmt: skip
        figure_layout["shapes"].append(
            {
                "type": "line", "x0": step, "x1": step, "xref": f"x{axis}", "y0": 0, "y1": 1, "yref": f"y{axis} domain",
                "line": {"color": theme.ink, "width": 1.5},
            }
        )  # fmt: skip
    title = _sentence(orders, rows, classes, truth, trigger)
    at = [(row["said"][min(step, len(row["said"]) - 1)], row["sure"][min(step, len(row["sure"]) - 1)]) for row in rows]
    now = "; ".join(
        f"{name}: {classes[int(said)]}, {percent(float(sure))}"
        for (name, _), (said, sure) in zip(orders, at, strict=True)
    )
    alt = f"Probability by the number of units cut, from 0 to {most}. {title} With {step} cut, {now}."
    return Chart(title, alt, {"data": data, "layout": figure_layout}, table)


def _labelled_at(row: Mapping[str, Any], lines: Sequence[tuple[str, Measure, str]]) -> int:
    """The step at which lines are labelled: the last one, unless they meet there."""
    apart = len(lines) < 2 or abs(float(row["first"][-1]) - float(row["truth"][-1])) > 0.2
    return -1 if apart else 0


def _filled(values: list[Any], most: int) -> list[Any]:
    return values + [None] * (most + 1 - len(values))


def _sentence(
    orders: Sequence[Order], rows: Sequence[Mapping[str, Any]], classes: Sequence[str], truth: int, trigger: str
) -> str:
    first, name = int(rows[0]["said"][0]), classes[truth]
    if first == truth:
        lost = min((k for row in rows for k, said in enumerate(row["said"]) if said != truth), default=None)
        kept = f"With {trigger} the answer is {name} all the same"
        return f"{kept}; it stays so in all cuts." if lost is None else f"{kept}; it is lost after {lost} cuts."
    parts = []
    for (order, units), row in zip(orders, rows, strict=True):
        k = first_right(row, truth)
        parts.append(
            f"with the {order} it takes {k}" if k is not None else f"with the {order} {len(units)} are not enough"
        )
    return f"Cut one after the other until {classes[first]} becomes {name}: {', '.join(parts)}."
