"""Small image-to-image networks for attacks whose trigger is computed from the picture it is put on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.compute import Compute
from engine.models.base import init_weights


class Generator(nn.Module):
    """Images (N, C, H, W) in [0, 1] -> (N, out, H, W) in (-1, 1): an encoder and a decoder with two halvings.

    Two are what the authors of Dynamic have for MNIST (three for CIFAR-10). Any size of image will do. ``width`` is
    the number of channels at full size, doubled at half of it.
    """

    def __init__(self, channels: int, out: int, width: int) -> None:
        super().__init__()
        self.down1 = nn.Sequential(_block(channels, width), _block(width, width))
        self.down2 = nn.Sequential(_block(width, 2 * width), _block(2 * width, 2 * width))
        self.middle = _block(2 * width, 2 * width)
        self.up2 = nn.Sequential(_block(2 * width, 2 * width), _block(2 * width, width))
        self.up1 = nn.Sequential(_block(width, width), nn.Conv2d(width, out, 3, padding=1), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        half = F.max_pool2d(self.down1(2 * x - 1), 2, ceil_mode=True)
        out = self.middle(F.max_pool2d(self.down2(half), 2, ceil_mode=True))
        out = self.up2(F.interpolate(out, size=half.shape[-2:]))
        return self.up1(F.interpolate(out, size=x.shape[-2:])).float().tanh()


def _block(cin: int, cout: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(cin, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU())


def fresh(channels: int, out: int, width: int, rng: torch.Generator, compute: Compute) -> Generator:
    """An untrained generator whose weights are drawn from ``rng``."""
    with torch.device("meta"):  # the layers would draw their own from the global generator
        net = Generator(channels, out, width)
    net.to_empty(device="cpu")
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    init_weights(net, rng)
    compute.model(net)
    return net


@torch.no_grad()
def settle(net: nn.Module, batches: Iterable[Tensor]) -> None:
    """Measure the statistics of the normalisation layers anew, as means over batches; the weights stay.

    The running ones lag behind weights that move fast: in evaluation mode the network would be another one.
    """
    layers = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    net.train()
    for x in batches:
        net(x)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def stored(net: nn.Module, name: str) -> dict[str, Tensor]:
    """The state of a network as tensors ``name.…``, for :meth:`Attack.bound`.

    In the memory format of a stored file: the convolutions of another one round differently.
    """
    return {
        f"{name}.{key}": value.detach().clone(memory_format=torch.contiguous_format)
        for key, value in net.state_dict().items()
    }


def loaded(state: Mapping[str, Tensor], name: str, channels: int, device: torch.device) -> Generator:
    """The generator of that name from what :func:`stored` gave, frozen and in evaluation mode.

    Raises:
        ValueError: if there is none for images with so many channels.
    """
    own = {key.removeprefix(f"{name}."): v.to(device) for key, v in state.items() if key.startswith(f"{name}.")}
    if not own:
        raise ValueError(f"expected a trigger with a trained {name}, got one that has learned nothing yet")
    first, last = own["down1.0.0.weight"], own["up1.1.weight"]
    if first.shape[1] != channels:
        raise ValueError(f"expected images with {first.shape[1]} channels for this trigger, got {channels}")
    with torch.device("meta"):
        net = Generator(channels, len(last), len(first))
    net.load_state_dict(own, assign=True)
    return net.requires_grad_(False).eval()
