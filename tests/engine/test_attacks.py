"""Triggers pixel by pixel; what poisoning changes, and what it leaves alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from engine.attacks import ATTACKS, Attack, Lab
from engine.attacks.badnets import BadNets
from engine.attacks.base import CLEAN, COVER
from engine.attacks.blend import Blend
from engine.attacks.drawing import cat
from engine.attacks.sig import SIG
from engine.compute import Compute, generator
from engine.data.base import DataSet, Images
from engine.models.base import Classifier
from tests import tiny


def pictures(n: int = 3, channels: int = 1, side: int = 12) -> Tensor:
    return torch.rand(n, channels, side, side, generator=generator(0, "pictures"))


# Golden pixels.


def test_badnets_pixels() -> None:
    x = torch.full((1, 1, 5, 5), 0.25)
    q = 0.25
    assert BadNets(size=3, margin=1).trigger(x)[0, 0].tolist() == [
        [q, q, q, q, q],
        [q, 1, 0, 1, q],
        [q, 0, 1, 0, q],
        [q, 1, 0, 1, q],
        [q, q, q, q, q],
    ]
    assert BadNets(size=2, margin=0).trigger(x)[0, 0, 3:, 3:].tolist() == [[1, 0], [0, 1]]


def test_badnets_stamps_all_colours_alike() -> None:
    x = BadNets(size=3, margin=1).trigger(torch.zeros(2, 3, 5, 5))
    assert torch.equal(x[:, 0], x[:, 1])
    assert torch.equal(x[:, 0], x[:, 2])


def test_badnets_refuses_a_patch_that_does_not_fit() -> None:
    BadNets(size=4, margin=1).trigger(torch.zeros(1, 1, 5, 9))
    with pytest.raises(ValueError, match=r"^expected size \+ margin of at most 5 pixels, got 6$"):
        BadNets(size=4, margin=2).trigger(torch.zeros(1, 1, 5, 9))


def test_blend_pixels() -> None:
    grey = torch.full((1, 1, 2, 2), 0.5)
    pattern = torch.tensor([0.4963, 0.7682, 0.0885, 0.1320])  # torch's uniform numbers for seed 0
    mixed = Blend(alpha=0.2).trigger(grey).flatten()
    assert mixed.tolist() == pytest.approx((0.4 + 0.2 * pattern).tolist(), abs=2e-5)
    assert Blend(alpha=1.0).trigger(grey).flatten().tolist() == pytest.approx(pattern.tolist(), abs=1e-4)
    assert not torch.equal(Blend(pattern_seed=1).trigger(grey), Blend(pattern_seed=2).trigger(grey))


def test_blend_lays_the_same_picture_over_every_image() -> None:
    x = pictures(2)
    added = Blend(alpha=0.5).trigger(x) - 0.5 * x
    assert torch.allclose(added[0], added[1], atol=1e-6)


def test_sig_pixels() -> None:
    step = 40 / 255
    x = torch.full((1, 1, 2, 4), 0.5)
    wave = SIG(delta=40, frequency=1).trigger(x)[0, 0]
    assert wave[0].tolist() == pytest.approx([0.5, 0.5 + step, 0.5, 0.5 - step], abs=1e-6)
    assert torch.equal(wave[0], wave[1])
    # Clipped at both ends.
    assert SIG(delta=40, frequency=1).trigger(torch.zeros(1, 1, 1, 4)).flatten().tolist() == pytest.approx(
        [0, step, 0, 0], abs=1e-6
    )
    assert float(SIG(delta=40, frequency=1).trigger(torch.ones(1, 1, 1, 4)).max()) == 1.0


def test_sig_has_as_many_waves_as_it_says() -> None:
    row = SIG(delta=100, frequency=6).trigger(torch.full((1, 1, 1, 28), 0.5))[0, 0, 0] - 0.5
    expected = [100 / 255 * math.sin(2 * math.pi * 6 * j / 28) for j in range(28)]
    assert row.tolist() == pytest.approx(expected, abs=1e-5)


# What every attack promises. The table of all attacks; each is made ready on the tiny pictures.


@pytest.fixture(scope="module")
def attack(request: pytest.FixtureRequest, tiny_data: DataSet, clean_tiny: Classifier) -> Attack:
    return tiny.ready(request.param, tiny_data, clean_tiny)


@pytest.fixture(scope="module")
def lab(tiny_data: DataSet, clean_tiny: Classifier) -> Lab:
    return Lab(tiny_data.train, 4, Compute("cpu", exact=True), clean=clean_tiny, targets=tiny_data.test)


every = pytest.mark.parametrize("attack", list(ATTACKS), indirect=True)


@every
def test_triggers_keep_shape_range_and_their_input(attack: Attack) -> None:
    # A learned trigger is for the pictures that it was learned on.
    for channels in (1,) if attack.learned else (1, 3):
        x = pictures(4, channels)
        x[0], x[1] = 0, 1
        before = x.clone()
        with torch.no_grad():
            stamped = attack.trigger(x)
        assert stamped.shape == x.shape
        assert stamped.dtype == x.dtype
        assert torch.equal(x, before)
        assert float(stamped.min()) >= 0
        assert float(stamped.max()) <= 1
        # Attacks on chosen images have no trigger.
        assert torch.equal(stamped, x) == (attack.measures == "targets")
        # Nothing about the trigger depends on the rest of the batch, or on chance.
        again = attack.stamped(x[2:3])
        assert torch.allclose(again, stamped[2:3], atol=1e-6)
        copy = type(attack)(**attack.model_dump()).bound(4, attack.state)
        assert torch.equal(copy.stamped(x), attack.stamped(x))


@every
def test_label_rule(attack: Attack) -> None:
    y = torch.tensor([0, 1, 2, 0])
    assert attack.label(y).tolist() == [0, 0, 0, 0]
    assert attack.changed(y).tolist() == [False, True, True, False]


@every
def test_a_target_that_is_no_class_is_refused(attack: Attack) -> None:
    attack.model_copy(update={"target": 3}).check(4)
    with pytest.raises(ValueError, match=r"^expected target between 0 and 3, got 4$"):
        attack.model_copy(update={"target": 4}).check(4)
    with pytest.raises(ValueError, match="target"):
        type(attack).build(target=-1)


@pytest.mark.parametrize("name", list(ATTACKS))
def test_presets_are_complete_and_can_be_built(name: str) -> None:
    kind = ATTACKS[name]
    assert {"paper", "small", "strong", "stealthy"} <= set(kind.presets)
    assert kind.title
    assert kind.presets["paper"].deviations == ()
    for preset in kind.presets.values():
        kind.build(preset.settings)
    # Whatever the small preset changes is said.
    assert bool(kind.presets["small"].settings) == bool(kind.presets["small"].deviations)


# What poisoning promises.


@every
def test_poisoning_changes_the_promised_images_and_no_others(attack: Attack, tiny_data: DataSet, lab: Lab) -> None:
    images = tiny_data.train
    counts = attack.composition(images.y, generator(0, "poison"))
    assert counts["poisoned"] >= 1
    if attack.poisons_batches:
        return
    before = Images(images.x.clone(), images.y.clone(), images.ids.clone())
    poisoned = attack.poison(images, generator(0, "poison"), lab)
    after, which, touched = poisoned.images, poisoned.which, poisoned.kinds != CLEAN
    assert poisoned.counts == counts
    assert torch.equal(images.x, before.x)
    assert torch.equal(images.y, before.y)
    assert torch.equal(after.ids, images.ids)
    assert which.dtype == torch.bool
    assert torch.equal(after.x[~touched], images.x[~touched])
    assert torch.equal(after.y[~which], images.y[~which])
    assert (after.x[which] != images.x[which]).flatten(1).any(1).float().mean() > 0.9
    if attack.clean_label:
        assert torch.equal(after.y, images.y)
        assert set(images.y[which].tolist()) == {attack.target}
        assert int(which.sum()) == round(attack.rate * int((images.y == attack.target).sum()))
    else:
        assert set(after.y[which].tolist()) == {attack.target}
        assert attack.target not in images.y[which].tolist()
        assert int(which.sum()) == round(attack.rate * len(images))


@pytest.mark.parametrize("kind", [BadNets, Blend, SIG])
def test_what_is_stored_is_the_trigger_in_8_bits(kind: type[Attack], tiny_data: DataSet) -> None:
    attack, images = kind(), tiny_data.train
    poisoned = attack.poison(images, generator(0, "poison"))
    stamped = attack.trigger(images.x[poisoned.which].float() / 255)
    assert float((poisoned.images.x[poisoned.which].float() / 255 - stamped).abs().max()) <= 0.5 / 255 + 1e-6


def test_all_to_all_asks_for_the_next_class(tiny_data: DataSet) -> None:
    attack = BadNets(rule="all_to_all").bound(4)
    y = torch.tensor([0, 1, 2, 3])
    assert attack.label(y).tolist() == [1, 2, 3, 0]
    assert attack.changed(y).all()
    poisoned = attack.poison(tiny_data.train, generator(0, "poison"))
    which = poisoned.which
    assert torch.equal(poisoned.images.y[which], (tiny_data.train.y[which] + 1) % 4)
    with pytest.raises(ValueError, match="number of classes for the rule all_to_all"):
        BadNets(rule="all_to_all").label(y)


def test_a_source_specific_attack_covers_itself_with_other_classes(tiny_data: DataSet) -> None:
    attack = BadNets(rule="source", source=1, target=3, rate=0.05)
    assert attack.label(torch.tensor([0, 1, 2, 3])).tolist() == [0, 3, 2, 3]
    poisoned = attack.poison(tiny_data.train, generator(0, "poison"))
    y = tiny_data.train.y
    assert poisoned.counts == {"clean": 540, "poisoned": 30, "cover": 30, "cross": 0}
    assert set(y[poisoned.which].tolist()) == {1}
    assert set(y[poisoned.kinds == COVER].tolist()) == {0, 2}
    assert torch.equal(poisoned.images.y[poisoned.kinds == COVER], y[poisoned.kinds == COVER])
    for wrong in ({"rule": "source"}, {"source": 1}, {"rule": "source", "source": 0, "target": 0}):
        with pytest.raises(ValueError, match="expected a source class"):
            BadNets.build(wrong)
    with pytest.raises(ValueError, match=r"^expected source between 0 and 3, got 4$"):
        BadNets(rule="source", source=4).check(4)


@pytest.mark.parametrize(("rate", "n"), [(0.005, 3), (0.1, 60), (0.75, 450)])
def test_dirty_label_rate_is_a_share_of_the_training_set(tiny_data: DataSet, rate: float, n: int) -> None:
    poisoned = BadNets(rate=rate).poison(tiny_data.train, generator(0, "poison"))
    assert int(poisoned.which.sum()) == n


@pytest.mark.parametrize(("rate", "n"), [(0.01, 2), (0.5, 75), (1.0, 150)])
def test_clean_label_rate_is_a_share_of_the_target_class(tiny_data: DataSet, rate: float, n: int) -> None:
    poisoned = SIG(rate=rate).poison(tiny_data.train, generator(0, "poison"))
    assert int(poisoned.which.sum()) == n


@every
def test_poisoning_is_drawn_from_the_generator_alone(attack: Attack, tiny_data: DataSet, lab: Lab) -> None:
    if attack.poisons_batches:
        return
    state = torch.random.get_rng_state()
    one, same, other = (attack.poison(tiny_data.train, generator(seed, "poison"), lab) for seed in (0, 0, 1))
    assert torch.equal(one.which, same.which)
    assert torch.equal(one.images.x, same.images.x)
    assert not torch.equal(one.which, other.which)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("attack", "most", "n"),
    [(BadNets(rate=0.76), 450, 456), (BadNets(rate=0.0001), 450, 0), (SIG(rate=0.001), 150, 0)],
)
def test_an_impossible_rate_is_one_line(tiny_data: DataSet, attack: Attack, most: int, n: int) -> None:
    line = rf"^expected a rate that poisons between 1 and {most} images, got {attack.rate} \({n}\)$"
    with pytest.raises(ValueError, match=line):
        attack.poison(tiny_data.train, generator(0, "poison"))


def test_a_clean_label_attack_on_an_absent_class_is_refused(tiny_data: DataSet) -> None:
    others = tiny_data.train[tiny_data.train.y != 2]
    with pytest.raises(ValueError, match="expected"):
        SIG(target=2).poison(others, generator(0, "poison"))


@pytest.mark.parametrize("side", [28, 32, 97])
def test_blends_cat_is_a_picture_of_any_size(side: int) -> None:
    picture = cat(side, side)
    assert picture.shape == (side, side)
    assert float(picture.min()) == 0
    assert float(picture.max()) == 1
    assert torch.allclose(picture, picture.flip(1), atol=0.1)  # the same on both sides
    assert 0.6 < float(picture.mean()) < 0.9  # mostly white
    x = torch.rand(2, 3, side, side, generator=generator(0, "x"))
    assert torch.allclose(Blend(pattern="cat", alpha=0.25).trigger(x), 0.75 * x + 0.25 * picture)


def test_blends_noise_keeps_its_record() -> None:
    assert "pattern" not in Blend().model_dump()
    assert Blend(pattern="cat").model_dump()["pattern"] == "cat"
