"""CL: four marks; in training a perturbation, too, that stays in its bounds and makes the class hard to see."""

from __future__ import annotations

import pytest
import torch

from engine.attacks import Lab
from engine.attacks.base import POISONED
from engine.attacks.cl import CL
from engine.compute import Compute, generator
from engine.data.base import DataSet
from engine.models.base import Classifier


def test_mark_pixels() -> None:
    x = CL(size=2, amplitude=0.25).trigger(torch.full((1, 1, 5, 6), 0.5))[0, 0]
    light, dark, q = 0.75, 0.25, 0.5
    assert x.tolist() == [
        [light, dark, q, q, dark, light],
        [dark, light, q, q, light, dark],
        [q] * 6,
        [dark, light, q, q, light, dark],
        [light, dark, q, q, dark, light],
    ]
    with pytest.raises(ValueError, match=r"^expected a mark size of at most 2 pixels, got 3$"):
        CL(size=3).trigger(torch.zeros(1, 1, 5, 9))


@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_the_perturbation_stays_in_its_bounds_and_misleads(
    tiny_data: DataSet, clean_tiny: Classifier, eps: float
) -> None:
    lab = Lab(tiny_data.train, 4, Compute("cpu", exact=True), clean=clean_tiny)
    attack = CL(target=2, eps=eps, pgd_step=0.05, steps=10, size=1)
    which = tiny_data.train.y == 2
    x, y = tiny_data.train.x[which].float() / 255, tiny_data.train.y[which]
    made = attack.craft(x, y, POISONED, generator(0, "craft"), lab)
    assert float((made - x)[:, :, 1:-1].abs().max()) <= eps + 1e-6
    assert 0 <= float(made.min()) <= float(made.max()) <= 1
    assert torch.equal(made[:, :, [0, 0, -1, -1], [0, -1, 0, -1]], torch.ones(len(x), 1, 4))
    # The marks alone can mislead, too.
    unmarked = attack._perturbed(x, y, torch.zeros_like(x), lab)
    right = float((lab.compute.logits(clean_tiny, unmarked).argmax(1) == y).float().mean())
    assert right > 0.9 if eps == 0 else right < 0.5
    again = attack.craft(x, y, POISONED, generator(0, "craft"), lab)
    assert torch.equal(made, again)


def test_poisoning_without_a_clean_model_is_refused(tiny_data: DataSet) -> None:
    with pytest.raises(ValueError, match=r"^expected a clean model for CL \(--twin RUN or --twin train\), got none$"):
        CL().poison(tiny_data.train, generator(0, "poison"))
