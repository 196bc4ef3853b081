"""The model zoo: architectures by name, each a plain torch network behind its own normalisation.

An architecture lives in a file without engine imports, so that the file alone, shipped beside an exported
checkpoint, rebuilds the network; torchvision's unaltered networks need no file at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from engine import torchvision_compat as _compat  # noqa: F401  (must come before any torchvision import)
from engine.models import cnn, imagenet, preact_resnet, resnet, resnet_cifar, small_vgg, vgg, wide_resnet
from engine.models.base import Classifier, init_weights
from engine.registry import Registry

WIDTHS = (4, 256)


@dataclass(frozen=True)
class Model:
    """One architecture.

    ``make`` builds the bare network from ``classes`` and, where they can be chosen, ``channels`` and ``width``;
    ``width`` is the default number of channels of the first stage, None where the size is fixed; ``min_side`` is the
    smallest image side in pixels that the network is meant for; ``torchvision`` names the function of
    ``torchvision.models`` that gives the same network, where there is one.
    """

    title: str
    about: str
    paper: str
    make: Callable[..., nn.Module]
    width: int | None
    min_side: int
    torchvision: str | None = None

    @property
    def three_channels(self) -> bool:
        """torchvision's networks take three channels; grey images are repeated by the normalisation."""
        return self.width is None


_RESNET = "https://arxiv.org/abs/1512.03385"

MODELS: Registry[Model] = Registry("model")
MODELS.add(
    "resnet18",
    Model(
        title="ResNet-18",
        about="Residual network with a stem for small images; the usual choice in backdoor papers.",
        paper=_RESNET,
        make=resnet.ResNet18,
        width=64,
        min_side=16,
    ),
)
MODELS.add(
    "preact_resnet18",
    Model(
        title="PreActResNet-18",
        about="Residual network that normalises before each convolution; BackdoorBench's standard, with its names.",
        paper="https://arxiv.org/abs/1603.05027",
        make=preact_resnet.PreActResNet18,
        width=64,
        min_side=16,
    ),
)
MODELS.add(
    "vgg19_bn",
    Model(
        title="VGG-19-BN",
        about="Sixteen convolutions in a row, each normalised, and one linear layer.",
        paper="https://arxiv.org/abs/1409.1556",
        make=vgg.VGG19BN,
        width=64,
        min_side=16,
    ),
)
MODELS.add(
    "wrn16",
    Model(
        title="WRN-16",
        about="Wide residual network of depth 16; width 16 is WRN-16-1, 32 is WRN-16-2.",
        paper="https://arxiv.org/abs/1605.07146",
        make=wide_resnet.WRN16,
        width=16,
        min_side=16,
    ),
)
MODELS.add(
    "resnet20",
    Model(
        title="ResNet-20",
        about="The CIFAR network of the residual paper: nine thin blocks, shortcuts without parameters.",
        paper=_RESNET,
        make=resnet_cifar.ResNet20,
        width=16,
        min_side=16,
    ),
)
MODELS.add(
    "small_vgg",
    Model(
        title="VGG, 6 layers",
        about="Six normalised convolutions with ELU and one linear layer, as in I-BAU's checkpoints.",
        paper="https://arxiv.org/abs/2110.03735",
        make=small_vgg.SmallVGG,
        width=32,
        min_side=16,
    ),
)
MODELS.add(
    "mobilenet_v2",
    Model(
        title="MobileNetV2",
        about="torchvision's network of separable convolutions, with a stem for small images.",
        paper="https://arxiv.org/abs/1801.04381",
        make=imagenet.mobilenet_v2,
        width=None,
        min_side=16,
    ),
)
MODELS.add(
    "efficientnet_b0",
    Model(
        title="EfficientNet-B0",
        about="torchvision's network with squeeze-and-excitation, with a stem for small images.",
        paper="https://arxiv.org/abs/1905.11946",
        make=imagenet.efficientnet_b0,
        width=None,
        min_side=16,
    ),
)
MODELS.add(
    "cnn4",
    Model(
        title="CNN, 4 layers",
        about="Three convolutions and a hidden linear layer without normalisation; its units are output channels.",
        paper="https://doi.org/10.1109/5.726791",
        make=cnn.CNN4,
        width=32,
        min_side=8,
    ),
)
MODELS.add(
    "resnet18_imagenet",
    Model(
        title="ResNet-18, ImageNet size",
        about="torchvision's ResNet-18 with the stem for photographs.",
        paper=_RESNET,
        make=imagenet.resnet18,
        width=None,
        min_side=64,
        torchvision="resnet18",
    ),
)
MODELS.add(
    "resnet34_imagenet",
    Model(
        title="ResNet-34, ImageNet size",
        about="torchvision's ResNet-34 with the stem for photographs.",
        paper=_RESNET,
        make=imagenet.resnet34,
        width=None,
        min_side=64,
        torchvision="resnet34",
    ),
)
MODELS.add(
    "resnet50_imagenet",
    Model(
        title="ResNet-50, ImageNet size",
        about="torchvision's ResNet-50 with bottleneck blocks and the stem for photographs.",
        paper=_RESNET,
        make=imagenet.resnet50,
        width=None,
        min_side=64,
        torchvision="resnet50",
    ),
)


