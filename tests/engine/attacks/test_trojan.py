"""TrojanNN: the patch wakes the neurons that it was made for, and lies where it should."""

from __future__ import annotations

import pytest
import torch

from engine.attacks import Lab
from engine.attacks.learning import frozen, inputs_of, last_linear
from engine.attacks.trojan import Trojan
from engine.compute import Compute
from engine.data.base import DataSet
from engine.models import build
from engine.models.base import Classifier


def prepared(data: DataSet, clean: Classifier, **settings: object) -> Trojan:
    attack = Trojan.build(settings).bound(4)
    return attack.bound(4, attack.prepare(Lab(data.train, 4, Compute("cpu", exact=True), clean=clean)))


def test_the_patch_wakes_the_most_connected_neurons(tiny_data: DataSet, clean_tiny: Classifier) -> None:
    before = {key: value.clone() for key, value in clean_tiny.state_dict().items()}
    x = tiny_data.test.x.float() / 255
    layer = last_linear(clean_tiny)
    most = layer.weight.detach().abs().sum(0).topk(2).indices
    attack = prepared(tiny_data, clean_tiny, iterations=100, area=0.1)
    noise = attack.bound(4, {"patch": torch.rand(1, 12, 12, generator=torch.Generator().manual_seed(0))})
    with torch.no_grad(), inputs_of(layer) as seen:
        for images in (x, noise.trigger(x), attack.trigger(x)):
            clean_tiny(images)
    clean, by_chance, woken = (float(values[:, most].mean()) for values in seen)
    assert woken > 1.5 * clean
    assert woken > 1.2 * by_chance
    # The clean model is only borrowed.
    assert all(torch.equal(value, before[key]) for key, value in clean_tiny.state_dict().items())
    assert all(p.requires_grad for p in clean_tiny.parameters())


def test_only_the_patch_changes(tiny_data: DataSet, clean_tiny: Classifier) -> None:
    attack = prepared(tiny_data, clean_tiny, iterations=1, area=0.07)
    inside = torch.zeros(12, 12, dtype=torch.bool)
    inside[8:11, 8:11] = True  # a square of 7 % of 144 pixels has a side of 3
    x = torch.full((2, 1, 12, 12), 0.5)
    changed = (attack.trigger(x) != x).any(0)[0]
    assert torch.equal(changed & ~inside, torch.zeros_like(inside))
    assert changed[inside].all()
    with pytest.raises(ValueError, match=r"^expected images of 1x12x12, on which the trigger was learned, got 1x9x9$"):
        attack.trigger(torch.zeros(1, 1, 9, 9))
    with pytest.raises(ValueError, match=r"^expected a trigger that was learned, got one without its patch$"):
        Trojan().trigger(x)
    with pytest.raises(ValueError, match=r"^expected a patch and margin of at most 12 pixels, got 13$"):
        Trojan(area=0.5, margin=5).fits((1, 12, 12))


def test_an_apple_has_a_dent_and_a_narrow_bottom() -> None:
    apple = Trojan(shape="apple", area=0.25, margin=2)._mask(24, 24)[10:22, 10:22]
    rows = ["".join(".#"[int(pixel)] for pixel in row) for row in apple]
    assert rows == [row[::-1] for row in rows]
    assert rows[0][5:7] == ".."
    assert "#" in rows[0]
    assert rows[5].count("#") > 10
    assert rows[-1].count("#") < 8


@pytest.mark.parametrize("name", ["resnet18", "vgg19_bn", "mobilenet_v2"])
def test_the_last_linear_layer_gives_the_answers(name: str) -> None:
    model = build(name, classes=7, channels=3, width=None if name == "mobilenet_v2" else 4)
    assert last_linear(model).out_features == 7
    with pytest.raises(ValueError, match=r"^expected a network with a linear layer, got ReLU without one$"):
        last_linear(torch.nn.ReLU())


def test_frozen_gives_a_model_back_as_it_was(clean_tiny: Classifier) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)).train()
    model[0].requires_grad_(False)
    with frozen(model):
        assert not model.training
        assert not any(p.requires_grad for p in model.parameters())
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
