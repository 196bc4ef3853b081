"""Rows, cells, agreement and figures of the Compare page: pure, and nothing of a covered suspect is in them."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st_
from plotly import graph_objects

from app import agreement, agreement_figures, compare_figures, comparison, confusion_figures, score_figures
from app.comparison import Row, Value
from app.matrix import Matrix, matrix, names, pareto
from app.palette import DARK, LIGHT

RAW: dict[str, Any] = {
    "suspect": "demo:badnets", "attack": "badnets", "defense": "rnp", "title": "Reconstructive Neuron Pruning",
    "preset": "small", "seed": 0, "samples": 500, "trigger": "none", "policy": "tolerance", "oracle": False,
    "state": "done", "acc_before": 0.93, "acc_after": 0.92, "asr_before": 0.737373, "asr_after": 0.7373,
    "ra_before": 0.262626, "ra_after": 0.26262, "acc_drop": 0.01, "acc_drop_interval": [0.006, 0.014],
    "intervals_after": {"acc": [0.91, 0.93], "asr": [0.7373, 0.7374], "ra": [0.2626, 0.2627]}, "der": 0.737373,
    "der_interval": [0.7373, 0.7374], "pruned": 128, "units": 2400, "seconds": 31.5, "run": "0" * 16,
}  # fmt: skip


def row(**changes: Any) -> Row:
    found = comparison.table_row({**RAW, **changes}, "BadNets", True)
    assert found is not None
    return found


def of(matrix: Matrix, *names: str) -> list[tuple[str, ...]]:
    return [column for name in names for column in matrix.columns if matrix.names[column] == name]


# --- rows ------------------------------------------------------------------------------------------------------------


def test_a_covered_suspect_leaves_nothing_that_needs_the_trigger() -> None:
    seen, covered = row(), comparison.table_row(RAW, "BadNets", False)
    assert covered is not None
    assert set(seen.figures) == {"acc", "asr", "ra", "acc_drop", "der", "pruned", "seconds"}
    assert set(covered.figures) == {"acc", "acc_drop", "pruned", "seconds"}
    told = json.dumps([comparison.long([covered]), str(covered)])
    assert all(secret not in told for secret in ("0.7373", "0.2626"))
    assert "0.7373" in json.dumps(comparison.long([seen]))


@pytest.mark.parametrize(
    "how", [{"oracle": True}, {"trigger": "true"}, {"policy": "oracle"}, {"oracle": True, "state": "pending"}]
)
def test_an_oracle_does_not_exist_where_the_suspect_is_covered(how: dict[str, Any]) -> None:
    assert comparison.table_row({**RAW, **how}, "BadNets", False) is None
    shown = row(**how)
    assert shown.oracle
    assert shown.name == "RNP \u25c7"


def test_a_recovered_trigger_is_no_oracle() -> None:
    for how in ({"trigger": "recovered"}, {"recovered": True}):
        assert (row(**how).source, row(**how).oracle) == ("recovered", False)


def test_success_on_chosen_images_stands_in_place_of_asr() -> None:
    figures = {"asr_after": None, "asr_before": None, "success_before": 0.9, "success_after": 0.1}
    found = row(**figures, intervals_after={"success": [0.05, 0.2]})
    assert found.targets
    assert found.figures["asr"] == Value(0.1, 0.05, 0.2)
    table = comparison.long([found])
    assert (table["asr_before"], table["asr_is_success_on_chosen_images"]) == ([0.9], [True])


@pytest.mark.parametrize(
    ("defense", "title", "short"),
    [
        ("rnp", "Reconstructive Neuron Pruning", "RNP"),
        ("ft_sam", "Fine-tuning with sharpness-aware minimisation", "FT-SAM"),
        ("fine_tuning", "Fine-tuning", "Fine-tuning"),
        ("distillation", "Neural Attention Distillation (NAD)", "NAD"),
        ("unlearning_gradient", "A gradient that is called something else", "Unlearning gradient"),
    ],
)
def test_names_fit_a_column(defense: str, title: str, short: str) -> None:
    assert comparison.short(defense, title) == short


def test_ones_own_run_stands_for_the_same_row_of_the_table_and_the_newest_cut_by_hand_counts() -> None:
    shipped, pending = row(), row(seed=1, state="pending")
    own = [replace(shipped, folder="mine", run="1" * 16), replace(pending, state="done", folder="other")]
    hand = [
        replace(shipped, defense="by_hand", title="Cut by hand", folder=name, samples=None) for name in ("new", "old")
    ]
    found = comparison.joined([shipped, pending], [*own, *hand])
    assert sorted(r.folder or "" for r in found) == ["mine", "new", "other"]
    # Another number of pictures is another measurement.
    assert len(comparison.joined([shipped, row(samples=100)], [])) == 2
    assert [r.folder for r in comparison.chosen(found, 100, None)] == ["new"]


def test_a_run_of_the_workspace_is_a_row_like_any_other() -> None:
    spec = {
        "suspect": "demo:badnets", "defense": "rnp", "preset": "small", "samples": 500, "seed": 0, "trigger": "none",
        "mode": "scale", "params": {}, "policy": {"name": "tolerance", "tolerance": 0.01},
    }  # fmt: skip
    result = {key: value for key, value in RAW.items() if key not in ("seconds", "trigger", "attack")}
    found = comparison.run_row(
        spec, result, "BadNets", True, suspect="demo:badnets", folder="x", seconds=31.5, run="0" * 16
    )
    assert found == replace(row(), folder="x")
    other = comparison.run_row({**spec, "mode": "silence"}, result, "BadNets", True, suspect="demo:badnets")
    assert other is not None
    assert other.column != row().column


# --- the matrix ------------------------------------------------------------------------------------------------------


def test_a_cell_is_the_mean_of_its_seeds_with_the_widest_interval() -> None:
    rows = [
        row(asr_after=a, intervals_after={"asr": [a - 0.1, a + 0.1]}, seed=k) for k, a in enumerate((0.2, 0.3, 0.7))
    ]
    (cell,) = matrix(rows, "asr").cells.values()
    assert cell.value == pytest.approx(0.4)
    assert (cell.low, cell.high, cell.n) == (pytest.approx(0.1), pytest.approx(0.8), 3)
    (single,) = matrix(rows[:1], "pruned").cells.values()
    assert (single.value, single.low, single.high, single.n) == (128, None, None, 1)


def test_the_best_column_is_first_and_oracles_are_at_the_right() -> None:
    rows = [
        row(defense="tac", title="TAC", oracle=True, trigger="true", asr_after=0.0),
        row(defense="clp", title="CLP", asr_after=0.3, ra_after=0.9),
        row(asr_after=0.1, ra_after=0.5),
        row(defense="nad", title="NAD", state="pending"),
    ]
    found = matrix(rows, "asr")
    assert [found.names[column] for column in found.columns] == ["RNP", "CLP", "TAC \u25c7"]
    assert found.best == of(found, "RNP")[0]
    # A higher RA is the better one.
    assert [matrix(rows, "ra").names[c] for c in matrix(rows, "ra").columns] == ["CLP", "RNP", "TAC \u25c7"]
    # One that met fewer suspects is not called the best and comes after it.
    more = [*rows, row(suspect="demo:blend", attack="blend", defense="clp", title="CLP", asr_after=0.4)]
    assert matrix(more, "asr").best == of(matrix(more, "asr"), "CLP")[0]
    assert [matrix(more, "asr").names[c] for c in matrix(more, "asr").columns][0] == "CLP"


def test_columns_of_one_name_say_what_tells_them_apart() -> None:
    found = names([row(), row(policy="knee"), row(preset="published"), row(defense="tac", title="TAC")])
    assert sorted(found.values()) == ["RNP, knee, small", "RNP, tolerance, published", "RNP, tolerance, small", "TAC"]
    assert (
        len(set(names([row(), replace(row(), settings='{"a": 1}'), replace(row(), settings='{"a": 2}')]).values())) == 3
    )


coordinates = st_.lists(st_.tuples(st_.integers(0, 6), st_.integers(0, 6)), max_size=9)


@given(coordinates)
def test_the_front_is_the_brute_force_front(points: list[tuple[int, int]]) -> None:
    """No other is at least as good in both and better in one; of equal points one is enough."""
    found = [points[k] for k in pareto(points)]
    beaten = {p for p in points for q in points if q[0] >= p[0] and q[1] <= p[1] and q != p}
    assert sorted(found) == found
    assert len(found) == len(set(found))
    assert set(found) == set(points) - beaten


def test_the_file_holds_every_row_with_its_interval_and_no_formula() -> None:
    rows = [row(), row(seed=1, state="pending"), replace(row(seed=2), attack="=HYPERLINK(1)")]
    lines = list(csv.DictReader(io.StringIO(comparison.as_csv(comparison.long(rows)))))
    assert [line["state"] for line in lines] == ["done", "pending", "done"]
    assert lines[0]["asr_after"] == "0.7373"
    assert (lines[0]["acc_drop_low"], lines[0]["acc_drop_high"]) == ("0.006", "0.014")
    assert lines[2]["attack"] == "'=HYPERLINK(1)"


# --- agreement -------------------------------------------------------------------------------------------------------


def test_rank_agreement_is_spearmans_over_units_that_both_score() -> None:
    a = np.array([1.0, 2.0, 3.0, 4.0, np.nan])
    assert agreement.rank_agreement(a, np.array([10.0, 20, 30, 40, 50])) == agreement.Agreement(1.0, 4)
    assert agreement.rank_agreement(a, -a).rank == -1
    # By hand: rank differences 1, 1, 1, 1 give 1 - 6 * 4 / (4 * 15) = 0.6.
    assert agreement.rank_agreement(a, np.array([2.0, 1, 4, 3, 0])).rank == pytest.approx(0.6)
    assert agreement.rank_agreement(a, np.ones(5)).rank is None


def test_of_equal_scores_at_the_border_each_is_as_likely() -> None:
    assert agreement.top(np.array([3.0, 1, 1, 0]), 2).tolist() == [1, 0.5, 0.5, 0]
    assert agreement.top(np.array([np.nan, 1.0]), 5).tolist() == [0, 1]
    same = np.zeros(10)
    assert agreement.shared(same, np.arange(10.0), 5) == pytest.approx(2.5)  # half of five, not those that come first


@given(st_.permutations(range(8)), st_.permutations(range(8)), st_.integers(1, 8))
def test_overlap_is_what_sets_say(a: list[int], b: list[int], k: int) -> None:
    x, y = np.array(a, float), np.array(b, float)
    first, second = ({int(i) for i in np.argsort(-v)[:k]} for v in (x, y))
    assert agreement.shared(x, y, k) == pytest.approx(len(first & second))
    assert agreement.jaccard(x, y, k) == pytest.approx(len(first & second) / len(first | second))
    assert agreement.jaccard(x, x, k) == 1


# --- figures ---------------------------------------------------------------------------------------------------------


def valid(chart: Any) -> str:
    """The figure is what Plotly knows; returns all that it says."""
    graph_objects.Figure(chart.figure)
    assert len({len(values) for values in chart.table.values()}) == 1
    assert len(chart.alt) > 40
    return json.dumps([chart.figure, chart.title, chart.alt, chart.table], allow_nan=False)


def several() -> list[Row]:
    return [
        row(acc_after=0.92, asr_after=0.04), row(acc_after=0.90, asr_after=0.06, seed=1),
        row(defense="clp", title="CLP", acc_after=0.93, asr_after=0.5),
        row(defense="nad", title="NAD", acc_after=0.88, asr_after=0.6),
        row(defense="tac", title="TAC", acc_after=0.925, asr_after=0.0, oracle=True),
    ]  # fmt: skip


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_the_front_is_named_and_oracles_are_hollow_and_not_on_it(theme: Any) -> None:
    chart = compare_figures.tradeoff([compare_figures.Side("BadNets", several())], theme)
    valid(chart)
    assert chart.title == "On BadNets 2 of 3 defenses are beaten by no other in both ACC and ASR: CLP and RNP."
    traces = {trace["name"]: trace for trace in chart.figure["data"]}
    assert traces["front"]["x"] == [pytest.approx(0.91), 0.93]
    assert traces["oracles"]["marker"]["symbol"] == "diamond-open"
    assert traces["oracles"]["y"] == [0.0]
    assert len([x for x in traces["seeds"]["x"] if x is not None]) == 4  # two seeds of RNP, each joined to the mean
    labels = [note["text"] for note in chart.figure["layout"]["annotations"]]
    assert sorted(labels) == ["<b>CLP</b>", "<b>RNP</b>", "NAD", "TAC \u25c7", "undefended"]
    assert chart.table["Front"] == [True, True, False, False]


def test_two_suspects_stand_on_the_same_axes() -> None:
    sides = [compare_figures.Side(title, several()) for title in ("BadNets", "Blend")]
    chart = compare_figures.tradeoff(sides, LIGHT)
    valid(chart)
    layout = chart.figure["layout"]
    assert (layout["xaxis2"]["matches"], layout["yaxis2"]["matches"]) == ("x", "y")
    assert layout["xaxis"]["domain"][1] < layout["xaxis2"]["domain"][0]
    assert {trace["xaxis"] for trace in chart.figure["data"]} == {"x", "x2"}
    assert "On Blend" in chart.title


def test_names_beside_points_do_not_cover_one_another() -> None:
    crowd = [row(defense=f"d{k}", title=f"Defense {k}", acc_after=0.92 + k / 2000, asr_after=0.01) for k in range(12)]
    chart = compare_figures.tradeoff([compare_figures.Side("BadNets", crowd)], LIGHT, height=430)
    low, high = chart.figure["layout"]["xaxis"]["range"]
    boxes = []
    for note in chart.figure["layout"]["annotations"]:
        at = ((note["x"] - low) / (high - low) * 800, (1.06 - note["y"]) / 1.1 * 360)
        size = (len(note["text"].replace("<b>", "").replace("</b>", "")) * 6.6 + 6, 16)
        boxes.append(compare_figures._box(at, (note["ax"], note["ay"]), size))
    for k, a in enumerate(boxes):
        for b in boxes[:k]:
            assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])


def points(scale: float, **hidden: None) -> list[dict[str, Any]]:
    found = []
    for n in (0, 10, 50, 200, 1000):
        p: dict[str, Any] = {"pruned": n, "threshold": None, "acc": 0.93 * np.exp(-n / 800), "ra": 0.2}
        p["asr"] = float(np.exp(-n / scale))
        for m in ("acc", "asr", "ra"):
            p |= {f"{m}_low": p[m] - 0.01, f"{m}_high": p[m] + 0.01}
        found.append({key: value for key, value in p.items() if key.split("_")[0] not in hidden})
    return found


def test_curves_of_scores_say_which_needs_the_fewest_cuts() -> None:
    lines = [
        score_figures.Curve("RNP", points(20), first=True), score_figures.Curve("Activation", points(80)),
        score_figures.Curve("TAC", points(4), oracle=True),
    ]  # fmt: skip
    chart = score_figures.score_curves([score_figures.Curves("BadNets", lines)], "asr", LIGHT)
    valid(chart)
    assert chart.title == "On BadNets RNP needs fewest cuts to bring ASR to 10\u202f%: 50 units."
    alone = score_figures.score_curves([score_figures.Curves("BadNets", lines[2:])], "asr", LIGHT)
    assert alone.title == "On BadNets TAC, an oracle, needs fewest cuts to bring ASR to 10\u202f%: 10 units."
    drawn = {t["name"]: t for t in chart.figure["data"] if t["mode"] == "lines+markers"}
    assert drawn["TAC"]["marker"]["symbol"] == "diamond-open"
    assert drawn["RNP"]["line"]["color"] == LIGHT.line["asr"] != drawn["Activation"]["line"]["color"]
    two = score_figures.score_curves([score_figures.Curves(t, lines) for t in ("A", "B")], "acc", LIGHT)
    valid(two)
    assert two.figure["layout"]["yaxis2"]["matches"] == "y"


def test_names_of_curves_that_are_one_stand_above_each_other() -> None:
    same = [score_figures.Curve(name, points(4)) for name in ("Gradient", "TAC", "Random")]
    chart = score_figures.score_curves([score_figures.Curves("BadNets", same)], "asr", LIGHT)
    places = [(note["x"], note["y"]) for note in chart.figure["layout"]["annotations"]]
    reach = chart.figure["layout"]["xaxis"]["range"][1]
    for k, (x, y) in enumerate(places):
        assert all(abs(x - a) > 0.05 * reach or abs(y - b) > 0.06 for a, b in places[:k])


def test_curves_of_a_defender_say_nothing_of_the_trigger() -> None:
    lines = [score_figures.Curve("RNP", points(20, asr=None, ra=None), first=True)]
    told = valid(score_figures.score_curves([score_figures.Curves("BadNets", lines)], "acc", LIGHT))
    assert not any(word in told for word in ("ASR", "RA", "rigger", "\u25c7"))


def test_the_overlap_says_how_many_units_are_shared() -> None:
    a = np.arange(100.0)
    b = a.copy()
    b[:50] = a[:50][::-1]
    chart = agreement_figures.overlap(a, b, ("RNP", "TAC"), 50, LIGHT)
    valid(chart)
    assert chart.title.startswith("RNP and TAC share 50 of their 50 most suspicious units; rank agreement is 0.")
    assert chart.figure["layout"]["shapes"][0]["x0"] == 50
    assert chart.table["Jaccard"][chart.table["Units"].index(50)] == 1
    valid(agreement_figures.overlap(np.zeros(9), a[:9], ("A", "B"), 3, DARK))


def test_confusion_matrices_name_what_changed() -> None:
    classes = ["T-shirt", "Trouser", "Shirt"]
    clean = ([[90, 0, 10], [0, 100, 0], [20, 0, 80]], [[88, 0, 12], [0, 100, 0], [40, 0, 60]])
    chart = confusion_figures.confusions(classes, *clean, "clean", "After RNP", LIGHT)
    assert chart.title == (
        "After RNP, 40 of 100 pictures of Shirt are called T-shirt, 20 before: no other mistake grows more."
    )
    assert "rigger" not in valid(chart)
    assert "Named correctly: 90.0\u202f% and 82.7\u202f%." in chart.alt
    assert len(chart.figure["layout"]["shapes"]) == 2 * len(classes), "each right answer is framed"
    stamped = ([[1, 99, 0], [0, 0, 0], [0, 100, 0]], [[100, 0, 0], [0, 0, 0], [0, 50, 50]])
    chart = confusion_figures.confusions(classes, *stamped, "triggered", "Cut", DARK)
    valid(chart)
    assert chart.title == (
        "Cut, 25.0\u202f% of the triggered pictures are called Trouser, 99.5\u202f% before; 75.0\u202f% get their true "
        "name."
    )
    assert chart.figure["data"][1]["z"][2] == [0.0, 0.5, 0.5]
    unhurt = confusion_figures.confusions(classes, clean[0], clean[0], "clean", "Cut", LIGHT)
    assert unhurt.title == "Cut, no clean picture is mistaken for another class that was not before."
