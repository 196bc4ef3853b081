"""Devices, precisions and generators."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.compute import Compute, generator
from tests.tiny import Planted, tiny_model


def drawn(seed: int, purpose: str) -> list[float]:
    return torch.rand(8, generator=generator(seed, purpose)).tolist()


def test_generators_depend_on_seed_and_purpose_only() -> None:
    assert drawn(0, "poison") == drawn(0, "poison")
    streams = [drawn(seed, purpose) for seed in (0, 1, 10, 11) for purpose in ("poison", "train", "", "1/poison")]
    assert len({tuple(stream) for stream in streams}) == len(streams)
    # Fixed for good: shipped figures name their seeds.
    assert torch.randint(1000, (4,), generator=generator(0, "poison")).tolist() == [33, 865, 946, 809]


def test_a_generator_leaves_the_global_seed_alone() -> None:
    state = torch.random.get_rng_state()
    drawn(0, "poison")
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("device", ["", "tpu", "gpu", "cuda:x", "meta", "cpu:x"])
def test_a_bad_device_is_one_line(device: str) -> None:
    with pytest.raises(ValueError, match=r"^expected device to be auto, cpu, cuda or cuda:N, got ") as refusal:
        Compute(device)
    assert repr(device) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_cuda_without_cuda_is_one_line(device: str) -> None:
    with pytest.raises(ValueError, match=rf"^expected a CUDA device for '{device}', got a machine with 0$"):
        Compute(device)


def test_auto_finds_a_device_and_describes_it() -> None:
    compute = Compute()
    assert compute.torch_device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert compute.precision in compute.describe()
    assert Compute("cpu", exact=True).precision == "float32"
    assert "float32" in Compute("cpu", exact=True).describe()


def test_images_become_floats_between_0_and_1(compute: Compute) -> None:
    x = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 1, 3)
    assert compute.images(x).flatten().tolist() == pytest.approx([0, 0.2, 1])
    already = torch.rand(2, 3, 4, 4, generator=generator(0, "x"))
    assert torch.equal(compute.images(already), already)


def test_logits_do_not_depend_on_the_batch_size(planted: Planted, compute: Compute) -> None:
    x = planted.data.test.x[:50]
    whole = compute.logits(planted.model, x)
    assert whole.shape == (50, 4)
    assert whole.dtype == torch.float32
    assert torch.allclose(compute.logits(planted.model, x, batch=7), whole, atol=1e-4)


def test_logits_evaluate_and_give_the_mode_back(compute: Compute) -> None:
    class Failing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no")

    x = torch.zeros(4, 1, 12, 12, dtype=torch.uint8)
    model = tiny_model().train()
    before = model.net.bn1.running_mean.clone()
    compute.logits(model, x)
    assert model.training
    assert model.net.bn1.training
    assert torch.equal(model.net.bn1.running_mean, before)
    failing = Failing().train()
    with pytest.raises(RuntimeError, match="no"):
        compute.logits(failing, x)
    assert failing.training


def test_the_fast_path_gives_the_answers_of_the_exact_one(planted: Planted, compute: Compute) -> None:
    fast = Compute("cpu")
    x = planted.attack.trigger(planted.data.test.x.float() / 255)
    for images in (planted.data.test.x, x):
        agree = fast.logits(planted.model, images).argmax(1) == compute.logits(planted.model, images).argmax(1)
        assert float(agree.float().mean()) >= 0.98


def test_bfloat16_is_close_to_float32_wherever_the_processor_stands(planted: Planted, compute: Compute) -> None:
    """The fast path is a choice by instruction set; its arithmetic is checked also where it would not be chosen."""
    forced = Compute("cpu")
    object.__setattr__(forced, "precision", "bfloat16")
    x = planted.data.test.x[:100]
    agree = forced.logits(planted.model, x).argmax(1) == compute.logits(planted.model, x).argmax(1)
    assert float(agree.float().mean()) >= 0.98


@pytest.mark.gpu
def test_cuda_gives_the_answers_of_the_cpu(planted: Planted, compute: Compute) -> None:
    model = tiny_model()
    model.load_state_dict(planted.model.state_dict())
    cuda = Compute("cuda", exact=True)
    on_cuda = cuda.logits(cuda.model(model), planted.data.test.x)
    assert on_cuda.device.type == "cpu"
    agree = on_cuda.argmax(1) == compute.logits(planted.model, planted.data.test.x).argmax(1)
    assert float(agree.float().mean()) >= 0.99
