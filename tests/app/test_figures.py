"""Figures are pure: titles and alt texts say what the data say, and nothing is drawn that is not there."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from plotly import graph_objects

from app import figures, palette, pictures, readings
from app.palette import DARK, LIGHT, MEASURES

LAYERS = [
    {"name": "bn1", "kind": "norm", "size": 4, "offset": 0},
    {"name": "layer4.1.bn2", "kind": "norm", "size": 6, "offset": 4},
]


def row(pruned: int, threshold: float | None, acc: float, asr: float | None, ra: float | None) -> dict[str, Any]:
    found: dict[str, Any] = {"pruned": pruned, "threshold": threshold}
    for key, value in (("acc", acc), ("asr", asr), ("ra", ra)):
        found[key] = value
        found[f"{key}_low"] = None if value is None else max(0.0, value - 0.01)
        found[f"{key}_high"] = None if value is None else min(1.0, value + 0.01)
    return found


POINTS = [
    row(0, None, 0.93, 0.999, 0.001),
    row(2, 0.8, 0.925, 0.6, 0.4),
    row(4, 0.4, 0.918, 0.036, 0.86),
    row(10, 0.0, 0.1, 0.0, 0.1),
]


def draw(points: list[dict[str, Any]] = POINTS, **more: Any) -> figures.Chart:
    shown = {m: points[2][m] for m in MEASURES}
    return figures.curve(points, LIGHT, total=10, pruned=4, threshold=0.4, shown=shown, **more)


def test_the_title_of_the_curve_is_a_sentence_from_the_data() -> None:
    chart = draw()
    assert chart.title == (
        "ASR falls from 99.9\u202f% to 3.6\u202f% when 4 of 10 units are cut; accuracy loses 1.2 points."
    )
    assert chart.title in chart.alt


def test_one_vertical_line_marks_the_threshold_on_both_axes() -> None:
    for against, at in (("units", 4), ("threshold", 0.4)):
        chart = draw(against=against)
        (line,) = chart.figure["layout"]["shapes"]
        assert line["x0"] == line["x1"] == at


def test_measures_differ_by_dash_and_marker_not_by_hue_alone() -> None:
    lines = [t for t in draw().figure["data"] if t.get("mode") == "lines+markers"]
    assert [t["name"] for t in lines] == ["ACC", "ASR", "RA"]
    assert len({t["line"]["dash"] for t in lines}) == len({t["marker"]["symbol"] for t in lines}) == 3


def test_a_curve_without_asr_draws_and_says_nothing_of_it() -> None:
    hidden = [{k: v for k, v in p.items() if not k.startswith(("asr", "ra"))} for p in POINTS]
    chart = figures.curve(hidden, LIGHT, total=10, pruned=4, threshold=0.4, shown={"acc": 0.918})
    told = json.dumps([chart.figure, chart.title, chart.alt, chart.table])
    assert "ASR" not in told
    assert "RA" not in told
    assert "attack" not in told
    assert chart.title == "Accuracy loses 1.2 points (93.0\u202f% to 91.8\u202f%) when 4 of 10 units are cut."


def test_a_pinned_study_is_thin_and_named() -> None:
    chart = draw(pinned=figures.Other("Random", POINTS))
    thin = [t for t in chart.figure["data"] if "Random" in t.get("name", "")]
    assert len(thin) == 3
    assert all(t["line"]["width"] < 2 for t in thin)
    assert "Random" in chart.alt


def test_labels_beside_the_lines_do_not_overlap() -> None:
    heights = figures.spread({"acc": 0.5, "asr": 0.49, "ra": 0.51})
    placed = sorted(heights.values())
    assert all(b - a >= 0.074 for a, b in zip(placed, placed[1:], strict=False))
    assert max(figures.spread({"acc": 1.0, "asr": 1.0, "ra": 1.0}).values()) <= 1.0 + 1e-9


HELD_OUT = [{"pruned": n, "drop": d, "low": d - 0.01, "high": d + 0.01} for n, d in ((0, 0.0), (10, 0.012), (40, 0.05))]


def test_held_out_pictures_say_what_the_default_threshold_saw() -> None:
    drawn = figures.held_out(HELD_OUT, palette.LIGHT, samples=500, tolerance=0.035, pruned=12)
    said = "On 500 held-out clean pictures accuracy loses 1.2 points, 0.2 to 2.2, with 10 units cut."
    assert drawn.title == said
    assert "3.5 points" in drawn.alt
    assert [shape["x0"] for shape in drawn.figure["layout"]["shapes"]] == [12, 0]
    assert drawn.table["Units cut"] == [0, 10, 40]
    beyond = figures.held_out(HELD_OUT, palette.LIGHT, samples=500, tolerance=None, pruned=90)
    assert "with 40 units cut. Larger cuts were not tried there." in beyond.title
    assert len(beyond.figure["layout"]["shapes"]) == 1


def test_bars_say_which_layer_loses_most() -> None:
    cut = np.zeros(10, bool)
    cut[[0, 4, 5, 9]] = True
    chart = figures.per_layer(LAYERS, cut, DARK)
    assert chart.title == "layer4.1.bn2 loses most: 3 of its 6 units, 75\u202f% of the whole cut."
    assert chart.table == {"Layer": ["bn1", "layer4.1.bn2"], "Units": [4, 6], "Cut": [1, 3]}
    assert chart.figure["data"][1]["marker"]["pattern"]["shape"] == "/"
    assert figures.per_layer(LAYERS, np.zeros(10, bool), DARK).title == "No layer loses a unit."


def test_the_scatter_plot_is_the_same_to_the_byte_and_marks_a_unit_from_elsewhere() -> None:
    clean = np.linspace(0, 1, 10, dtype=np.float32)
    triggered = clean.copy()
    triggered[7] = 4
    common: dict[str, Any] = {"colour": clean, "colour_label": "score", "kind": "triggered"}
    once = figures.scatter(clean, triggered, LAYERS, LIGHT, **common)
    again = figures.scatter(clean, triggered, LAYERS, LIGHT, **common)
    assert json.dumps(once.figure) == json.dumps(again.figure)
    assert once.title.startswith("layer4.1.bn2:3 answers the trigger most")
    ringed = figures.scatter(clean, triggered, LAYERS, LIGHT, ring="bn1:2", **common)
    assert set(ringed.figure["data"][-1]["customdata"]) == {"bn1:2"}


@pytest.mark.parametrize("kind", ["triggered", "score"])
def test_units_without_a_score_are_hollow_points_that_can_be_chosen(kind: Any) -> None:
    clean = np.linspace(0, 1, 10, dtype=np.float32)
    score = np.where(np.arange(10) < 4, np.nan, clean)
    other = clean[::-1] if kind == "triggered" else score
    chart = figures.scatter(clean, other, LAYERS, LIGHT, colour=score, colour_label="score", kind=kind)
    drawn = graph_objects.Figure(chart.figure)  # Plotly's own check of every value
    marks = [trace for trace in drawn.data if trace.mode == "markers"]
    shown = sorted(unit for trace in marks for unit in trace.customdata)
    if kind == "triggered":
        assert shown == sorted(chart.table["Unit"])
        assert [trace.marker.symbol for trace in marks] == ["circle-open", None]
        assert "4 units without a score are hollow" in chart.alt
    else:
        assert len(shown) == 6


def test_the_scatter_plot_of_a_defender_speaks_of_scores() -> None:
    clean = np.linspace(0, 1, 10, dtype=np.float32)
    chart = figures.scatter(clean, clean[::-1], LAYERS, LIGHT, colour=clean, colour_label="1 - mask", kind="score")
    assert "rigger" not in json.dumps([chart.figure, chart.title, chart.alt, chart.table])
    assert chart.figure["layout"]["yaxis"]["title"]["text"] == "1 - mask"


def test_units_that_are_not_eligible_leave_gaps_not_errors() -> None:
    values = np.array([np.nan] * 4 + [0.1] * 6, np.float32)
    chart = figures.scatter(values, values, LAYERS, LIGHT, colour=values, colour_label="s", kind="score")
    assert len(chart.figure["data"][0]["x"]) == 6
    json.dumps(chart.figure, allow_nan=False)


def test_the_histogram_of_outputs_with_and_without_the_trigger() -> None:
    hist = {"edges": [0.0, 1.0, 2.0], "clean": [3, 1], "triggered": [0, 4]}
    chart = figures.outputs(hist, "bn1:0", LIGHT)
    assert chart.title == "bn1:0 gives 0.75 on clean pictures and 1.5 on triggered ones."
    assert [t["name"] for t in chart.figure["data"]] == ["clean", "triggered"]
    alone = figures.outputs({"edges": [0.0, 1.0, 2.0], "clean": [3, 1]}, "bn1:0", LIGHT)
    assert "rigger" not in json.dumps([alone.figure, alone.title, alone.alt, alone.table])


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_text_colours_reach_4_5_to_1(theme: palette.Theme) -> None:
    def luminance(colour: str) -> float:
        parts = [c / 255 for c in palette.rgb(colour)]
        r, g, b = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    def contrast(a: str, b: str) -> float:
        high, low = sorted((luminance(a), luminance(b)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    for colour in (theme.ink, theme.soft, *theme.text.values()):
        assert contrast(colour, theme.paper) >= 4.5
    for colour in theme.line.values():
        assert contrast(colour, theme.paper) >= 3


def test_numbers_are_written_the_same_way_everywhere() -> None:
    assert palette.percent(0.9994) == "99.9\u202f%"
    assert palette.percent(None) == "–"
    assert palette.points(-0.0123) == "\u22121.2"
    assert palette.points(0.0004) == "0.0"
    assert palette.number(None) == "none"
    assert palette.units(1) == "1 unit"
    assert palette.cut_sentence({"acc": 0.9, "asr": None}, {"acc": 0.9}, 0, 10) == (
        "Nothing is cut: accuracy is 90.0\u202f%."
    )


# --- readings --------------------------------------------------------------------------------------------------------


def curve_readings(pruned: int, **more: Any) -> dict[Any, readings.Reading]:
    return readings.from_curve(POINTS, None, pruned, **{"n": 2000, "all_images": 10_000, "follows": True, **more})


def test_a_measured_point_on_some_images_is_an_estimate_on_all_of_them_exact() -> None:
    assert curve_readings(4)["asr"].chip == "estimate"
    assert curve_readings(4, n=10_000)["asr"].chip == "exact"
    assert curve_readings(4)["acc"].change == pytest.approx(-0.012)


def test_between_points_the_curve_is_interpolated_and_says_so() -> None:
    found = curve_readings(3, n=10_000)
    assert found["asr"].value == pytest.approx((0.6 + 0.036) / 2)
    assert found["asr"].chip == "estimate"


def test_hand_edits_make_the_curve_stale() -> None:
    assert curve_readings(4, follows=False)["acc"].chip == "stale"


def test_a_hidden_measure_has_no_reading() -> None:
    found = readings.from_curve(
        [{"pruned": 0, "acc": 0.9}, {"pruned": 5, "acc": 0.8}], None, 5, n=10, all_images=10, follows=True
    )
    assert found["asr"].value is None
    assert found["asr"].hidden
    check = readings.from_check({"acc": {"value": 0.9, "n": 10, "low": 0.8, "high": 1.0}}, {"acc": 0.95}, "exact")
    assert check["asr"].hidden
    assert check["acc"].change == pytest.approx(-0.05)


# --- pictures --------------------------------------------------------------------------------------------------------


def test_pictures_grow_by_whole_factors_only() -> None:
    small = np.arange(9, dtype=np.uint8).reshape(3, 3)
    large = pictures.scaled(small, 11)
    assert large.shape == (9, 9)
    assert (large[::3, ::3] == small).all()


def test_a_difference_runs_through_the_paper() -> None:
    clean = np.full((1, 3), 100, np.uint8)
    shown = pictures.difference(clean, np.array([[100, 255, 0]], np.uint8), LIGHT)
    assert tuple(shown[0, 0]) == palette.rgb(LIGHT.paper)
    assert tuple(shown[0, 1]) == palette.rgb(palette.MORE)
    assert tuple(shown[0, 2]) == palette.rgb(palette.LESS)
