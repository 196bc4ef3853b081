"""Looking at units: what they put out, what a trigger changes, which pixels they answer to."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from engine.compute import Compute
from engine.explain.activations import activation_change, mean_outputs
from engine.explain.answers import integrated_gradients
from engine.explain.attributions import attribution, conductance, neuron_integrated_gradients
from engine.explain.feature_maps import unit_maps, unit_means
from engine.explain.methods import METHODS
from engine.models.masking import masked
from engine.models.neurons import no_units, unit_modules, units
from tests.tiny import Planted


def plain_net() -> nn.Module:
    """Convolutions and linear layers without normalisation, with an activation that overwrites its input."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, stride=2),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(6 * 25, 7),
        nn.ReLU(inplace=True),
        nn.Linear(7, 4),
    )


def inplace_norm_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.ReLU(inplace=True),
        nn.Conv2d(5, 6, 3, stride=2),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )


NETS = [plain_net, inplace_norm_net]


def no_hooks(model: nn.Module) -> bool:
    return not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.rand(9, 1, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("net", NETS)
def test_mean_outputs_are_those_of_a_forward_pass_stopped_at_the_layer(
    net: Callable[[], nn.Module], pictures: Tensor, compute: Compute
) -> None:
    model = net()
    found = mean_outputs(model, pictures, compute, batch=4)
    rectified = mean_outputs(model, pictures, compute, batch=4, rectify=True)
    assert (found.shape, found.dtype) == ((9, len(units(model))), torch.float32)
    assert model.training
    assert no_hooks(model)
    model.eval()
    x = pictures.clone()
    layers = {id(module): layer for module, layer in zip(unit_modules(model), units(model).layers, strict=True)}
    with torch.no_grad():
        for module in model:  # type: ignore[attr-defined]
            x = module(x.clone())
            if id(module) in layers:
                span = layers[id(module)].span
                torch.testing.assert_close(found[:, span], x.mean((2, 3)) if x.ndim == 4 else x)
                torch.testing.assert_close(rectified[:, span], x.relu().mean((2, 3)) if x.ndim == 4 else x.relu())


def test_nothing_stays_behind_when_the_model_fails(compute: Compute) -> None:
    model = inplace_norm_net()
    for question in (
        lambda x: mean_outputs(model, x, compute),
        lambda x: unit_maps(model, 0, x),
        lambda x: attribution(model, 0, x, "neuron_gradient", compute),
    ):
        with pytest.raises(RuntimeError):
            question(torch.rand(2, 3, 12, 12))
        assert no_hooks(model)
        assert model.training


def test_uint8_and_float_pictures_are_the_same(planted: Planted, compute: Compute) -> None:
    x = planted.data.test.x[:10]
    torch.testing.assert_close(
        mean_outputs(planted.model, x, compute), mean_outputs(planted.model, x.float() / 255, compute)
    )


@pytest.mark.parametrize("net", NETS)
def test_maps_average_to_the_mean_outputs(net: Callable[[], nn.Module], pictures: Tensor, compute: Compute) -> None:
    model = net()
    means = mean_outputs(model, pictures, compute)
    for unit in range(len(units(model))):
        maps = unit_maps(model, unit, pictures)
        assert maps.ndim == 3
        assert maps.min() < 0 or means[:, unit].min() >= 0  # not overwritten by the activation behind it
        torch.testing.assert_close(maps.mean((1, 2)), means[:, unit])
        torch.testing.assert_close(unit_means(model, unit, pictures, compute), means[:, unit])
    assert no_hooks(model)
    with pytest.raises(ValueError, match="expected a unit between 0 and"):
        unit_maps(model, len(units(model)), pictures)


def test_activation_change_equals_its_definition(planted: Planted, compute: Compute) -> None:
    clean = planted.data.test.x[:30].float() / 255
    triggered = planted.attack.trigger(clean)
    change = activation_change(planted.model, clean, triggered, compute, batch=8)
    for unit in (0, 9, planted.unit):
        difference = unit_maps(planted.model, unit, clean) - unit_maps(planted.model, unit, triggered)
        expected = difference.flatten(1).norm(dim=1).mean()
        torch.testing.assert_close(change[unit], expected, rtol=1e-4, atol=1e-5)
    assert no_hooks(planted.model)
    assert activation_change(planted.model, clean, clean, compute).abs().max() == 0


def test_activation_change_of_a_plain_network(pictures: Tensor, compute: Compute) -> None:
    model = plain_net()
    change = activation_change(model, pictures, pictures.flip(0), compute, batch=3)
    linear = units(model).layers[2]
    outputs = mean_outputs(model, pictures, compute)[:, linear.span]
    torch.testing.assert_close(change[linear.span], (outputs - outputs.flip(0)).abs().mean(0))
    with pytest.raises(ValueError, match="expected as many triggered images"):
        activation_change(model, pictures, pictures[:3], compute)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("net", NETS)
def test_every_method_works_on_every_unit(
    net: Callable[[], nn.Module], method: str, pictures: Tensor, compute: Compute
) -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    for unit in {layer.offset for layer in units(model).layers} | {len(units(model)) - 1}:
        maps = attribution(model, unit, pictures[:2], method, compute)
        assert (maps.shape, maps.dtype) == ((2, 12, 12), torch.float32)
        assert maps.isfinite().all()
    assert model.training
    assert no_hooks(model)
    assert not pictures.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("net", NETS)
def test_gradients_of_a_unit_are_torchs(net: Callable[[], nn.Module], pictures: Tensor, compute: Compute) -> None:
    model, unit = net().eval(), 6
    first, module = 5, unit_modules(model)[1]
    if units(model).layers[0].size == 4:
        first = 4
    seen: list[Tensor] = []
    hook = module.register_forward_hook(lambda _m, _x, out: seen.append(out.clone()))
    x = pictures[:3].clone().requires_grad_()
    model(x)
    hook.remove()
    (expected,) = torch.autograd.grad(seen[0][:, unit - first].mean((1, 2)).sum(), x)
    torch.testing.assert_close(attribution(model, unit, pictures[:3], "neuron_gradient", compute), expected[:, 0])
    torch.testing.assert_close(
        attribution(model, unit, pictures[:3], "neuron_gradient_x_input", compute), (expected * x)[:, 0].detach()
    )


def test_integrated_gradients_sum_to_the_difference_from_black(planted: Planted, compute: Compute) -> None:
    x = planted.attack.trigger(planted.data.test.x[:4].float() / 255)
    parts = neuron_integrated_gradients(planted.model, planted.unit, x, steps=200)
    both = mean_outputs(planted.model, torch.cat([x, torch.zeros_like(x)]), compute)[:, planted.unit]
    torch.testing.assert_close(parts.sum((1, 2)), both[:4] - both[4:], rtol=0.03, atol=0.01)


def test_the_planted_unit_looks_at_the_trigger(planted: Planted, compute: Compute) -> None:
    x = planted.attack.trigger(planted.data.test.x[:20].float() / 255)
    end = slice(12 - 1 - 3 - 2, 12)  # the patch and what the filters see around it
    where = unit_maps(planted.model, planted.unit, x).flatten(1).argmax(1)
    assert ((where // 12 >= end.start) & (where % 12 >= end.start)).float().mean() > 0.9
    change = activation_change(planted.model, planted.data.test.x[:20].float() / 255, x, compute)
    assert int(change[units(planted.model).layers[1].span].argmax()) == planted.unit - 8


def test_gradcam_explains_the_answer_it_is_asked_for(planted: Planted, compute: Compute) -> None:
    x = planted.attack.trigger(planted.data.test.x[:6].float() / 255)
    said = compute.logits(planted.model, x).argmax(1)
    own = attribution(planted.model, planted.unit, x, "layer_gradcam", compute)
    torch.testing.assert_close(own, attribution(planted.model, planted.unit, x, "layer_gradcam", compute, said))
    other = attribution(planted.model, planted.unit, x, "layer_gradcam", compute, (said + 1) % 4)
    assert not torch.allclose(own, other)


def test_a_cut_unit_has_no_gradient(planted: Planted, compute: Compute) -> None:
    cut = no_units(planted.model)
    cut[planted.unit] = True
    model = copy.deepcopy(planted.model)
    with masked(model, cut):
        maps = attribution(model, planted.unit, planted.data.test.x[:2], "neuron_gradient", compute)
        constant = unit_maps(model, planted.unit, planted.data.test.x[:2])
        assert constant.min() == constant.max()
    assert maps.abs().max() == 0


def test_unknown_methods_and_networks_without_convolutions_are_refused(pictures: Tensor, compute: Compute) -> None:
    with pytest.raises(ValueError, match="expected method to be one of neuron_gradient, .* got 'magic'"):
        attribution(plain_net(), 0, pictures, "magic", compute)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(144, 3), nn.ReLU(), nn.Linear(3, 4))
    assert attribution(flat, 1, pictures, "neuron_gradient", compute).shape == (9, 12, 12)
    with pytest.raises(ValueError, match="expected a network with convolutions"):
        attribution(flat, 1, pictures, "layer_gradcam", compute)


def test_conductance_of_a_layer_sums_to_the_difference_from_black(pictures: Tensor, compute: Compute) -> None:
    for net in NETS:
        model = net().eval()
        x, target = pictures[:2], torch.tensor([1, 2])
        rows = torch.arange(2)
        with torch.no_grad():
            wanted = (model(x) - model(torch.zeros_like(x)))[rows, target]
        for layer in units(model).layers:  # everything passes each of them
            through = [conductance(model, u, x, target, steps=120) for u in range(len(units(model)))[layer.span]]
            torch.testing.assert_close(torch.stack(through).sum((0, 2, 3)), wanted, rtol=0.05, atol=2e-3)


def test_integrated_gradients_of_the_answer_sum_to_the_difference_from_black(planted: Planted) -> None:
    x = planted.attack.trigger(planted.data.test.x[:4].float() / 255)
    target = torch.full((4,), planted.attack.target)
    parts = integrated_gradients(planted.model, x, target, steps=200)
    with torch.no_grad():
        wanted = (planted.model(x) - planted.model(torch.zeros_like(x)))[:, planted.attack.target]
    torch.testing.assert_close(parts.sum((1, 2)), wanted, rtol=0.03, atol=0.02)


def test_without_the_trigger_the_target_loses_most(planted: Planted, compute: Compute) -> None:
    """Occlusion finds the patch, and what it finds there is gone once the planted unit is cut."""
    x = planted.attack.trigger(planted.data.test.x[:8].float() / 255)
    target = torch.full((8,), planted.attack.target)
    found = attribution(planted.model, 0, x, "occlusion", compute, target)
    patch = slice(7, 12)
    assert (found[:, patch, patch].amax((1, 2)) == found.amax((1, 2))).float().mean() > 0.8
    cut = no_units(planted.model)
    cut[planted.unit] = True
    with masked(planted.model, cut, "silence"):
        after = attribution(planted.model, 0, x, "occlusion", compute, target)
    assert after[:, patch, patch].amax((1, 2)).mean() < found[:, patch, patch].amax((1, 2)).mean() / 2
