"""What returns when a repaired model is tuned on a few poisoned pictures, beside its clean twin. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.compare_figures import empty
from app.figures import Chart, band, layout, spread
from app.palette import DASH, MARKER, NAME, Measure, Theme, count, fade, percent

_SHOWN: tuple[Measure, ...] = ("acc", "asr")
#: Where the suspect stands, left of the repaired model at epoch 0.
_SUSPECT = -1


def retuning(result: Mapping[str, Any], theme: Theme, height: int = 330) -> Chart:
    """ACC and ASR over the epochs of a ``retune`` run: the repaired model in full, the clean twin thin."""
    rows, twin = [flat(row) for row in result["epochs"]], result.get("twin")
    control = [flat(row) for row in twin["epochs"]] if twin else []
    last = int(rows[-1]["epoch"])
    traces: list[dict[str, Any]] = [band(rows, [row["epoch"] for row in rows], m, theme) for m in _SHOWN]
    ends: dict[str, float] = {}
    for m in _SHOWN:
        if control:
            traces.append(_line(control, m, theme, "clean twin"))
            ends[f"{m} twin"] = control[-1][m]
        traces.append(_line(rows, m, theme, ""))
        ends[m] = rows[-1][m]
        before = result["undefended"][m]
        traces.append(
            {
                "type": "scatter", "mode": "markers", "x": [_SUSPECT], "y": [before], "name": f"{NAME[m]}, suspect",
                "marker": {"size": 9, "symbol": MARKER[m], "color": theme.line[m]},
                "hovertemplate": f"<b>{NAME[m]} %{{y:.1%}}</b><br>the suspect before its defense<extra></extra>",
            }
        )  # fmt: skip
    notes = []
    for name, y in spread(ends, 0.085).items():
        m = "asr" if name.startswith("asr") else "acc"
        text = NAME[m] if name in _SHOWN else f"{NAME[m]}, clean twin"
        notes.append(
            {
                "x": 1.0, "xref": "paper", "xanchor": "left", "xshift": 6, "y": y, "yref": "y", "showarrow": False,
                "text": f"<b>{text}</b>" if name in _SHOWN else text, "font": {"color": theme.text[m], "size": 13},
            }
        )  # fmt: skip
    step = max(1, last // 10)
    ticks = [_SUSPECT, *range(0, last + 1, step)]
    figure = {
        "data": traces,
        "layout": layout(
            theme,
            height,
            margin={"l": 8, "r": 110 if control else 48, "t": 10, "b": 8},
            xaxis={
                "title": f"Epochs on {_pictures(result)}", "range": [_SUSPECT - 0.35, last + 0.15], "tickvals": ticks,
                "ticktext": ["suspect", "repaired", *(str(tick) for tick in ticks[2:])],
            },
            yaxis={"title": "Share of test pictures", "range": [-0.03, 1.03], "tickformat": ".0%", "dtick": 0.25},
            annotations=notes,
            hovermode="closest",
        ),
    }  # fmt: skip
    title = sentence(result)
    return Chart(title, f"Accuracy and attack success over the epochs of retuning. {title}", figure, _table(result))


def sentence(result: Mapping[str, Any]) -> str:
    """What returned, and how much of it a model without a memory of the trigger learns as well."""
    n, rows, twin = int(result["images"]), result["epochs"], result.get("twin")
    first, last = rows[0]["asr"], rows[-1]["asr"]
    who = f"{count(n)} poisoned {'picture' if n == 1 else 'pictures'}"
    if not n:
        who = f"{count(result['clean'])} clean pictures alone"
    if result.get("statistics") == "kept":
        who += ", with the normalisation's statistics kept,"
    if percent(first) == percent(last):
        text = f"{who} leave{'s' if n == 1 else ''} ASR at {percent(last)}"
    else:
        verb = ("bring" if last > first else "take") + ("s" if n == 1 else "")
        text = (
            f"{who} {verb} ASR {'back ' if last > first else 'further down '}from {percent(first)} to {percent(last)}"
        )
    if twin:
        text += f"; a clean twin that never knew the trigger comes to {percent(twin['epochs'][-1]['asr'])}"
    moved = rows[-1]["acc"] - rows[0]["acc"]
    lost = f" Accuracy {'falls' if moved < 0 else 'rises'} by {abs(100 * moved):.1f} points."
    return f"{text}.{lost if abs(moved) >= 0.02 else ''}"


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """An epoch with its intervals as ``acc_low`` and so on."""
    found: dict[str, Any] = {"epoch": row["epoch"]}
    for m in ("acc", "asr", "ra"):
        low, high = (row.get("intervals") or {}).get(m) or (None, None)
        found |= {m: row.get(m), f"{m}_low": low, f"{m}_high": high}
    return found


def _pictures(result: Mapping[str, Any]) -> str:
    clean = int(result.get("clean") or 0)
    if not result["images"]:
        return f"{count(clean)} clean pictures"
    poisoned = f"{count(result['images'])} poisoned"
    return f"{poisoned} and {count(clean)} clean pictures" if clean else f"{poisoned} pictures alone"


def _line(rows: Sequence[Mapping[str, Any]], m: Measure, theme: Theme, label: str) -> dict[str, Any]:
    thin = bool(label)
    called = f"{NAME[m]}, {label}" if thin else NAME[m]
    words = [
        f"{100 * r[f'{m}_low']:.1f} to {percent(r[f'{m}_high'])}" if r[f"{m}_low"] is not None else "" for r in rows
    ]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [row["epoch"] for row in rows],
        "y": [round(float(row[m]), 5) for row in rows],
        "name": called,
        "line": {"color": fade(theme.line[m], 0.7) if thin else theme.line[m], "width": 1.2 if thin else 2.2,
                 "dash": DASH[m]},
        "marker": {
            "size": 5 if thin else 6, "symbol": f"{MARKER[m]}-open" if thin else MARKER[m], "color": theme.line[m],
        },
        "customdata": words,
        "hovertemplate": f"<b>{called} %{{y:.1%}}</b> (%{{customdata}})<br>after %{{x}} epochs<extra></extra>",
    }  # fmt: skip


def _table(result: Mapping[str, Any]) -> dict[str, list[Any]]:
    table = empty("Model", "Epoch", *(f"{NAME[m]}{end}" for m in ("acc", "asr", "ra") for end in ("", " from", " to")))
    groups: list[tuple[str, Sequence[Mapping[str, Any]]]] = [
        ("suspect", [{"epoch": None, **result["undefended"]}]), ("repaired", result["epochs"]),
    ]  # fmt: skip
    if result.get("twin"):
        groups.append(("clean twin", result["twin"]["epochs"]))
    for name, rows in groups:
        for row in map(flat, rows):
            values = [row[f"{m}{end}"] for m in ("acc", "asr", "ra") for end in ("", "_low", "_high")]
            for column, value in zip(table, (name, row["epoch"], *values), strict=True):
                table[column].append(round(value, 4) if isinstance(value, float) else value)
    return table
