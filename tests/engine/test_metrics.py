"""ACC, ASR, RA and DER on a model whose every answer is written down."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from engine.attacks.base import Attack
from engine.compute import Compute
from engine.data.base import Images
from engine.metrics import Answers, Share, TestSet, answers, der, der_interval, paired_interval

CLASSES = 4
EXACT = Compute("cpu", exact=True)


class Flag(Attack):
    """Lights the second pixel."""

    paper: ClassVar[str] = ""

    def trigger(self, x: Tensor) -> Tensor:
        x = x.clone()
        x[..., 1] = 1
        return x


class Scripted(nn.Module):
    """Answers ``clean[k]`` to picture number k, or ``triggered[k]`` where the second pixel is lit."""

    def __init__(self, clean: list[int], triggered: list[int]) -> None:
        super().__init__()
        self.script = torch.tensor([clean, triggered])

    def forward(self, x: Tensor) -> Tensor:
        number, lit = (x[:, 0, 0, 0] * 255).round().long(), (x[:, 0, 0, 1] > 0.5).long()
        return nn.functional.one_hot(self.script[lit, number], CLASSES).float()


def numbered(labels: list[int]) -> Images:
    """One-row pictures of two pixels: the picture's number, and dark."""
    x = torch.zeros(len(labels), 1, 1, 2, dtype=torch.uint8)
    x[:, 0, 0, 0] = torch.arange(len(labels))
    return Images.of(x, torch.tensor(labels))


def test_known_answers() -> None:
    truth = [0, 0, 1, 1, 2, 2, 3, 3]
    clean = [0, 1, 1, 1, 2, 2, 3, 0]  # 6 of 8 right
    triggered = [0, 0, 0, 0, 0, 2, 1, 3]  # target 0; of the six others: 3 fooled, 2 robust, 1 neither
    result = answers(Scripted(clean, triggered), TestSet.of(numbered(truth), Flag(target=0)), EXACT)
    assert result.acc.value == 6 / 8
    assert result.acc.n == 8
    assert result.asr is not None
    assert result.ra is not None
    assert (result.asr.value, result.asr.n) == (3 / 6, 6)
    assert (result.ra.value, result.ra.n) == (2 / 6, 6)


def test_asr_leaves_out_images_of_the_target_class() -> None:
    truth = [0, 0, 0, 1]
    always_zero = Scripted([0] * 4, [0] * 4)
    result = answers(always_zero, TestSet.of(numbered(truth), Flag(target=0)), EXACT)
    assert result.asr is not None
    assert (result.asr.value, result.asr.n) == (1.0, 1)
    assert result.acc.value == 3 / 4


def test_without_a_trigger_there_is_no_asr() -> None:
    result = answers(Scripted([0, 1], [0, 1]), TestSet.of(numbered([0, 1]), None), EXACT)
    assert result.acc.value == 1
    assert result.asr is None
    assert result.ra is None
    assert der(result, result) is None
    assert der_interval(result, result) is None


def test_triggered_copies_are_those_of_the_changed_images() -> None:
    test = TestSet.of(numbered([0, 1, 2, 0]), Flag(target=0))
    assert test.triggered is not None
    assert test.triggered.shape == (2, 1, 1, 2)
    assert (test.triggered[:, 0, 0, 0] * 255).round().tolist() == [1, 2]
    assert test.triggered[:, 0, 0, 1].tolist() == [1, 1]
    assert test.truth is not None
    assert test.wanted is not None
    assert test.truth.tolist() == [1, 2]
    assert test.wanted.tolist() == [0, 0]
    assert len(test.head(1).clean) == 1
    assert len(TestSet.of(numbered([0, 1, 2]), None).head(2).clean) == 2


@settings(max_examples=60)
@given(st.data())
def test_an_answer_is_either_the_attackers_or_the_true_one(data: st.DataObject) -> None:
    label = st.integers(0, CLASSES - 1)
    target = data.draw(label)
    # At least one image whose label the attack changes: without one nothing can be measured.
    truth = [(target + 1) % CLASSES, *data.draw(st.lists(label, max_size=20))]
    said = data.draw(st.lists(label, min_size=len(truth), max_size=len(truth)))
    result = answers(Scripted(said, said), TestSet.of(numbered(truth), Flag(target=target)), EXACT)
    assert result.asr is not None
    assert result.ra is not None
    assert result.asr.value + result.ra.value <= 1 + 1e-12
    for share in (result.acc, result.asr, result.ra):
        assert 0 <= share.low <= share.value <= share.high <= 1


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    # Newcombe, "Two-sided confidence intervals for the single proportion" (1998), table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_against_published_values(k: int, n: int, low: float, high: float) -> None:
    share = Share.of(torch.arange(n) < k)
    assert share.value == k / n
    assert share.n == n
    assert share.low == pytest.approx(low, abs=5e-5)
    assert share.high == pytest.approx(high, abs=5e-5)


