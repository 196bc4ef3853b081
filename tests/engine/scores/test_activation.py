"""Fine-Pruning's rank: what the classifier reads, channel by channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.compute import Compute
from engine.data.base import Images
from engine.explain.wiring import read_last
from engine.models import build
from engine.models.neurons import units
from engine.scores.activation import Activation
from engine.scores.base import Evidence


def few(n: int = 8) -> Images:
    generator = torch.Generator().manual_seed(0)
    return Images.of(torch.randint(0, 256, (n, 1, 28, 28), generator=generator, dtype=torch.uint8), torch.arange(n) % 3)


def read_by_head(model: nn.Module, images: Images) -> Tensor:
    seen: list[Tensor] = []
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    with torch.no_grad():
        model(images.x.float() / 255)
    hook.remove()
    return torch.cat(seen).mean(0)


def test_units_that_are_added_to_one_channel_have_its_score(compute: Compute) -> None:
    model = build("resnet18", classes=10, channels=1, width=4, rng=torch.Generator().manual_seed(0)).eval()
    images = few()
    found = Activation()(model, Evidence(images, 0, compute)).values
    layers, scored = units(model).layers, found.isfinite()
    parts = [layer for layer in layers if scored[layer.span].any()]
    assert [layer.name for layer in parts] == ["layer4.0.bn2", "layer4.0.downsample.1", "layer4.1.bn2"]
    expected = read_by_head(model, images)
    for layer in parts:
        torch.testing.assert_close(found[layer.span], -expected / expected.mean(), rtol=0.02, atol=0.02)


def test_the_last_layer_of_a_plain_network_is_the_one_its_classifier_reads(compute: Compute) -> None:
    model = build("cnn4", classes=10, channels=1, width=4, rng=torch.Generator().manual_seed(0)).eval()
    head, writers = read_last(model, torch.zeros(1, 1, 28, 28))
    assert head.out_features == 10
    assert writers == [len(units(model).layers) - 1]
    found = Activation()(model, Evidence(few(), 0, compute)).values
    assert found.isfinite().sum() == units(model).layers[-1].size
