"""Every score ranks the planted unit first, keeps the model as it was, and says whether it is an oracle."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.compute import Compute
from engine.models.neurons import units
from engine.scores import SCORES, Evidence
from tests.tiny import RNP_SETTINGS, Planted

SETTINGS: dict[str, dict[str, Any]] = {
    "rnp": RNP_SETTINGS,
    "activation": {"scope": "all"},
    # The published size and rate are for ResNets: here they clamp every second mask to 0, and they tie.
    "anp": {"epsilon": 0.2, "iterations": 40, "mask_lr": 0.05, "batch": 50, "augment": False},
    "nwc": {"stop_acc": 0.3, "batch": 50},  # of four classes, the one that is answered in the end is right on a quarter
}
#: Scores that do not look for the planted unit, and why; what they do find is in ``scores/``.
ELSEWHERE = {
    "random": "a control",
    "weight_magnitude": "a control: the planted filter is as long as its neighbours",
    "bnp": "what a trained normalisation remembers was not made by poisoned images here, but by the clean ones",
}


def evidence(planted: Planted, compute: Compute, trigger: bool = True) -> Evidence:
    return Evidence(planted.data.pool, 0, compute, planted.attack if trigger else None, trigger)


@pytest.mark.parametrize("name", [name for name in SCORES if name not in ELSEWHERE])
def test_planted_unit_comes_first(name: str, planted: Planted, compute: Compute) -> None:
    score = SCORES[name].build(SETTINGS.get(name))
    before = copy.deepcopy(planted.model.state_dict())
    scores = score(planted.model, evidence(planted, compute, "trigger" in score.needs))
    assert int(np.nanargmax(scores.values)) == planted.unit
    assert scores.oracle == ("trigger" in score.needs)
    assert all(torch.equal(value, before[key]) for key, value in planted.model.state_dict().items())
    assert not any(p.grad is not None for p in planted.model.parameters())


@pytest.mark.parametrize("name", list(SCORES))
def test_same_seed_same_scores(name: str, planted: Planted, compute: Compute) -> None:
    score = SCORES[name].build(SETTINGS.get(name))
    first, second = (score(planted.model, evidence(planted, compute)).values for _ in range(2))
    assert torch.equal(first.nan_to_num(-1), second.nan_to_num(-1))


@pytest.mark.parametrize("name", [name for name, score in SCORES.items() if "trigger" in score.needs])
def test_missing_trigger_is_refused(name: str, planted: Planted, compute: Compute) -> None:
    with pytest.raises(ValueError, match="^expected a trigger for .*, got none; choose --trigger true"):
        SCORES[name].build()(planted.model, evidence(planted, compute, trigger=False))


def test_activation_scope_leaves_other_layers_out(planted: Planted, compute: Compute) -> None:
    values = SCORES["activation"].build()(planted.model, evidence(planted, compute)).values
    assert values.isnan().any()
    assert not values.isnan().all()


def test_rnp_gives_skipped_layers_no_score(planted: Planted, compute: Compute) -> None:
    table = units(planted.model)
    score = SCORES["rnp"].build(RNP_SETTINGS, skip=0.5)
    first = table.layers[len(table.layers) // 2].offset
    values = score(planted.model, evidence(planted, compute, trigger=False)).values
    assert values[:first].isnan().all()
    assert not values[first:].isnan().any()


def test_temperature_one_is_the_published_unlearning(planted: Planted, compute: Compute) -> None:
    def unlearned(**settings: float) -> Tensor:
        score = SCORES["rnp"].build(RNP_SETTINGS, **settings)
        state = score(planted.model, evidence(planted, compute, trigger=False)).unlearned
        assert state is not None
        return torch.cat([value.flatten() for value in state.values() if value.is_floating_point()])

    assert torch.equal(unlearned(temperature=1.0), unlearned())
    assert not torch.equal(unlearned(temperature=3.0), unlearned())


def test_rnp_for_its_values_only_makes_the_same_values(planted: Planted, compute: Compute) -> None:
    score = SCORES["rnp"].build(RNP_SETTINGS, recover_acc=0.9)
    whole = evidence(planted, compute, trigger=False)
    both = [score(planted.model, given) for given in (whole, dataclasses.replace(whole, values_only=True))]
    assert torch.equal(both[0].values, both[1].values)
    assert len(both[1].log["unlearn"]) < len(both[0].log["unlearn"])


def test_rnp_unlearns_until_it_has_forgotten(planted: Planted, compute: Compute) -> None:
    scores = SCORES["rnp"].build(RNP_SETTINGS)(planted.model, evidence(planted, compute, trigger=False))
    assert scores.unlearned is not None
    log = scores.log["unlearn"]
    assert log[-1]["loss"] > log[0]["loss"]
    assert scores.log["forgot"] == (log[-1]["acc"] <= SCORES["rnp"].build(RNP_SETTINGS).model_dump()["stop_acc"])
    assert float(scores.values.min()) >= 0
    assert float(scores.values.max()) <= 1
