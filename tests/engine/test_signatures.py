"""Each sign of a failed defense shows where it should and nowhere else, and says whether it took the trigger."""

from __future__ import annotations

from typing import Any

import pytest

from app.state import redact
from engine.signatures import warnings_of

SPEC = {"policy": {"name": "tolerance", "tolerance": 0.018}}
#: A cut that did its work.
GOOD: dict[str, Any] = {
    "policy": "tolerance", "repair": None, "pruned": 120, "units": 2400, "acc_before": 0.93, "acc_after": 0.92,
    "asr_before": 0.99, "asr_after": 0.03, "log": {"forgot": True, "label": {"class": 1, "share": 0.7}},
    "heldout": [{"pruned": 0, "drop": 0.0}, {"pruned": 120, "drop": 0.01}, {"pruned": 150, "drop": 0.06}],
}  # fmt: skip
#: Fine-tuning that did its work.
TUNED: dict[str, Any] = {
    "policy": None, "repair": "fine_tuning", "pruned": 0, "units": 2400, "acc_before": 0.93, "acc_after": 0.92,
    "asr_after": 0.03, "log": {"repair": {}}, "heldout": [],
}  # fmt: skip


def codes(result: dict[str, Any]) -> list[tuple[str, bool]]:
    return [(sign["code"], sign["oracle"]) for sign in warnings_of(SPEC, result)]


@pytest.mark.parametrize(
    ("result", "code", "oracle"),
    [
        ({**GOOD, "acc_after": 0.86}, "over-cut", False),
        ({**GOOD, "acc_after": 0.895}, "over-cut", False),  # within five points, but not what was judged
        ({**GOOD, "pruned": 600, "heldout": []}, "over-cut", False),
        ({**GOOD, "pruned": 0}, "under-cut", False),
        ({**GOOD, "heldout": [{"pruned": 0, "drop": 0.0}, {"pruned": 600, "drop": 0.0}]}, "under-cut", False),
        ({**GOOD, "asr_after": 0.62}, "under-cut", True),
        ({**GOOD, "asr_after": None, "success_after": 0.6}, "under-cut", True),
        ({**GOOD, "log": {"forgot": False, "unlearn": [{"acc": 0.8}]}}, "still-accurate", False),
        ({**GOOD, "log": {"forgot": True, "label": {"class": 1, "share": 0.2}}}, "no-shared-label", False),
        ({**TUNED, "acc_after": 0.8}, "lost-accuracy", False),
        ({**TUNED, "asr_after": 0.62}, "backdoor-left", True),
        ({**TUNED, "log": {"repair": {"forgot": False}}}, "still-accurate", False),
    ],
)
def test_a_failure_shows_its_sign_and_no_other(result: dict[str, Any], code: str, oracle: bool) -> None:
    assert codes(result) == [(code, oracle)]


@pytest.mark.parametrize("result", [GOOD, TUNED, {}, {"acc_before": 0.9}, {"log": None, "heldout": None}])
def test_a_good_or_an_old_record_raises_none(result: dict[str, Any]) -> None:
    assert codes(result) == []


@pytest.mark.parametrize(("share", "says"), [(0.28, "name no class"), (0.42, "leave it open which class")])
def test_labels_that_were_tried_are_told_with_what_each_takes(share: float, says: str) -> None:
    tried = [{"label": 6, "units": None}, {"label": 0, "units": 1330}]
    log = {"label": {"class": 6, "share": share}, "favourite": 0, "rivals": tried}
    (sign,) = warnings_of(SPEC, {**GOOD, "log": log})
    assert says in sign["text"]
    assert sign["text"].endswith(
        "So several were tried: class 6 goes with no cut, 0 goes with 1,330 units; the masks are against 0."
    )


def test_of_a_sweep_the_chosen_cut_is_judged() -> None:
    chosen = {"policy": "tolerance", "pruned": 120, "acc": 0.8, "asr": 0.9}
    swept = {"points": [{"pruned": 0, "acc": 0.93, "asr": 0.99}], "chosen": chosen, "units": 2400, "heldout": []}
    assert codes(swept) == [("over-cut", False), ("under-cut", True)]


def test_redaction_leaves_those_that_a_defender_could_see() -> None:
    bad = {**GOOD, "acc_after": 0.8, "asr_after": 0.737373}
    whole = redact({"warnings": warnings_of(SPEC, bad)}, False)["warnings"]
    assert whole == warnings_of(SPEC, redact(bad, False))
    assert [sign["code"] for sign in whole] == ["over-cut"]
    assert "73.7" not in str(whole)
    assert "73.7" in str(warnings_of(SPEC, bad))
