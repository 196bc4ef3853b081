"""The training loop: it learns, it repeats, and its augmentation only moves pixels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.compute import Compute, generator
from engine.data.base import DataSet
from engine.train import Training, batches, shift_and_flip, train
from tests.tiny import tiny_model

QUICK = Training(epochs=2, lr=0.05, batch=50)


def trained(data: DataSet, seed: int = 0, spec: Training = QUICK) -> dict[str, Tensor]:
    model = tiny_model()
    train(model, data.train[:200], spec, generator(seed, "train"), Compute("cpu", exact=True))
    return model.state_dict()


def test_it_learns(tiny_data: DataSet, compute: Compute) -> None:
    model = tiny_model()
    history = train(model, tiny_data.train, Training(epochs=4, lr=0.05, batch=50), generator(0, "train"), compute)
    assert len(history) == 4
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    said = compute.logits(model, tiny_data.test.x).argmax(1)
    assert float((said == tiny_data.test.y).float().mean()) >= 0.95


def test_the_same_seed_gives_the_same_weights(tiny_data: DataSet) -> None:
    augmented = QUICK.model_copy(update={"augment": True})
    one, same, other = trained(tiny_data), trained(tiny_data), trained(tiny_data, seed=1)
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["net.fc.weight"], other["net.fc.weight"])
    one, same = trained(tiny_data, spec=augmented), trained(tiny_data, spec=augmented)
    assert all(torch.equal(one[k], same[k]) for k in one)


def test_it_draws_from_its_generator_alone(tiny_data: DataSet, compute: Compute) -> None:
    model, state = tiny_model(), torch.random.get_rng_state()
    spec = Training(epochs=1, batch=50, augment=True)
    train(model, tiny_data.train[:100], spec, generator(0, "train"), compute)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_progress_rises_to_one(tiny_data: DataSet, compute: Compute) -> None:
    seen: list[tuple[str, float]] = []
    images = tiny_data.train[:130]
    spec = Training(epochs=3, batch=10)

    def note(what: str, share: float, **figures: float | None) -> None:
        seen.append((what, share))

    train(tiny_model(), images, spec, generator(0, "train"), compute, note)
    shares = [share for _, share in seen]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert seen[-1][0].startswith("epoch 3 of 3, loss ")


@pytest.mark.parametrize(
    ("n", "size", "lengths"), [(10, 4, [4, 4, 2]), (9, 4, [4, 4]), (8, 4, [4, 4]), (1, 4, [1]), (3, 8, [3])]
)
def test_batches_cover_a_pass_but_for_a_lone_last_image(n: int, size: int, lengths: list[int]) -> None:
    parts = list(batches(n, size, generator(0, "batches")))
    assert [len(part) for part in parts] == lengths
    everything = torch.cat(parts).tolist()
    assert len(set(everything)) == len(everything)
    assert set(everything) <= set(range(n))


@pytest.mark.parametrize(("channels", "height", "width", "pad"), [(1, 6, 6, 2), (3, 5, 7, 1), (1, 4, 4, 0)])
def test_shift_and_flip_gives_a_shifted_and_maybe_flipped_copy(
    channels: int, height: int, width: int, pad: int
) -> None:
    x = torch.rand(24, channels, height, width, generator=generator(0, "x"))
    moved = shift_and_flip(x, generator(0, "augment"), pad)
    assert moved.shape == x.shape
    kinds = set()
    for image, got in zip(x, moved, strict=True):
        padded = torch.nn.functional.pad(image, (pad, pad, pad, pad))
        matches = [
            (top, left, flip)
            for top in range(2 * pad + 1)
            for left in range(2 * pad + 1)
            for flip in (False, True)
            for crop in [padded[:, top : top + height, left : left + width]]
            if torch.equal(crop.flip(2) if flip else crop, got)
        ]
        assert matches
        kinds.add(matches[0])
    assert {flip for _, _, flip in kinds} == {False, True}
    if pad:
        assert len({(top, left) for top, left, _ in kinds}) > 3


def test_shift_and_flip_repeats_and_leaves_its_input() -> None:
    x = torch.rand(8, 1, 6, 6, generator=generator(0, "x"))
    before = x.clone()
    one, same, other = (shift_and_flip(x, generator(seed, "augment")) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(x, before)