def _settings(name: str, classes: int, channels: int, width: int | None) -> dict[str, int]:
    """Check the sizes of a network and give them as keyword arguments of its constructor."""
    model = MODELS[name]
    if classes < 2:
        raise ValueError(f"expected at least 2 classes, got {classes}")
    if channels not in (1, 3):
        raise ValueError(f"expected 1 or 3 colour channels, got {channels}")
    if model.width is None:
        if width is not None:
            raise ValueError(f"expected no width for {name}, whose size is fixed, got {width}")
        return {"classes": classes}
    width = model.width if width is None else width
    if not WIDTHS[0] <= width <= WIDTHS[1]:
        raise ValueError(f"expected width between {WIDTHS[0]} and {WIDTHS[1]} for {name}, got {width}")
    return {"classes": classes, "channels": channels, "width": width}


def _per_channel(value: Tensor | None, neutral: float, channels: int, what: str) -> Tensor:
    if value is None:
        return torch.full((channels,), neutral)
    if value.numel() not in (1, channels):
        raise ValueError(f"expected {channels} values for {what}, one per channel, got {value.numel()}")
    return value.reshape(-1).expand(channels).clone()


def build(
    name: str,
    *,
    classes: int,
    channels: int,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    width: int | None = None,
    rng: torch.Generator | None = None,
) -> Classifier:
    """A network behind its normalisation: float images (N, channels, H, W) in [0, 1] -> logits (N, classes).

    Args:
        name: one of :data:`MODELS`.
        channels: 1 (grey) or 3 (colour) of the images.
        mean, std: per channel, of pixels in [0, 1]; without them pixels pass unchanged.
        width: channels of the first stage, where it can be chosen; the model's default otherwise.
        rng: draws the initial weights. Without it they come from torch's global generator, which does for
            weights that are about to be loaded.

    Raises:
        ValueError: for an unknown name or an impossible size.
    """
    settings = _settings(name, classes, channels, width)
    inputs = 3 if MODELS[name].three_channels else channels
    mean, std = _per_channel(mean, 0.0, channels, "mean"), _per_channel(std, 1.0, channels, "std")
    if not bool((std > 0).all()):
        raise ValueError(f"expected a positive std for each channel, got {[round(v, 4) for v in std.tolist()]}")
    net = MODELS[name].make(**settings)
    if rng is not None:
        init_weights(net, rng)
    # One grey channel minus three means is three channels: the normalisation repeats it for torchvision's networks.
    return Classifier(net, mean.expand(inputs).clone(), std.expand(inputs).clone())


def source_file(name: str) -> Path | None:
    """The file that alone, without the engine, rebuilds the bare network; None where torchvision has it unaltered."""
    model = MODELS[name]
    if model.torchvision is not None:
        return None
    return Path(__file__).with_name(model.make.__module__.rpartition(".")[2] + ".py")


def import_line(name: str) -> str:
    """The import that :func:`constructor_call` needs, with :func:`source_file` in the folder of the script."""
    file = source_file(name)
    return "import torchvision" if file is None else f"from {file.stem} import {MODELS[name].make.__name__}"


def constructor_call(name: str, classes: int, channels: int, width: int | None = None) -> str:
    """The python expression that builds the bare network after :func:`import_line`."""
    settings = _settings(name, classes, channels, width)
    model = MODELS[name]
    if model.torchvision is not None:
        return f"torchvision.models.{model.torchvision}(weights=None, num_classes={classes})"
    return f"{model.make.__name__}({', '.join(f'{key}={value}' for key, value in settings.items())})"


__all__ = ["MODELS", "WIDTHS", "Classifier", "Model", "build", "constructor_call", "import_line", "source_file"]
