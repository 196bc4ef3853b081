"""Attacks that train something, as whole runs: what is stored is what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.compute import Compute
from engine.metrics import TestSet, answers
from engine.runs.store import Run
from engine.suspects import AttackRun, ModelSpec, load_suspect, make_attack, run_attack
from engine.train import Training
from tests import tiny

EXACT = Compute("cpu", exact=True)
FEW = Training(epochs=1, batch=100)


def run(shapes: str, out: Path, name: str | None, twin: Run | None = None) -> Run:
    params = make_attack(name, tiny.ATTACK_SETTINGS.get(name, {})).model_dump(mode="json") if name else {}
    attack = {"name": name, "params": params} if name else None
    model = ModelSpec(name="resnet18", width=4)
    return run_attack(AttackRun(data=shapes, model=model, attack=attack, training=FEW), EXACT, out, twin)


@pytest.mark.parametrize("name", ["dynamic", "lira", "wanet", "awp"])
def test_a_stored_suspect_answers_as_it_was_measured(
    name: str, shapes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path / "home"))
    twin = run(shapes, tmp_path / "clean", None) if name == "awp" else None
    made = run(shapes, tmp_path / "run", name, twin)
    assert made.verify()
    assert made.result["poisoned"] >= 1
    suspect = load_suspect(str(made.folder), EXACT)
    assert suspect.attack is not None
    assert bool(suspect.attack.state) == suspect.attack.learned == made.has("trigger.safetensors")
    found = answers(suspect.model, TestSet.of(suspect.data.test, suspect.attack), EXACT)
    recorded = suspect.answers(EXACT)
    assert torch.equal(found.correct, recorded.correct)
    assert found.fooled is not None
    assert recorded.fooled is not None
    assert torch.equal(found.fooled, recorded.fooled)
    assert found.acc.value == made.result["acc"]
