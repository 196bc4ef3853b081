"""SEAM: it forgets below guessing, because no image keeps its label, and stops each phase at its accuracy."""

from __future__ import annotations

from engine.compute import Compute
from engine.repairs import REPAIRS, Repaired
from engine.scores import Evidence
from tests.tiny import Planted


def repaired(planted: Planted, compute: Compute, **settings: float) -> Repaired:
    few = {"lr": 0.01, "batch": 50, "augment": False}
    return REPAIRS["seam"].build(few, **settings)(planted.model, Evidence(planted.data.pool, 0, compute))


def test_each_phase_ends_at_its_accuracy(planted: Planted, compute: Compute) -> None:
    log = repaired(planted, compute).log
    assert log["forgot"]
    forget, recover = ([row["acc"] for row in log[key]] for key in ("forget", "tune"))
    assert forget[-1] <= 0.5 < min(forget[:-1])  # twice the guess among four classes
    assert recover[-1] >= 0.97
    assert all(acc < 0.97 for acc in recover[:-1])
    assert len(recover) < 100


def test_no_image_is_taught_its_own_label(planted: Planted, compute: Compute) -> None:
    """Labels drawn among all classes would leave a quarter of the answers right."""
    log = repaired(planted, compute, forget_acc=0.05, forget_epochs=12).log
    assert log["forget"][-1]["acc"] <= 0.1


def test_what_was_not_forgotten_is_said(planted: Planted, compute: Compute) -> None:
    assert not repaired(planted, compute, forget_epochs=1, lr=1e-5).log["forgot"]
