"""RNP's masks learned on the suspect led to the backdoor's label, on images changed towards it, and on the suspect."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from engine.compute import Compute
from engine.scores.base import Evidence
from engine.scores.rnp import RNP
from engine.scores.rnp_levels import Scaled
from tests.tiny import RNP_SETTINGS, Planted

SETTINGS = {
    "ground": "label",
    "against": "label",
    "stop_acc": 0.5,
    "lead_lr": 1e-3,
    "rounds": 2,
    "keep": 8.0,
    "later": 0.5,
    "reach_passes": 4,
    "temperature": 3.0,
    "augment": False,
}
SCORE = RNP.build({**RNP_SETTINGS, **SETTINGS})


@pytest.fixture
def given(planted: Planted, compute: Compute) -> Evidence:
    return Evidence(planted.data.pool, 0, compute)


@pytest.fixture
def label(planted: Planted) -> int:
    return int(planted.attack.label(torch.tensor([1]))[0])


def test_it_names_the_backdoors_label_and_its_unit(given: Evidence, label: int, planted: Planted) -> None:
    before = {key: value.clone() for key, value in planted.model.state_dict().items()}
    found = SCORE(planted.model, given)
    assert found.log["favourite"] == label
    assert int(found.values.argmax()) == planted.unit
    assert found.log["lead"][0]["share"] < SCORE.lead_to
    assert len(found.log["recover"]) == SCORE.rounds * SCORE.mask_passes
    assert len(found.log["perturb"]) == SCORE.reach_passes
    assert all(torch.equal(value, before[key]) for key, value in planted.model.state_dict().items())


def test_the_masks_free_the_led_model_and_keep_the_suspect(given: Evidence, planted: Planted) -> None:
    found = SCORE(planted.model, given)
    recovery = found.log["recover"]
    assert recovery[-1]["acc"] > recovery[0]["acc"]
    assert recovery[-1]["kept"] > 0.9
    # Without the suspect's own loss nothing holds back the masks of other units.
    alone = RNP.build(SCORE.model_dump(), keep=0.0)(planted.model, given)
    others = torch.arange(len(found.values)) != planted.unit
    assert float(alone.values[others].mean()) > float(found.values[others].mean())


def test_the_labels_own_images_are_kept_better_when_they_count_once_more(
    given: Evidence, label: int, planted: Planted, compute: Compute
) -> None:
    images = planted.data.pool[planted.data.pool.y == label]
    known = compute.logits(planted.model, images.x).log_softmax(1)

    def moved(score: RNP) -> float:
        own, values = Scaled(copy.deepcopy(planted.model).eval()), score(planted.model, given).values
        with torch.no_grad():
            own.scales.copy_(1 - values)
            answers = own(compute.images(images.x)).log_softmax(1)
        return float(F.kl_div(answers, known, reduction="batchmean", log_target=True))

    # Little else holds the suspect: the planted backdoor shares nothing with the label's own images.
    loose = RNP.build(SCORE.model_dump(), keep=0.1)
    assert moved(RNP.build(loose.model_dump(), own=20.0)) < 0.5 * moved(loose)


def test_the_label_is_the_one_that_the_fewest_cut_units_take_away(
    given: Evidence, label: int, planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = (label + 1) % len(planted.data.classes)
    monkeypatch.setattr(RNP, "favourite", lambda *_: other)
    settings = {**SCORE.model_dump(), "lead_lr": 1e-2, "reach": 0.2}
    assert RNP.build(settings)(planted.model, given).log["favourite"] == other
    found = RNP.build(settings, rival=0.5)(planted.model, given)
    assert found.log["favourite"] == label
    assert int(found.values.argmax()) == planted.unit
    tried = {one["label"]: one["units"] for one in found.log["rivals"]}
    assert next(iter(tried)) == other  # first the one that the unlearned model favours
    assert tried[label] is not None
    assert tried[other] is None or tried[label] < tried[other]
    assert found.enough is not None
    # A favourite that is half of all answers stands, and has no rivals.
    monkeypatch.setattr("engine.scores.rnp.CLEAR", 0.0)
    clear = RNP.build(settings, rival=0.5)(planted.model, given).log
    assert clear["favourite"] == other
    assert "rivals" not in clear
    # Later scores of the same model are told the label and try no others.
    told = replace(given, values_only=True, favourite=label)
    assert "rivals" not in RNP.build(settings, rival=0.5)(planted.model, told).log


def test_the_model_is_led_to_any_label_with_its_normalisation_as_it_was(
    given: Evidence, label: int, planted: Planted, compute: Compute
) -> None:
    other = (label + 1) % len(planted.data.classes)
    led, log = RNP.build(SCORE.model_dump(), lead_lr=1e-2).lead(planted.model, given, other)
    said = compute.logits(led, given.images.x[given.images.y != other]).argmax(1)
    assert float((said == other).float().mean()) >= SCORE.lead_to
    assert log[-1]["loss"] < log[0]["loss"]
    before = dict(planted.model.named_buffers())
    assert all(torch.equal(value, before[key]) for key, value in led.named_buffers())


def test_a_change_of_all_images_stays_within_reach_and_calls_up_the_label_until_the_masks_close_its_way(
    given: Evidence, label: int, planted: Planted
) -> None:
    score = RNP.build(SCORE.model_dump(), reach=0.2)
    own = Scaled(copy.deepcopy(planted.model))
    change, log = score.perturb(own, given, label)
    assert change.shape == (1, *given.images.x.shape[1:])
    assert float(change.square().mean().sqrt()) <= score.reach * 1.001
    assert log[-1]["share"] > log[0]["share"]
    assert own.scales.requires_grad
    with torch.no_grad():
        own.scales[planted.unit] = 0
    assert score.perturb(own, given, label)[1][-1]["loss"] > log[-1]["loss"]
    again = score.perturb(Scaled(copy.deepcopy(planted.model)), given, label)[0]
    assert torch.equal(again, change)


def test_it_is_enough_to_cut_until_the_change_no_longer_calls_up_the_label(given: Evidence, planted: Planted) -> None:
    score = RNP.build(SCORE.model_dump(), reach=0.2)
    found = score(planted.model, given)
    left = found.log["called"]
    assert [row["pruned"] for row in left] == sorted({row["pruned"] for row in left})
    assert left[0]["share"] > score.called >= left[-1]["share"]
    assert found.enough is not None
    assert int((found.values >= found.enough).sum()) == left[-1]["pruned"]
    assert found.values[planted.unit] >= found.enough
    # What nothing calls up in the first place says nothing of how much is enough.
    assert RNP.build(score.model_dump(), called=1.0)(planted.model, given).enough is None
    assert score(planted.model, replace(given, values_only=True)).enough is None


def test_images_that_stay_as_they_are_go_through_the_first_stages_once(
    given: Evidence, label: int, planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    remembered = SCORE(planted.model, given).values
    monkeypatch.setattr("engine.scores.rnp._Seen.remember", lambda *_: None)
    torch.testing.assert_close(SCORE(planted.model, given).values, remembered, rtol=0, atol=0.02)


def test_moved_images_are_looked_at_anew_in_every_pass(given: Evidence, planted: Planted) -> None:
    moved = RNP.build(SCORE.model_dump(), augment=True)(planted.model, given)
    assert moved.log["recover"][-1]["loss"] < moved.log["recover"][0]["loss"]
    assert not torch.equal(moved.values, SCORE(planted.model, given).values)
    assert 0 <= float(moved.values.min()) <= float(moved.values.max()) <= 1


def test_whoever_knows_the_label_and_wants_only_values_does_not_unlearn(given: Evidence, planted: Planted) -> None:
    whole = SCORE(planted.model, given)
    short = SCORE(planted.model, replace(given, values_only=True, favourite=whole.log["favourite"]))
    assert torch.equal(short.values, whole.values)
    assert "unlearn" not in short.log
    assert short.unlearned is None
    assert whole.unlearned is not None


def test_the_label_alone_leads_nowhere(given: Evidence, label: int, planted: Planted) -> None:
    images = planted.data.pool[planted.data.pool.y == label]
    with pytest.raises(ValueError, match="expected images of other classes"):
        SCORE.lead(planted.model, replace(given, images=images), label)


def test_only_filters_are_masked_on_a_label() -> None:
    with pytest.raises(ValueError, match="expected recover_level filter with the ground label, got neuron"):
        RNP.build(ground="label", recover_level="neuron")


def test_the_published_record_is_as_it_was() -> None:
    new = {"ground", "keep", "own", "lead_lr", "lead_passes", "lead_to", "rounds", "later", "reach", "reach_passes"}
    assert not (new | {"called", "rival"}) & RNP.build({}).model_dump().keys()
