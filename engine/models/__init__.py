"""The model zoo: architectures by name, each a plain torch network behind its own normalisation.

An architecture of our own lives in a file without engine imports, so that the file alone, shipped beside an
exported checkpoint, rebuilds the network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.models import resnet
from engine.models.base import Classifier, init_weights
from engine.registry import Registry

WIDTHS = (4, 256)


@dataclass(frozen=True)
class Model:
    """One architecture.

    ``make(classes, channels[, width])`` builds the bare network; ``width`` is the default number of channels of the
    first stage, None where it is fixed; ``min_side`` is the smallest image side in pixels that it is meant for.
    """

    title: str
    about: str
    paper: str
    make: Callable[..., nn.Module]
    width: int | None
    min_side: int


MODELS: Registry[Model] = Registry("model")
MODELS.add(
    "resnet18",
    Model(
        "ResNet-18",
        "Residual network with a stem for small images; the usual choice in backdoor papers.",
        "https://arxiv.org/abs/1512.03385",
        resnet.ResNet18,
        width=64,
        min_side=16,
    ),
)


def _settings(name: str, classes: int, channels: int, width: int | None) -> dict[str, int]:
    """Check the sizes of a network and give them as keyword arguments of its constructor."""
    model = MODELS[name]
    if classes < 2:
        raise ValueError(f"expected at least 2 classes, got {classes}")
    if channels < 1:
        raise ValueError(f"expected at least 1 colour channel, got {channels}")
    if model.width is None:
        if width is not None:
            raise ValueError(f"expected no width for {name}, whose size is fixed, got {width}")
        return {"classes": classes, "channels": channels}
    width = model.width if width is None else width
    if not WIDTHS[0] <= width <= WIDTHS[1]:
        raise ValueError(f"expected width between {WIDTHS[0]} and {WIDTHS[1]} for {name}, got {width}")
    return {"classes": classes, "channels": channels, "width": width}


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
    """A network behind its normalisation (x - mean) / std; without mean and std pixels pass unchanged."""
    net = MODELS[name].make(**_settings(name, classes, channels, width))
    mean = torch.zeros(channels) if mean is None else mean
    std = torch.ones(channels) if std is None else std
    if rng is not None:
        init_weights(net, rng)
    return Classifier(net, mean, std)


def source_file(name: str) -> Path | None:
    """The file that alone rebuilds the network; None where torchvision itself does."""
    module = MODELS[name].make.__module__
    return Path(__file__).with_name(module.rpartition(".")[2] + ".py")


def constructor_call(name: str, classes: int, channels: int, width: int | None = None) -> str:
    """The expression that builds the bare network from :func:`source_file`, or from torchvision."""
    settings = _settings(name, classes, channels, width)
    return f"{MODELS[name].make.__name__}({', '.join(f'{k}={v}' for k, v in settings.items())})"


__all__ = ["MODELS", "Classifier", "Model", "build", "constructor_call", "source_file"]
