"""The table of defenses: what its rows stand for, and when they are measured anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.defenses import DEFENSES
from engine.demos import open_suspect
from tests.benchmarks import defenses
from tests.benchmarks.defenses import Key


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(defenses, "TABLE", tmp_path / "defenses.json")
    return tmp_path / "defenses.json"


def done(key: Key) -> dict[str, object]:
    return {
        **defenses.blank(key), "state": "done", "oracle": False, "of": open_suspect(f"demo:{key.attack}").id,
        "holds": defenses.holds(key), "acc_drop": 0.015, "acc_drop_interval": [0.01, 0.02], "asr_after": 0.055,
        "ra_after": 0.868, "intervals_after": {"asr": [0.05, 0.06]}, "pruned": 120, "seconds": 90.0,
    }  # fmt: skip


def test_every_defense_meets_the_first_demos_and_is_published_on_badnets() -> None:
    first = {key for key in defenses.wanted() if (key.samples, key.seed) == (500, 0)}
    for name in DEFENSES:
        assert {key.attack for key in first if key.defense == name} >= set(defenses.FIRST)
        assert any(key.attack == "badnets" and key.preset == "published" for key in first if key.defense == name)
    for name in defenses.MAIN:
        assert {key.attack for key in first if key.defense == name} == set(defenses.TWELVE)


def test_a_preset_that_changed_makes_its_rows_anew(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rnp, clp = Key("badnets", "rnp", 500, 0, "small"), Key("badnets", "clp", 500, 0, "published")
    defenses.write({key: done(key) for key in (rnp, clp)})
    assert {key for key, row in defenses.read().items() if row["state"] == "done"} == {rnp, clp}
    monkeypatch.setitem(DEFENSES["rnp"].presets, "small", {"mask_lr": 0.3})
    assert {key for key, row in defenses.read().items() if row["state"] == "done"} == {clp}


def test_the_readmes_tables() -> None:
    key, sig = (Key(name, "rnp", 500, 0, "small") for name in ("badnets", "sig"))
    fc = Key("fc", "grad_prune", 500, 0, "small")
    refused = defenses.row(fc, {"state": "failed", "reason": "expected a trigger, got none"})
    printed = defenses.markdown({key: done(key), sig: done(sig), fc: refused})
    assert "| Feature Collision | pending | pending | not possible | pending |" in printed
    assert "| BadNets | 1.5 / 5.5 % [5.0, 6.0] | pending | pending | pending |" in printed
    of_badnets = "| Reconstructive Neuron Pruning, small | 1.5 [1.0, 2.0] | 5.5 % [5.0, 6.0] | 86.8 % | 120 | 90 |"
    assert f"{of_badnets} pending | 1.5 / 5.5 % [5.0, 6.0] |" in printed
    assert "| Reconstructive Neuron Pruning | 2.5 / 1.1 % | 1.5 / 5.5 % |  |  |  |  |" in printed


def test_seeds_are_told_by_median_and_highest() -> None:
    keys = [Key("badnets", "rnp", 500, seed, "small") for seed in (0, 1, 2)]
    rows = {key: {**done(key), "asr_after": asr} for key, asr in zip(keys, (0.05, 0.01, 0.3), strict=True)}
    assert defenses.over_seeds(rows, "badnets", "rnp") == "1.5 (to 1.5) / 5.0 % (to 30.0)"
    del rows[keys[2]]
    assert defenses.over_seeds(rows, "badnets", "rnp") == "pending"
    fc = Key("fc", "grad_prune", 500, 0, "small")
    assert defenses.over_seeds({fc: {**defenses.blank(fc), "state": "failed"}}, "fc", "grad_prune") == "not possible"
