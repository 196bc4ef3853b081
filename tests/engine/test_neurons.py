"""Which units a network has, and that their names are stable."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.models.base import Classifier
from engine.models.neurons import Units, no_units, unit_modules, units
from engine.models.resnet import ResNet18
from tests.tiny import PLANTED, Planted, TinyNet, tiny_model


def plain() -> nn.Sequential:
    """A network without normalisation: 4 + 6 convolution channels, 5 hidden units, 3 answers."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, 5), nn.ReLU(),
        nn.Linear(5, 3),
    )  # fmt: skip


def test_units_of_a_normalised_network_are_its_batchnorm_channels() -> None:
    found = units(tiny_model())
    assert [(layer.name, layer.kind, layer.size, layer.offset) for layer in found.layers] == [
        ("bn1", "norm", 8, 0),
        ("bn2", "norm", 16, 8),
    ]
    assert len(found) == 24
    assert len(no_units(tiny_model())) == 24
    assert not no_units(tiny_model()).any()


def test_units_of_a_plain_network_are_channels_and_hidden_neurons_but_no_answers() -> None:
    found = units(plain())
    assert [(layer.name, layer.kind, layer.size) for layer in found.layers] == [
        ("0", "conv", 4),
        ("2", "conv", 6),
        ("5", "linear", 5),
    ]


def test_a_resnet18_has_the_published_number_of_units() -> None:
    with torch.device("meta"):
        found = units(ResNet18(10))
    assert len(found) == 4800
    assert found.id(4799) == "layer4.1.bn2:511"
    assert found.id(0) == "bn1:0"
    assert found.index("layer4.1.bn2:87") == 4800 - 512 + 87


def test_names_do_not_depend_on_the_normalisation_in_front() -> None:
    net = TinyNet()
    assert units(net) == units(Classifier(net, torch.zeros(1), torch.ones(1)))


def test_ids_round_trip() -> None:
    found = units(tiny_model())
    ids = [found.id(unit) for unit in range(len(found))]
    assert len(set(ids)) == len(found)
    assert [found.index(unit_id) for unit_id in ids] == list(range(len(found)))
    for unit in range(len(found)):
        layer = found.layer_of(unit)
        assert unit in range(layer.span.start, layer.span.stop)


@pytest.mark.parametrize(
    "unit_id", ["", ":", "bn2", "bn2:", ":3", "bn2:16", "bn2:-1", "bn9:0", "bn2:1.0", "bn2:x", "bn2: 1", "fc:0"]
)
def test_a_bad_id_is_refused_in_one_line_with_an_example(unit_id: str) -> None:
    with pytest.raises(ValueError, match=r"^expected a unit id such as 'bn2:15', got ") as refusal:
        units(tiny_model()).index(unit_id)
    assert repr(unit_id) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("unit", [-1, 24, 10_000])
def test_a_bad_number_is_refused(unit: int) -> None:
    with pytest.raises(ValueError, match=rf"^expected a unit between 0 and 23, got {unit}$"):
        units(tiny_model()).id(unit)


def test_cut_units_are_counted_layer_by_layer() -> None:
    found: Units = units(tiny_model())
    cut = torch.zeros(24, dtype=torch.bool)
    cut[[0, 7, 8]] = True
    assert found.per_layer(cut) == [2, 1]


def test_unit_modules_are_the_layers_in_order() -> None:
    model = tiny_model()
    assert unit_modules(model) == [model.net.bn1, model.net.bn2]


def test_the_planted_unit_is_where_it_is_said_to_be(planted: Planted) -> None:
    assert planted.unit_id == f"bn2:{PLANTED}"
    assert units(planted.model).id(planted.unit) == planted.unit_id
