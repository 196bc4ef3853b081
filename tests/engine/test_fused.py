"""The fast way says what the plain one says, follows the weights, and steps aside where somebody watches."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from engine import bench
from engine.compute import Compute
from engine.models import MODELS, build
from engine.models.base import Classifier, Normalize
from engine.models.fused import fused_stages, stages, through
from engine.models.masking import MODES, Mode, masked
from engine.models.neurons import units
from tests.engine.test_fold import STAGED, count_runs, cut_from


def network(name: str) -> tuple[Classifier, Tensor]:
    """A network whose normalisations are not neutral, in evaluation mode, and a few pictures."""
    rng = torch.Generator().manual_seed(0)
    model = build(name, classes=4, channels=3, width=4 if name in STAGED else None, rng=rng)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=rng)
            nn.init.normal_(module.bias, generator=rng)
            nn.init.normal_(module.running_mean, std=0.1, generator=rng)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=rng)  # type: ignore[arg-type]
    side = max(32, MODELS[name].min_side)
    return model.eval(), torch.rand(5, 3, side, side, generator=rng)


@torch.inference_mode()
def fast(model: nn.Module, x: Tensor) -> Tensor:
    return through(fused_stages(model, torch.float32), x)


def close(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).abs().max() <= 1e-4 * wanted.abs().max())


@pytest.mark.parametrize("name", MODELS)
def test_every_network_says_the_same_the_fast_way(name: str) -> None:
    model, x = network(name)
    with torch.inference_mode():
        assert close(fast(model, x), model(x))
    runs = [str(getattr(stage, "graph", "")) for stage in fused_stages(model, torch.float32)]
    assert sum("fused_" in run for run in runs) > 0


@pytest.mark.parametrize("name", ["resnet18", "preact_resnet18", "vgg19_bn", "wrn16", "mobilenet_v2"])
@pytest.mark.parametrize("mode", MODES)
def test_it_follows_a_cut_and_a_change_of_weights(name: str, mode: Mode) -> None:
    model, x = network(name)
    before = fast(model, x)
    layer = len(units(model).layers) // 2
    with masked(model, cut_from(model, layer), mode), torch.inference_mode():
        cut = fast(model, x)
        assert close(cut, model(x))
    assert not close(cut, before)
    assert torch.equal(fast(model, x), before)
    model.load_state_dict({key: value * 1.01 for key, value in model.state_dict().items()})
    with torch.inference_mode():
        assert close(fast(model, x), model(x))


def test_a_module_that_was_replaced_is_the_one_that_answers() -> None:
    model, x = network("resnet18")
    before = fast(model, x)
    model.normalize = Normalize(torch.full((3,), 0.4), torch.full((3,), 0.2))
    with torch.inference_mode():
        assert close(fast(model, x), model(x))
    assert not close(fast(model, x), before)


def test_weights_of_inference_mode_are_followed_too() -> None:
    with torch.inference_mode():
        model, x = network("resnet18")
        before = fast(model, x)
        model.net.bn1.weight.mul_(0.5)  # type: ignore[union-attr, operator]
        assert not close(fast(model, x), before)
        assert close(fast(model, x), model(x))


def test_any_number_of_images_is_answered() -> None:
    model, x = network("resnet18")
    whole = fast(model, x)
    for n in (1, 2, 3, 4, 5, 1):
        assert close(fast(model, x[:n]), whole[:n])


def test_a_copy_has_weights_of_its_own() -> None:
    model, x = network("resnet18")
    before = fast(model, x)
    other = copy.deepcopy(model)
    nn.init.zeros_(other.net.fc.weight)  # type: ignore[union-attr, arg-type]
    assert not torch.equal(fast(other, x), before)
    assert torch.equal(fast(model, x), before)


def test_who_watches_a_module_sees_every_pass() -> None:
    model, x = network("resnet18")
    fast(model, x)
    seen = count_runs(model.net.layer1)  # type: ignore[union-attr, arg-type]
    fast(model, x)
    assert len(seen) == 1


def test_a_network_that_cannot_be_read_runs_as_it_is() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((1, 2, 3), keepdim=True) if x.sum() > 0 else x

    model, x = Branching().eval(), torch.ones(2, 1, 3, 3)
    assert len(stages(model)) == 1
    assert torch.equal(fast(model, x), model(x))


def test_the_exact_way_is_plain_and_the_fast_one_agrees() -> None:
    model, x = network("resnet18")
    exact, quick = Compute("cpu", exact=True), Compute("cpu")
    assert exact.stages(model) == stages(model) != quick.stages(model)
    wanted = exact.logits(model, x)
    assert (quick.logits(model, x) - wanted).abs().max() <= 0.05 * wanted.abs().max()


def test_the_benchmark_compares_the_same_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "TURNS", 1)
    found = bench.bench_whatif(Compute("cpu"), n=60)
    assert {"seconds", "reference_seconds", "speedup", "max_abs_diff"} <= found.keys()
    assert found["images"] == 60
    assert 0 <= found["max_abs_diff"] < 0.1
    assert found["answers_differ"] <= 2 / 60
