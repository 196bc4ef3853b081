"""Every architecture of the zoo: it runs, its units lie on the compute path, and masks on them leave no trace."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from engine.models import MODELS, WIDTHS, build, constructor_call, import_line, source_file
from engine.models.masking import MODES, apply_cut, masked
from engine.models.neurons import module_prefix, unit_modules, units

NAMES = tuple(MODELS)
RESIZABLE = tuple(name for name in NAMES if MODELS[name].width is not None)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These networks are so small here that threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(name: str, channels: int = 3) -> nn.Module:
    width = 8 if name in RESIZABLE else None
    return build(name, classes=4, channels=channels, width=width, rng=generator()).eval()


def pictures(name: str, channels: int = 3, n: int = 2) -> torch.Tensor:
    side = max(MODELS[name].min_side, 28 if channels == 1 else 32)
    return torch.rand(n, channels, side, side, generator=generator(1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_runs_on_small_images(name: str, channels: int) -> None:
    model = small(name, channels)
    with torch.no_grad():
        logits = model(pictures(name, channels))
    assert logits.shape == (2, 4)
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("name", "width", "expected"),
    [
        ("resnet18", None, 4_800),
        ("resnet18", 32, 2_400),
        ("preact_resnet18", None, 3_392),
        ("vgg19_bn", None, 5_504),
        ("wrn16", None, 464),
        ("wrn16", 32, 16 + 32 * 3 + 32 + 64 * 3 + 64 + 128 * 3 + 128),
        ("cnn4", 8, 8 + 16 + 32 + 64),
        ("mobilenet_v2", None, 17_056),
        ("efficientnet_b0", None, 21_008),
        ("resnet18_imagenet", None, 4_800),
        ("resnet50_imagenet", None, 26_560),
    ],
)
def test_unit_counts(name: str, width: int | None, expected: int) -> None:
    found = units(build(name, classes=10, channels=3, width=width))
    assert len(found) == expected
    assert found.index(found.id(expected - 1)) == expected - 1


@pytest.mark.parametrize("name", NAMES)
def test_every_unit_layer_computes(name: str) -> None:
    """A forward pass goes through the modules that hold the units, once each."""
    model, calls = small(name), []
    for layer, module in zip(units(model).layers, unit_modules(model), strict=True):
        module.register_forward_hook(lambda *_, layer=layer: calls.append(layer.name))
    with torch.no_grad():
        model(pictures(name, n=1))
    assert sorted(calls) == sorted(layer.name for layer in units(model).layers)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_masks_leave_no_trace(name: str, mode: str) -> None:
    model, x = small(name), pictures(name)
    cut = torch.rand(len(units(model)), generator=generator(2)) < 0.3
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad(), masked(model, cut, mode):  # type: ignore[arg-type]
        changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
        assert model(x).isfinite().all()
    assert changed
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize("name", NAMES)
def test_a_raised_error_leaves_no_mask(name: str) -> None:
    model = small(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="stop"), masked(model, torch.ones(len(units(model))).bool()):
        raise RuntimeError("stop")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def give_biases(model: nn.Module) -> None:
    for module in unit_modules(model):
        nn.init.uniform_(module.bias, 0.5, 1.5, generator=generator(3))


@pytest.mark.parametrize("name", NAMES)
def test_silence_zeroes_the_output_and_scale_leaves_the_bias(name: str) -> None:
    """A cut channel gives exactly 0 when silenced and exactly its bias, everywhere, when scaled to nothing."""
    model, x = small(name), pictures(name, n=1)
    give_biases(model)
    n = len(units(model))
    cut = torch.zeros(n, dtype=torch.bool)
    cut[torch.arange(0, n, 3)] = True
    outputs: dict[str, torch.Tensor] = {}
    for layer, module in zip(units(model).layers, unit_modules(model), strict=True):
        # Cloned, because torchvision's activations overwrite their input.
        module.register_forward_hook(lambda *a, layer=layer: outputs.update({layer.name: a[2].detach().clone()}))
    has_norm = units(model).layers[0].kind == "norm"
    for mode in MODES:
        with torch.no_grad(), masked(model, cut, mode):
            model(x)
        for layer, module in zip(units(model).layers, unit_modules(model), strict=True):
            part, out = cut[layer.span], outputs[layer.name]
            channels = out[0].flatten(1) if out.ndim == 4 else out[0][:, None]
            assert isinstance(module.bias, torch.Tensor)
            expected = module.bias[part, None] if mode == "scale" and has_norm else torch.zeros(())
            assert torch.equal(channels[part], expected.expand_as(channels[part]))
            assert channels[~part].abs().amax(dim=1).gt(0).all()


def test_apply_cut_equals_a_mask() -> None:
    model, x = small("preact_resnet18"), pictures("preact_resnet18")
    give_biases(model)
    cut = torch.rand(len(units(model)), generator=generator(4)) < 0.2
    with torch.no_grad():
        with masked(model, cut):
            inside = model(x)
        apply_cut(model, cut)
        assert torch.equal(model(x), inside)


def test_backdoorbench_names() -> None:
    keys = set(small("preact_resnet18").net.state_dict())  # type: ignore[union-attr]
    assert {"conv1.weight", "layer2.0.shortcut.0.weight", "layer4.1.bn2.running_mean", "linear.bias"} <= keys
    assert not any(key.startswith(("bn", "layer1.0.shortcut")) for key in keys)


@pytest.mark.parametrize("name", NAMES)
def test_the_named_source_rebuilds_the_network(name: str) -> None:
    """What an exported checkpoint says about itself is true: its file alone and one expression, no engine."""
    model = build(name, classes=4, channels=3, width=8 if name in RESIZABLE else None)
    file = source_file(name)
    call = constructor_call(name, 4, 3, 8 if name in RESIZABLE else None)
    scope: dict[str, object] = {}
    if file is None:
        exec(import_line(name), scope)
    else:
        assert "engine" not in file.read_text()
        loader = importlib.util.spec_from_file_location(file.stem, file)
        assert loader is not None
        assert loader.loader is not None
        module = importlib.util.module_from_spec(loader)
        loader.loader.exec_module(module)
        imported = import_line(name).rpartition(" ")[2]
        assert import_line(name) == f"from {file.stem} import {imported}"
        scope[imported] = getattr(module, imported)
    net = eval(call, scope)
    net.load_state_dict(model.net.state_dict(), strict=True)
    model.eval()
    net.eval()
    x = pictures(name, n=1)
    with torch.no_grad():
        assert torch.equal(net(x), model(x))


@pytest.mark.parametrize("name", NAMES)
def test_initial_weights_come_from_the_generator(name: str) -> None:
    first, second = small(name), small(name)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_nothing_random_in_training() -> None:
    """Two passes in training mode agree, so a training is reproducible from its own generator."""
    for name in ("mobilenet_v2", "efficientnet_b0"):
        model, x = small(name).train(), pictures(name)
        with torch.no_grad():
            assert torch.equal(model(x), model(x))


def test_grey_images_reach_three_channels() -> None:
    grey = build("mobilenet_v2", classes=4, channels=1, mean=torch.tensor([0.3]), std=torch.tensor([0.2]))
    assert grey.normalize(torch.rand(2, 1, 28, 28)).shape == (2, 3, 28, 28)
    assert module_prefix(grey) == "net."
    other = build("mobilenet_v2", classes=4, channels=1)
    other.load_state_dict(grey.state_dict())
    assert torch.equal(other.normalize.std, torch.full((1, 3, 1, 1), 0.2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "resnet81"}, "expected model to be one of resnet18, .*, got 'resnet81'; did you mean 'resnet18'"),
        ({"width": 3}, f"expected width between {WIDTHS[0]} and {WIDTHS[1]} for resnet18, got 3"),
        ({"width": 10_000}, "got 10000"),
        ({"name": "mobilenet_v2", "width": 32}, "expected no width for mobilenet_v2, whose size is fixed, got 32"),
        ({"classes": 1}, "expected at least 2 classes, got 1"),
        ({"channels": 4}, "expected 1 or 3 colour channels, got 4"),
        ({"mean": torch.zeros(2)}, "expected 3 values for mean, one per channel, got 2"),
        ({"std": torch.tensor([1.0, 0.0, 1.0])}, "expected a positive std for each channel"),
    ],
)
def test_bad_input_is_one_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        build(**{"name": "resnet18", "classes": 10, "channels": 3, **values})  # type: ignore[arg-type]
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", NAMES)
def test_entries_are_complete(name: str) -> None:
    entry = MODELS[name]
    assert name.isidentifier()
    assert name == name.lower()
    assert entry.title
    assert entry.about.endswith(".")
    assert entry.paper.startswith("https://")
