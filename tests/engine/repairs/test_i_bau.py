"""I-BAU: the hypergradient is the one of calculus; the change is one for all pictures, and bounded."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.compute import Compute, generator
from engine.repairs.i_bau import IBAU, hypergradient
from engine.scores import Evidence
from tests.tiny import Planted


@pytest.mark.parametrize("terms", [1, 5, 200])
def test_hypergradient_by_hand(terms: int) -> None:
    """Uphill on -c (d - a w)^2 / 2 the change settles at d = a w; E = d^2 / 2 + w then has the slope a d + 1 in w.

    A term of the series is (1 - s c)^k, so K of them give the share 1 - (1 - s c)^K of what comes through d.
    """
    a, c, s = 3.0, 2.0, 0.1
    w = torch.tensor([2.0], requires_grad=True)

    def inner(d: Tensor) -> Tensor:
        return -(c * (d - a * w).square() / 2).sum()

    def outer(d: Tensor) -> Tensor:
        return (d.square() / 2 + w).sum()

    value, (gradient,) = hypergradient(inner, outer, torch.tensor([6.0]), [w], s, terms)
    assert float(value) == 20
    assert float(gradient) == pytest.approx(a * 6 * (1 - (1 - s * c) ** terms) + 1, rel=1e-5)


def test_hypergradient_against_an_unrolled_search() -> None:
    """Slow reference: differentiate through the last steps of the search itself, where it has settled."""
    rng = generator(0, "hyper")
    w, x = torch.randn(4, 3, generator=rng, requires_grad=True), torch.randn(5, 3, generator=rng)
    y = torch.tensor([0, 1, 2, 3, 0])

    def inner(d: Tensor) -> Tensor:
        return F.cross_entropy((x + d) @ w.T, y) - 2 * d.square().sum()

    def outer(d: Tensor) -> Tensor:
        return F.cross_entropy((x[:2] + d) @ w.T, y[:2])

    def climb(d: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(inner(d), d, create_graph=True)
        return d + 0.05 * slope

    settled = torch.zeros(1, 3)
    for _ in range(300):
        settled = climb(settled.requires_grad_(True)).detach()
    unrolled = settled.clone().requires_grad_(True)
    for _ in range(8):
        unrolled = climb(unrolled)
    (expected,) = torch.autograd.grad(outer(unrolled), w)
    _, (found,) = hypergradient(inner, outer, settled, [w], 0.05, 8)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    (direct,) = torch.autograd.grad(outer(settled), w)
    assert float((expected - direct).norm()) > 0.01 * float(direct.norm())  # what the series adds is not nothing


def test_the_change_is_one_for_all_bounded_and_fools_more_than_noise(planted: Planted, compute: Compute) -> None:
    repair, model = IBAU(bound=4, inner_lr=100, batch=50), copy.deepcopy(planted.model).eval()
    unit = model.normalize.std
    change = repair._search(model, Evidence(planted.data.pool, 0, compute), unit, generator(0, "order"))
    assert change.shape == (1, 1, 12, 12)
    assert float(change.norm()) <= 4 * (1 + 1e-6)
    noise = torch.randn(change.shape, generator=generator(0, "noise"))
    noise *= change.norm() / noise.norm()
    x, y = compute.images(planted.data.pool.x), planted.data.pool.y
    with torch.no_grad():
        losses = [float(F.cross_entropy(model(x + d * unit), y)) for d in (change, noise)]
    assert losses[0] > 2 * losses[1]


def test_the_running_statistics_stay(planted: Planted, compute: Compute) -> None:
    found = IBAU(rounds=1, batch=100)(planted.model, Evidence(planted.data.pool, 0, compute)).model
    before = dict(planted.model.named_buffers())
    assert all(torch.equal(value, before[key]) for key, value in found.named_buffers())
