"""NAD: every map has places and a gradient, and the student ends up looking where the teacher does."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.compute import Compute, generator
from engine.models import build
from engine.repairs import REPAIRS
from engine.repairs.nad import attention, outputs, stage_names
from engine.repairs.tuning import Tuning, tune
from engine.scores import Evidence
from tests.tiny import Planted


def test_attention_by_hand() -> None:
    maps = torch.tensor([[[[1.0, 0.0]], [[-1.0, 2.0]]]])  # squares summed over channels: 2 and 4
    torch.testing.assert_close(attention(maps, 2), torch.tensor([[2.0, 4.0]]) / 20**0.5)
    torch.testing.assert_close(attention(7 * maps, 2), attention(maps, 2))


EXPECTED = {
    "resnet18": ["net.layer2", "net.layer3", "net.layer4"],
    "preact_resnet18": ["net.layer2", "net.layer3", "net.layer4"],
    "wrn16": ["net.block1", "net.block2", "net.block3"],
    "resnet20": ["net.layer1", "net.layer2", "net.layer3"],
    "vgg19_bn": ["net.features.25", "net.features.38", "net.features.51"],
    "small_vgg": None,
    "cnn4": None,
    "mobilenet_v2": None,
}


@pytest.mark.parametrize("name", list(EXPECTED))
def test_every_map_has_places_and_a_gradient(name: str) -> None:
    width = None if name == "mobilenet_v2" else 4
    model = build(name, classes=4, channels=3, width=width, rng=generator(0, "weights")).train()
    x = torch.rand(4, 3, 32, 32, generator=generator(0, "x"))
    names = stage_names(model, x[:1])
    assert model.training
    assert EXPECTED[name] is None or names == EXPECTED[name]
    teacher = copy.deepcopy(model)
    with torch.no_grad():
        for p in teacher.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator(1, "noise"))
    with outputs(teacher, names) as wanted, torch.no_grad():
        teacher(x)
    with outputs(model, names) as own:
        model(x)
    for layer in names:
        assert own[layer].shape[2] * own[layer].shape[3] > 1
        loss = F.mse_loss(attention(own[layer], 2), attention(wanted[layer], 2))
        (gradient,) = torch.autograd.grad(loss, own[layer], retain_graph=True)
        assert float(gradient.abs().max()) > 0


def test_the_student_looks_where_the_teacher_does(planted: Planted, compute: Compute) -> None:
    """Held to it, it ends up nearer than fine-tuning alone brings it."""
    x, evidence = planted.data.pool.x, Evidence(planted.data.pool, 0, compute)
    few = {"epochs": 5, "lr": 0.05, "schedule": "constant", "batch": 50, "augment": False}
    teacher = copy.deepcopy(planted.model).requires_grad_(True)
    tune(teacher, evidence, Tuning.build(few, epochs=20, weight_decay=1e-4), "teacher")

    def looks(model: nn.Module) -> Tensor:
        with outputs(model, ["net.bn2"]) as found:
            compute.logits(model, x)
        return attention(found["net.bn2"], 2)

    apart = []
    for beta in (0.0, 100.0):
        found = REPAIRS["nad"].build(few, teacher_epochs=20, beta3=beta)(planted.model, evidence)
        assert found.log["maps"] == ["net.bn2"]
        apart.append(float(F.mse_loss(looks(found.model), looks(teacher))))
    assert apart[1] < 0.6 * apart[0]


def test_a_network_without_maps_is_refused() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(ValueError, match="^expected a network with feature maps for NAD, got one without any$"):
        stage_names(flat, torch.zeros(1, 3, 2, 2))
