"""LF: a smooth perturbation within its bound that already misleads the clean model."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from engine.attacks import Lab
from engine.attacks.learning import gaussian
from engine.attacks.lf import LF
from engine.compute import Compute
from engine.data.base import DataSet
from engine.models.base import Classifier


def test_gaussian_weights() -> None:
    blur = gaussian(5, 1.0)
    assert blur.sum(1).tolist() == pytest.approx([1.0] * 5)
    # exp(-d^2 / 2) for d = 2, 1, 0, 1, 2, and their sum.
    assert (blur[2] * 2.4837).tolist() == pytest.approx([0.1353, 0.6065, 1, 0.6065, 0.1353], abs=1e-4)
    # On the border half of the bell is missing, and the rest counts for all.
    assert (blur[0] * 1.7533).tolist() == pytest.approx([1, 0.6065, 0.1353, 0.0111, 0.0003], abs=1e-4)


def test_the_trigger_is_smooth_bounded_and_misleads_the_clean_model(tiny_data: DataSet, clean_tiny: Classifier) -> None:
    compute = Compute("cpu", exact=True)
    lab = Lab(tiny_data.train, 4, compute, clean=clean_tiny)
    attack = LF(target=1, eps=0.4, sigma=1.5, steps=60, batch=100).bound(4)
    state = attack.prepare(lab)
    r = state["perturbation"]
    assert float(r.abs().max()) == pytest.approx(0.4)
    spectrum = torch.fft.fft2(r[0]).abs().square()
    low = [k for k in range(12) if min(k, 12 - k) <= 3]
    assert float(spectrum[low][:, low].sum()) > 0.9 * float(spectrum.sum())

    others = tiny_data.test.y != 1
    x = tiny_data.test.x[others].float() / 255

    def loss(images: torch.Tensor) -> float:
        wanted = torch.ones(len(images), dtype=torch.int64)
        return float(F.cross_entropy(compute.logits(clean_tiny, images), wanted))

    # The target is nearer than on clean pictures, and than under the opposite perturbation.
    assert loss(attack.bound(4, state).trigger(x)) < 0.7 * min(loss(x), loss((x - r).clamp(0, 1)))
    assert torch.equal(attack.prepare(lab)["perturbation"], r)
