"""Poisoning batch by batch: the shares hold on average, labels are those of the rule, the whole is drawn from rng."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.attacks import ATTACKS, Lab
from engine.attacks.base import CLEAN, COVER, CROSS, POISONED
from engine.attacks.batchwise import BatchPoisoning, Batchwise
from engine.attacks.wanet import WaNet
from engine.compute import Compute, generator
from engine.data.base import DataSet


def test_shares_hold_on_average_whatever_the_batch() -> None:
    attack, rng = WaNet(rate=0.1, cross=0.2), generator(0, "draw")
    y = torch.arange(13) % 4
    kinds = torch.stack([attack.draw(y, rng) for _ in range(2000)])
    assert abs(float((kinds == POISONED).float().mean()) - 0.1) < 0.005
    assert abs(float((kinds == CROSS).float().mean()) - 0.2) < 0.005
    assert not (kinds[:, y == attack.target] == POISONED).any()
    # A batch of the target class alone has nothing to poison, and asks for no more than there is.
    assert not (attack.draw(torch.zeros(8, dtype=torch.long), rng) == POISONED).any()


def test_a_source_specific_attack_covers_itself_in_each_batch() -> None:
    attack, y = WaNet(rule="source", source=1, target=3, rate=0.5, cross=0.0), torch.arange(40) % 4
    kinds = attack.draw(y, generator(0, "draw"))
    assert set(y[kinds == POISONED].tolist()) == {1}
    assert set(y[kinds == COVER].tolist()) == {0, 2}
    # 20 are asked for: all ten of the source, and all twenty of the other two classes.
    assert torch.bincount(kinds.long()).tolist() == [10, 10, 20]


class Spy(nn.Module):
    """Remembers what it was shown; its answers are zeros that depend on one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.zeros(())), torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x.detach().clone()
        return self.weight * x.flatten(1)[:, :4]


def test_what_the_network_is_shown(tiny_data: DataSet) -> None:
    attack = WaNet(rate=0.2, cross=0.2, strength=2.0).bound(4)
    lab = Lab(tiny_data.train, 4, Compute("cpu", exact=True))
    x, y = tiny_data.train.x[:50].float() / 255, tiny_data.train.y[:50]
    before, spy, procedure = x.clone(), Spy(), attack.procedure(lab)
    assert isinstance(procedure, BatchPoisoning)
    _, logits, labels = procedure.loss(spy, x, y, generator(0, "train"), 0.0)
    kinds = attack.draw(y, generator(0, "train"))
    assert torch.equal(x, before)
    assert logits.shape == (50, 4)
    assert torch.equal(spy.seen[kinds == CLEAN], x[kinds == CLEAN])
    assert torch.equal(spy.seen[kinds == POISONED], attack.trigger(x[kinds == POISONED]))
    assert torch.equal(labels[kinds != POISONED], y[kinds != POISONED])
    assert set(labels[kinds == POISONED].tolist()) == {0}
    crossed = spy.seen[kinds == CROSS]
    for plain in (x, attack.trigger(x)):
        assert (crossed != plain[kinds == CROSS]).flatten(1).any(1).all()


def test_the_record_says_what_an_epoch_has(tiny_data: DataSet) -> None:
    for kind in ATTACKS.items():
        if issubclass(kind[1], Batchwise):
            counts = kind[1](rate=0.1, cross=0.2).composition(tiny_data.train.y, generator(0, "poison"))
            assert counts == {"clean": 420, "poisoned": 60, "cover": 0, "cross": 120}
