"""Influence: one step gives all products of gradients, and the poison of a suspect that learned it comes first."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from engine.compute import Compute, generator
from engine.metrics import TestSet, answers
from engine.models.masking import apply_cut
from engine.models.neurons import no_units
from engine.repairs.influence import Influence, margins, stepped
from engine.scores import Evidence
from engine.train import Training, train
from tests.tiny import Planted, tiny_model

FEW = {"epochs": 5, "lr": 0.05, "batch": 50, "augment": False}


def test_a_step_away_from_the_probes_gives_all_products_of_gradients(planted: Planted) -> None:
    exact = Compute("cpu", exact=True)
    asked, seen = planted.data.test[:4], planted.data.test[4:12]
    away = stepped(planted.model, asked.x, asked.y, 1e-3, exact)
    found = margins(exact.logits(planted.model, seen.x), seen.y) - margins(exact.logits(away, seen.x), seen.y)
    model = copy.deepcopy(planted.model).requires_grad_(True)

    def slope(x: Tensor, y: Tensor) -> Tensor:
        sure = margins(model(x.float() / 255), y).mean()
        grads = torch.autograd.grad(sure, list(model.parameters()), allow_unused=True, materialize_grads=True)
        return torch.cat([grad.flatten() for grad in grads])

    way = slope(asked.x, asked.y)
    products = torch.stack([slope(seen.x[k : k + 1], seen.y[k : k + 1]) @ way for k in range(len(seen))])
    assert torch.nn.functional.cosine_similarity(found, products, dim=0) > 0.999
    assert not any(p.grad is not None for p in planted.model.parameters())


def test_sureness_of_a_sure_answer_is_not_rounded_away() -> None:
    logits = torch.tensor([[90.0, 1.0, 0.0], [0.0, 1.0, 90.0]])  # 1 - p is 3e-39
    assert margins(logits, torch.tensor([0, 0])).tolist() == pytest.approx([90 - 1.3133, -90.0], abs=1e-3)
    assert margins(torch.zeros(1, 4), torch.tensor([2])).tolist() == pytest.approx([-math.log(3)])


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
