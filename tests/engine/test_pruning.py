"""Cuts, policies and the curve."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from engine.compute import Compute
from engine.metrics import TestSet, answers
from engine.models.masking import apply_cut, masked
from engine.pruning.cut import cut_at, edited, thresholds
from engine.pruning.sweep import counts_for, sweep
from engine.pruning.thresholds import (
    HeldOut,
    Policy,
    by_knee,
    by_oracle,
    by_policy,
    by_tolerance,
    cross_fit,
    cut_of,
    ladder,
    whole_ladder,
)
from engine.scores import SCORES, Evidence
from engine.scores.base import Scores
from tests.tiny import RNP_SETTINGS, Planted

VALUES = np.array([0.5, 0.1, np.nan, 0.5, 0.9, 0.1], dtype=np.float32)


def test_nan_is_never_cut_and_equal_scores_are_cut_together() -> None:
    assert cut_at(VALUES, 0.5).tolist() == [True, False, False, True, True, False]
    assert cut_at(VALUES, -np.inf).tolist() == [True, True, False, True, True, True]
    assert not cut_at(VALUES, None).any()


def test_thresholds_name_every_distinct_cut() -> None:
    levels, counts = thresholds(VALUES)
    assert levels.tolist() == [np.inf, np.float32(0.9), np.float32(0.5), np.float32(0.1)]
    assert counts.tolist() == [0, 1, 3, 5]
    for level, count in zip(levels, counts, strict=True):
        assert cut_at(VALUES, level).sum() == count


def test_edits_win_over_the_threshold() -> None:
    cut = edited(cut_at(VALUES, 0.5), spare=[4], also=[1])
    assert cut.tolist() == [True, True, False, True, False, False]


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 1), (2, 1), (3, 3), (4, 3), (99, 5)])
def test_cut_of_never_cuts_more_than_asked(count: int, expected: int) -> None:
    threshold, cut = cut_of(VALUES, count)
    assert cut.sum() == expected
    assert (threshold is None) == (expected == 0)


def test_masks_from_falling_thresholds_are_nested() -> None:
    values = np.random.default_rng(0).random(200).astype(np.float32)
    previous = np.zeros(200, dtype=bool)
    for level in thresholds(values)[0]:
        cut = cut_at(values, level)
        assert not (previous & ~cut).any()
        previous = cut


def _held_out(drops: list[float], n: int = 100) -> HeldOut:
    correct = torch.ones(len(drops), n, dtype=torch.bool)
    for row, drop in zip(correct, drops, strict=True):
        row[: round(drop * n)] = False
    return HeldOut(np.arange(len(drops)) * 10, correct)


def test_tolerance_takes_the_cut_before_the_first_violation() -> None:
    assert by_tolerance(_held_out([0, 0.01, 0.02, 0.05, 0.01, 0.2]), 0.02) == 20
    assert by_tolerance(_held_out([0, 0.3, 0.0]), 0.02) == 0
    assert by_tolerance(_held_out([0, 0.0, 0.0]), 0.02) == 20


def test_knee_is_where_accuracy_turns_down() -> None:
    assert by_knee(_held_out([0, 0, 0, 0, 0.2, 0.4])) == 30


def test_oracle_takes_the_lowest_asr_within_the_tolerance() -> None:
    points = [
        {"acc": 0.9, "asr": 1.0, "pruned": 0},
        {"acc": 0.89, "asr": 0.2, "pruned": 5},
        {"acc": 0.5, "asr": 0.0, "pruned": 9},
    ]
    assert by_oracle(points, 0.02)["pruned"] == 5


def test_held_out_rows_are_paired() -> None:
    rows = _held_out([0, 0.1]).rows()
    assert rows[0] == {"pruned": 0, "drop": 0.0, "low": 0.0, "high": 0.0}
    assert rows[1]["low"] < rows[1]["drop"] < rows[1]["high"]


def test_ladder_starts_at_nothing() -> None:
    assert ladder(2400)[0] == 0
    assert ladder(2400)[-1] == 600
    assert ladder(3).tolist() == [0, 1]
    steps = np.diff(ladder(2400))
    assert steps[0] == 1
    assert steps[-1] > steps[len(steps) // 2] > steps[0]


def test_cross_fitting_holds_every_image_out_once(planted: Planted, compute: Compute) -> None:
    seen: list[set[int]] = []

    class Spy(SCORES["rnp"]):  # type: ignore[misc]
        def run(self, model, evidence):  # type: ignore[no-untyped-def]
            seen.append(set(evidence.images.ids.tolist()))
            return super().run(model, evidence)

    score = Spy.build(RNP_SETTINGS)
    evidence = Evidence(planted.data.pool, 0, compute)
    scores, held_out = cross_fit(score, planted.model, evidence, folds=4, mode="scale", give_up=0.5)
    ids = set(planted.data.pool.ids.tolist())
    assert len(seen) == 4
    for image in ids:
        assert sum(image in part for part in seen) == 2
    assert int(scores.values.argmax()) == planted.unit
    assert held_out.correct.shape == (len(held_out.counts), len(ids))
    with pytest.raises(ValueError, match="expected at least 8 samples"):
        cross_fit(score, planted.model, Evidence(planted.data.pool[:3], 0, compute), 4, "scale", 0.5)


def test_a_score_of_all_images_is_judged_fold_by_fold(planted: Planted, compute: Compute) -> None:
    seen: list[tuple[set[int], bool]] = []

    class Spy(SCORES["activation"]):  # type: ignore[misc]
        whole: ClassVar[bool] = True

        def run(self, model, evidence):  # type: ignore[no-untyped-def]
            seen.append((set(evidence.images.ids.tolist()), evidence.values_only))
            return super().run(model, evidence)

    score = Spy.build()
    evidence = Evidence(planted.data.pool, 0, compute)
    scores, held_out = cross_fit(score, planted.model, evidence, folds=4, mode="scale", give_up=0.5)
    ids = set(planted.data.pool.ids.tolist())
    assert [values_only for _, values_only in seen] == [False, True, True, True, True]
    assert seen[0][0] == ids
    for image in ids:
        assert sum(image in part for part, _ in seen[1:]) == 3
    whole = SCORES["activation"].build()(planted.model, evidence).values
    torch.testing.assert_close(scores.values, whole, equal_nan=True)
    assert held_out.correct.shape == (len(held_out.counts), len(ids))


def test_one_bad_part_does_not_end_the_held_out_curve(planted: Planted, compute: Compute) -> None:
    # All images of the first class in one of four parts: a cut that ruins that class ruins the part, not the whole.
    pool = planted.data.pool
    order = torch.argsort(pool.y, stable=True)
    quarter = len(order) // 4
    mixed = torch.stack([order[part * quarter : (part + 1) * quarter] for part in range(4)]).T.flatten()
    evidence = Evidence(pool[mixed], 0, compute)
    score = SCORES["random"].build()
    _, patient = cross_fit(score, planted.model, evidence, folds=4, mode="scale", give_up=1.0)
    by_part = torch.stack([(patient.correct[0] & ~hits).view(-1, 4).float().mean(0) for hits in patient.correct])
    worst, pooled = by_part.max(1).values.numpy(), patient.drops
    limit = float(pooled.max()) + 0.01
    assert worst.max() > limit  # some part alone would have given up
    _, held_out = cross_fit(score, planted.model, evidence, folds=4, mode="scale", give_up=limit)
    assert len(held_out.counts) == len(patient.counts)


@pytest.mark.parametrize("mode", ["scale", "silence"])
def test_sweep_equals_brute_force(mode: str, planted: Planted, compute: Compute) -> None:
    values = SCORES["random"].build()(planted.model, Evidence(planted.data.pool, 3, compute)).values.numpy()
    test = TestSet.of(planted.data.test, planted.attack)
    counts = counts_for(values, 8)
    rows = sweep(planted.model, values, counts, test, mode, compute)  # type: ignore[arg-type]
    assert [row["pruned"] for row in rows] == counts
    for row in rows:
        # By hand: sort, zero the weights for good in a copy, count the answers.
        order = np.argsort(-values, kind="stable")[: row["pruned"]]
        cut = torch.zeros(len(values), dtype=torch.bool)
        cut[order.copy()] = True
        import copy

        model = copy.deepcopy(planted.model)
        apply_cut(model, cut, mode)  # type: ignore[arg-type]
        found = answers(model, test, compute)
        assert row["acc"] == found.acc.value
        assert found.asr is not None
        assert row["asr"] == found.asr.value
        assert row["asr_low"] <= row["asr"] <= row["asr_high"]


def test_cutting_the_planted_unit_removes_the_backdoor(planted: Planted, compute: Compute) -> None:
    test = TestSet.of(planted.data.test, planted.attack)
    cut = torch.zeros(
        len(SCORES["random"].build()(planted.model, Evidence(planted.data.pool, 0, compute)).values)
    ).bool()
    cut[planted.unit] = True
    before = answers(planted.model, test, compute)
    with masked(planted.model, cut):
        after = answers(planted.model, test, compute)
    assert before.asr is not None
    assert after.asr is not None
    assert before.asr.value > 0.9
    assert after.asr.value < 0.1
    assert after.acc.value > before.acc.value - 0.05


def test_the_ladder_goes_on_to_all_units_for_scores_of_one_layer() -> None:
    found = whole_ladder(256)
    assert found[-1] == 256
    assert set(ladder(256)) < set(found)
    assert (np.diff(found) > 0).all()
    assert np.diff(found).max() <= 256 / 16


def test_the_tolerance_ends_where_the_score_finds_nothing_left() -> None:
    held_out, values = _held_out([0, 0.01, 0.02, 0.05]), torch.linspace(0, 1, 100)
    scores, limited = Scores(values), Policy(tolerance=0.02, enough=True)
    assert by_policy(held_out, Policy(tolerance=0.02), scores) == by_policy(held_out, limited, scores) == 20
    scores = replace(scores, enough=0.9)
    assert by_policy(held_out, Policy(tolerance=0.02), scores) == 20
    assert by_policy(held_out, limited, scores) == 10
    assert by_policy(held_out, limited, replace(scores, enough=0.5)) == 20
    assert "enough" not in Policy().model_dump()