@settings(max_examples=50)
@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_against_its_formula(pair: tuple[int, int]) -> None:
    k, n = pair
    z, p = 1.959963984540054, k / n
    centre, half = (p + z * z / (2 * n)) / (1 + z * z / n), z / (1 + z * z / n)
    half *= math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    share = Share.of(torch.arange(n) < k)
    assert share.low == pytest.approx(max(0, centre - half), abs=1e-9)
    assert share.high == pytest.approx(min(1, centre + half), abs=1e-9)


def first(k: int, n: int = 100) -> Tensor:
    return torch.arange(n) < k


def measured(acc: int, asr: int) -> Answers:
    return Answers(first(acc), first(asr), ~first(asr))


@pytest.mark.parametrize(
    ("before", "after", "golden"),
    [
        ((90, 100), (90, 100), 0.5),  # nothing happened
        ((90, 100), (90, 0), 1.0),  # a perfect repair
        ((90, 100), (85, 10), 0.925),
        ((90, 100), (10, 100), 0.1),  # accuracy lost for nothing
        ((90, 50), (95, 60), 0.5),  # gains count as nothing on either side
        ((100, 0), (0, 0), 0.0),
    ],
)
def test_der_golden_values(before: tuple[int, int], after: tuple[int, int], golden: float) -> None:
    assert der(measured(*before), measured(*after)) == pytest.approx(golden, abs=1e-6)


def test_der_interval_holds_the_der_and_shrinks_to_a_point() -> None:
    before, after = measured(90, 100), measured(85, 10)
    interval = der_interval(before, after)
    assert interval is not None
    low, high = interval
    assert low < 0.925 < high
    assert high - low < 0.1
    assert der_interval(before, before) == (0.5, 0.5)
    assert der_interval(before, after) == interval


def brute_force(before: Tensor, after: Tensor, resamples: int) -> tuple[float, float]:
    """The slow reference: resample images with replacement and take the quantiles."""
    rng, diff = np.random.default_rng(7), (before.int() - after.int()).numpy()
    means = diff[rng.integers(0, len(diff), (resamples, len(diff)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


@pytest.mark.parametrize("shares", [(0.9, 0.88), (0.99, 0.05), (0.5, 0.5)])
def test_paired_interval_equals_the_bootstrap_of_images(shares: tuple[float, float]) -> None:
    rng = torch.Generator().manual_seed(3)
    before, after = (torch.rand(400, generator=rng) < share for share in shares)
    fast, slow = paired_interval(before, after, resamples=20_000), brute_force(before, after, 20_000)
    # Means of 400 pairs are multiples of 1/400.
    assert fast == pytest.approx(slow, abs=2.1 / 400)


def test_paired_interval_is_a_difference_of_the_same_images() -> None:
    before = first(50)
    assert paired_interval(before, before) == (0.0, 0.0)
    assert paired_interval(first(100), first(0)) == (1.0, 1.0)
    assert paired_interval(first(0), first(100)) == (-1.0, -1.0)
    low, high = paired_interval(first(90), first(80))
    assert low < 0.1 < high
    # Unpaired, the same two shares would be told apart far less well.
    shuffled = first(80)[torch.randperm(100, generator=torch.Generator().manual_seed(0))]
    wide = paired_interval(first(90), shuffled)
    assert wide[1] - wide[0] > high - low


def test_paired_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = torch.Generator().manual_seed(11)
    covered = 0
    for _ in range(200):
        before = torch.rand(300, generator=rng) < 0.9
        after = before & (torch.rand(300, generator=rng) < 0.95)
        low, high = paired_interval(before, after, resamples=500)
        covered += low <= 0.9 * 0.05 <= high
    assert 0.90 <= covered / 200 <= 0.99
