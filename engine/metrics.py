"""ACC, ASR, RA and DER with their intervals: defined once.

``acc``: clean test accuracy over all classes. ``asr``: share of the triggered test images whose label the attack
changes that get the attacker's answer. ``ra``: share of the same images predicted as their true class. ``der`` =
[max(0, dASR) - max(0, dACC) + 1] / 2 (Zhu et al., FT-SAM, Eq. 7), d = before - after. ``success``, of attacks without
a trigger: share of the test images that the attacker chose which get the wanted answer. All fractions are 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from engine.attacks.base import Attack
from engine.compute import Compute
from engine.data.base import Images


@dataclass(frozen=True)
class Share:
    """A share of ``n`` trials with its 95 % Wilson interval, all in 0..1."""

    value: float
    n: int
    low: float
    high: float

    @classmethod
    def of(cls, hits: Tensor) -> Share:
        """From a bool vector (n,), n >= 1."""
        k, n = int(hits.sum()), len(hits)
        interval = binomtest(k, n).proportion_ci(0.95, method="wilson")
        return cls(k / n, n, float(interval.low), float(interval.high))


@dataclass(frozen=True)
class Answers:
    """What a model answered on a test set, image by image; ``None`` where there is no trigger.

    ``correct`` bool (N,) on clean images; ``fooled`` and ``robust`` bool (M,) on the triggered images whose label
    the attack changes: attacker's answer, and true class. ``hit`` bool (M,) instead for an attack without a trigger:
    the attacker's answer on the test images that it chose.
    """

    correct: Tensor
    fooled: Tensor | None = None
    robust: Tensor | None = None
    hit: Tensor | None = None

    @property
    def acc(self) -> Share:
        return Share.of(self.correct)

    @property
    def asr(self) -> Share | None:
        return None if self.fooled is None else Share.of(self.fooled)

    @property
    def ra(self) -> Share | None:
        return None if self.robust is None else Share.of(self.robust)

    @property
    def success(self) -> Share | None:
        return None if self.hit is None else Share.of(self.hit)


@dataclass(frozen=True)
class TestSet:
    """Clean images with their triggered copies made once: ``triggered`` float (M, C, H, W) or ``None``.

    ``measures`` as in :class:`Attack`; ``triggered`` are the chosen images as they are where it is ``targets``.
    """

    __test__ = False  # not a test case, whatever pytest thinks of the name

    clean: Images
    triggered: Tensor | None = None
    truth: Tensor | None = None
    wanted: Tensor | None = None
    measures: Literal["trigger", "targets"] = "trigger"

    @classmethod
    def of(cls, clean: Images, attack: Attack | None) -> TestSet:
        if attack is None:
            return cls(clean)
        if attack.measures == "targets":
            chosen = clean[torch.isin(clean.ids, attack.state["targets"])]
            return cls(clean, chosen.x.float() / 255, chosen.y, attack.label(chosen.y), "targets")
        changed = attack.changed(clean.y)
        truth = clean.y[changed]
        return cls(clean, attack.stamped(clean.x[changed]), truth, attack.label(truth))

    def head(self, n: int) -> TestSet:
        """The first ``n`` clean and the first ``n`` triggered images (test sets are shuffled as published).

        The images that an attack chose are few: all of them are kept.
        """
        if self.triggered is None or self.truth is None or self.wanted is None:
            return TestSet(self.clean[:n])
        m = n if self.measures == "trigger" else len(self.triggered)
        return TestSet(self.clean[:n], self.triggered[:m], self.truth[:m], self.wanted[:m], self.measures)


def answers(model: nn.Module, test: TestSet, compute: Compute) -> Answers:
    triggered = None if test.triggered is None else compute.logits(model, test.triggered)
    return judged(test, compute.logits(model, test.clean.x), triggered)


def judged(test: TestSet, clean: Tensor, triggered: Tensor | None) -> Answers:
    """Logits (N, classes) of the clean and (M, classes) of the triggered images as answers."""
    correct = clean.argmax(1) == test.clean.y
    if triggered is None or test.truth is None or test.wanted is None:
        return Answers(correct)
    said = triggered.argmax(1)
    if test.measures == "targets":
        return Answers(correct, hit=said == test.wanted)
    return Answers(correct, said == test.wanted, said == test.truth)


def confusion(truth: Tensor, said: Tensor, classes: int) -> Tensor:
    """How many images of each class (rows) got which answer (columns), int64 (classes, classes)."""
    return torch.bincount(truth.long() * classes + said.long(), minlength=classes * classes).view(classes, classes)


def der(before: Answers, after: Answers) -> float | None:
    """Defense effectiveness rating in [0, 1]; 0.5 is no change; ``None`` without a trigger."""
    if before.fooled is None or after.fooled is None:
        return None
    asr_drop = float(before.fooled.float().mean() - after.fooled.float().mean())
    acc_drop = float(before.correct.float().mean() - after.correct.float().mean())
    return (max(0.0, asr_drop) - max(0.0, acc_drop) + 1) / 2


def _resampled_drops(before: Tensor, after: Tensor, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Bootstrap draws (resamples,) of mean(before) - mean(after) over the same images, bool (N,) each.

    A pair's difference is -1, 0 or 1, so resampling images is resampling a trinomial: drawn as counts.
    """
    diff = before.int() - after.int()
    n = len(diff)
    drawn = rng.multinomial(n, np.array([int((diff == v).sum()) for v in (-1, 0, 1)]) / n, size=resamples)
    return np.asarray((drawn[:, 2] - drawn[:, 0]) / n)


def _middle(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def paired_interval(before: Tensor, after: Tensor, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of mean(before) - mean(after) over the same images, bool (N,) each."""
    return _middle(_resampled_drops(before, after, resamples, np.random.default_rng(seed)))


def der_interval(before: Answers, after: Answers, resamples: int = 2000, seed: int = 0) -> tuple[float, float] | None:
    """95 % paired bootstrap interval of the DER: clean and triggered images are resampled independently."""
    if before.fooled is None or after.fooled is None:
        return None
    rng = np.random.default_rng(seed)
    asr = _resampled_drops(before.fooled, after.fooled, resamples, rng)
    acc = _resampled_drops(before.correct, after.correct, resamples, rng)
    return _middle((np.maximum(0, asr) - np.maximum(0, acc) + 1) / 2)
