"""Masks: what they cut, and that nothing of them stays."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from engine.compute import Compute, generator
from engine.models.base import Classifier
from engine.models.masking import MODES, Mode, apply_cut, masked, scaled_weights
from engine.models.neurons import no_units
from tests.tiny import SIDE, Planted, TinyNet, tiny_model


def plain_model() -> Classifier:
    """Without normalisation; biases differ from zero, so that scaling and silencing could differ."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 6), nn.ReLU(), nn.Linear(6, 4))
    rng = generator(0, "plain")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
    return Classifier(net, torch.zeros(1), torch.ones(1)).eval()


def pictures(n: int = 5) -> Tensor:
    return torch.rand(n, 1, SIDE, SIDE, generator=generator(1, "pictures"))


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Bit for bit: a zero that came back as minus zero would not do."""
    return all(a[k].numpy().tobytes() == b[k].numpy().tobytes() for k in a) and a.keys() == b.keys()


def hooks_of(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def some(model: nn.Module, *which: int) -> Tensor:
    cut = no_units(model)
    cut[list(which)] = True
    return cut


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", [tiny_model, plain_model])
def test_nothing_survives_the_block(make, mode: Mode) -> None:
    model = make()
    before, names = state_of(model), [name for name, _ in model.named_modules()]
    flags = [p.requires_grad for p in model.parameters()]
    with masked(model, some(model, 0, 3, 7), mode) as inside:
        assert inside is model
        assert not same(state_of(model), before)
    assert same(state_of(model), before)
    assert hooks_of(model) == 0
    assert [name for name, _ in model.named_modules()] == names
    assert [p.requires_grad for p in model.parameters()] == flags


@pytest.mark.parametrize("mode", MODES)
def test_nothing_survives_an_exception(mode: Mode) -> None:
    model = tiny_model()
    before = state_of(model)

    def fail() -> None:
        with masked(model, ~no_units(model), mode):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert same(state_of(model), before)
    assert hooks_of(model) == 0


def test_masks_nest() -> None:
    model = tiny_model()
    before = state_of(model)
    with masked(model, some(model, 1)):
        outer = state_of(model)
        with masked(model, some(model, 1, 2)):
            assert int((model.net.bn1.weight == 0).sum()) == 2
        assert same(state_of(model), outer)
    assert same(state_of(model), before)


def test_the_empty_cut_changes_nothing() -> None:
    model = tiny_model()
    before = state_of(model)
    with masked(model, no_units(model)):
        assert same(state_of(model), before)


def test_scale_keeps_the_bias_and_silence_does_not() -> None:
    model = tiny_model().eval()
    net = model.net
    assert isinstance(net, TinyNet)
    with torch.no_grad():
        net.bn2.bias.fill_(0.7)
    unit, x = 8 + 3, pictures()

    def channel() -> Tensor:
        with torch.no_grad():
            return net.bn2(net.conv2(net.first(model.normalize(x))))

    untouched = channel()
    with masked(model, some(model, unit), "scale"):
        scaled = channel()
    with masked(model, some(model, unit), "silence"):
        silenced = channel()
    others = torch.arange(16) != 3
    assert torch.equal(scaled[:, 3], torch.full_like(scaled[:, 3], 0.7))
    assert torch.equal(silenced[:, 3].abs(), torch.zeros_like(silenced[:, 3]))
    assert torch.equal(scaled[:, others], untouched[:, others])
    assert torch.equal(silenced[:, others], untouched[:, others])


def test_without_normalisation_the_two_modes_are_one() -> None:
    model, x = plain_model(), pictures()
    cut = some(model, 1, 5, 6)
    with torch.no_grad():
        with masked(model, cut, "scale"):
            scaled, first = model(x), model.net[0](x)  # type: ignore[index]
        with masked(model, cut, "silence"):
            silenced = model(x)
    assert torch.equal(scaled, silenced)
    assert not first[:, 1].any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", [tiny_model, plain_model])
def test_a_cut_for_good_equals_the_mask(make, mode: Mode) -> None:
    model, x = make().eval(), pictures()
    cut = some(model, 0, 2, 9)
    with torch.no_grad():
        with masked(model, cut, mode):
            expected = model(x)
        for_good = copy.deepcopy(model)
        apply_cut(for_good, cut, mode)
        assert torch.equal(for_good(x), expected)


@pytest.mark.parametrize("make", [tiny_model, plain_model])
def test_soft_masks_of_zero_and_one_are_the_cut(make) -> None:
    model, x = make().eval(), pictures()
    cut = some(model, 0, 2, 9)
    with torch.no_grad():
        with masked(model, cut, "scale"):
            expected = model(x)
        soft = functional_call(model, scaled_weights(model, (~cut).float()), (x,))
        untouched = functional_call(model, scaled_weights(model, torch.ones(len(cut))), (x,))
        assert torch.equal(soft, expected)
        assert torch.equal(untouched, model(x))


def test_gradients_flow_to_the_soft_mask_and_not_to_the_weights() -> None:
    model = tiny_model().eval()
    mask = torch.ones(24, requires_grad=True)
    before = state_of(model)
    functional_call(model, scaled_weights(model, mask), (pictures(),)).square().sum().backward()
    assert mask.grad is not None
    assert mask.grad.isfinite().all()
    assert int((mask.grad != 0).sum()) > 12
    assert model.net.bn2.weight.grad is None
    assert same(state_of(model), before)


@pytest.mark.parametrize(
    "cut", [torch.zeros(23, dtype=torch.bool), torch.zeros(24), torch.zeros(1, 24, dtype=torch.bool)]
)
def test_a_cut_of_the_wrong_shape_is_refused_before_anything_changes(cut: Tensor) -> None:
    model = tiny_model()
    before = state_of(model)
    with pytest.raises(ValueError, match=r"^expected a bool cut over 24 units, got "), masked(model, cut):
        pass
    with pytest.raises(ValueError, match="expected a bool cut"):
        apply_cut(model, cut)
    assert same(state_of(model), before)


def test_an_unknown_mode_is_refused() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match=r"^expected mode to be scale or silence, got 'erase'$"):
        apply_cut(model, no_units(model), "erase")  # type: ignore[arg-type]


def test_masking_and_measuring_leave_no_hooks_on_the_suspect(planted: Planted, compute: Compute) -> None:
    before = state_of(planted.model)
    with masked(planted.model, some(planted.model, planted.unit)):
        compute.logits(planted.model, planted.data.test.x[:10])
    assert hooks_of(planted.model) == 0
    assert same(state_of(planted.model), before)
