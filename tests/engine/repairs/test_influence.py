"""Influence: the gradients are those of the last layer, and the poison of a suspect that learned it comes first."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.compute import Compute, generator
from engine.metrics import TestSet, answers
from engine.models.masking import apply_cut
from engine.models.neurons import no_units
from engine.repairs.influence import Influence, gradients
from engine.scores import Evidence
from engine.train import Training, train
from tests.tiny import Planted, TinyNet, tiny_model

FEW = {"epochs": 5, "lr": 0.05, "batch": 50, "augment": False}


def test_the_factors_are_those_of_the_last_layers_gradient(planted: Planted, compute: Compute) -> None:
    images = planted.data.test[:5]
    error, inputs = gradients(planted.model, images.x, images.y.flip(0), compute, unit=False)
    net = planted.model.net
    assert isinstance(net, TinyNet)
    for k in range(5):
        net.requires_grad_(True)
        loss = F.cross_entropy(planted.model(images.x[k : k + 1].float() / 255), images.y.flip(0)[k : k + 1])
        weight, bias = torch.autograd.grad(loss, [net.fc.weight, net.fc.bias])
        outer = error[k][:, None] * inputs[k][None]
        assert torch.allclose(outer, torch.cat([weight, bias[:, None]], 1), atol=1e-5)


def test_a_sure_answer_has_a_direction_still(compute: Compute) -> None:
    class Sure(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3, bias=False)
            nn.init.eye_(self.fc.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.flatten(1))

    x = torch.tensor([90.0, 1.0, 0.0]).reshape(1, 3, 1, 1)  # 1 - p is 3e-39
    error, inputs = gradients(Sure(), x, torch.tensor([0]), compute, unit=True)
    other = torch.tensor([1.0, 0.0]).softmax(0)
    expected = F.normalize(torch.cat([torch.tensor([-1.0]), other]), dim=0)
    assert torch.allclose(error[0], expected, atol=1e-5)
    assert float(inputs.norm()) == pytest.approx(1)


def test_poison_comes_first_and_what_is_left_teaches_no_backdoor(planted: Planted, compute: Compute) -> None:
    attack = planted.attack.model_copy(update={"rate": 0.05}).bound(4)
    poisoned = attack.poison(planted.data.train, generator(0, "poison"))
    suspect = tiny_model()
    train(suspect, poisoned.images, Training(epochs=10, lr=0.05, batch=50), generator(0, "train"), compute)
    more = {"training": poisoned.images, "fresh": lambda rng: tiny_model(seed=1)}
    test = TestSet.of(planted.data.test, attack)
    before = answers(suspect.eval(), test, compute)
    found = Influence.build(FEW)(suspect, Evidence(planted.data.pool, 0, compute, attack, True, **more))
    after = answers(found.model, test, compute)
    assert before.asr is not None
    assert after.asr is not None
    assert before.asr.value > 0.9
    assert after.asr.value < 0.2
    assert after.acc.value > 0.95
    influence = torch.from_numpy(found.extras["influence"])
    ours, others = influence[poisoned.which], influence[~poisoned.which]
    assert float((ours[:, None] > others).float().mean()) > 0.97
    assert found.extras["removed"].sum() == found.log["removed"] == 90
    assert influence[torch.from_numpy(found.extras["removed"]).bool()].min() >= influence.topk(90).values.min()


def test_what_was_cut_of_the_suspect_is_not_cut_of_the_new_network(planted: Planted, compute: Compute) -> None:
    poisoned = planted.attack.poison(planted.data.train, generator(0, "poison")).images
    more = {"training": poisoned, "fresh": lambda rng: tiny_model(seed=1)}
    cut = no_units(planted.model)
    cut[planted.unit] = True
    given = Evidence(planted.data.pool, 0, compute, planted.attack, True, cut=cut, **more)
    made = Influence.build(FEW, epochs=1)(planted.model, given)
    assert float(made.model.state_dict()["net.bn2.weight"][-1]) != 0
    copied = tiny_model(seed=1)
    apply_cut(copied, cut)
    assert float(copied.state_dict()["net.bn2.weight"][-1]) == 0


def test_a_network_without_a_linear_layer_is_refused(compute: Compute) -> None:
    with pytest.raises(ValueError, match="^expected a network with a linear last layer"):
        gradients(nn.Flatten(), torch.zeros(1, 1, 2, 2), torch.tensor([0]), compute, unit=True)
