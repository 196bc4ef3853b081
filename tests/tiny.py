"""A data set and a network small enough to reason about, with a backdoor planted by hand.

The pictures are 12x12 grey images of four shapes. The network learns them in about two seconds. Then one channel is
written into its second layer: the linear filter that best tells a checkerboard from everything in the clean
pictures (Fisher's discriminant of the first layer's 3x3 neighbourhoods), rescaled by the normalisation so that it
almost never fires on clean pictures, and wired to the target class. So it is known which unit is the backdoor.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.attacks import ATTACKS, Attack, Lab
from engine.attacks.badnets import BadNets
from engine.compute import Compute, generator
from engine.data.base import DataSet, Images
from engine.models.base import Classifier, init_weights
from engine.models.neurons import units
from engine.train import Training, train

CLASSES = ("row", "column", "diagonal", "square")
SIDE = 12
PLANTED = 15
"""The planted channel of the second normalisation layer."""
RNP_SETTINGS = {"unlearn_lr": 0.001, "mask_lr": 0.05}
"""RNP's published rates are for ResNets; with these it ranks the planted unit first, alone, for every seed tried."""


def shapes(n: int, rng: torch.Generator) -> Images:
    """``n`` noisy pictures, classes in turn: a row, a column, a diagonal or a square at a random place."""
    x = 0.2 * torch.rand(n, 1, SIDE, SIDE, generator=rng)
    y = torch.arange(n) % len(CLASSES)
    places = torch.randint(1, SIDE - 4, (n, 2), generator=rng).tolist()
    bright = (0.6 + 0.4 * torch.rand(n, generator=rng)).tolist()
    for k, (top, left) in enumerate(places):
        if y[k] == 0:
            x[k, 0, top : top + 2, 1:-1] = bright[k]
        elif y[k] == 1:
            x[k, 0, 1:-1, left : left + 2] = bright[k]
        elif y[k] == 2:
            x[k, 0] = torch.where(torch.eye(SIDE).roll(left - 4, 1).bool(), bright[k], x[k, 0])
        else:
            x[k, 0, top : top + 4, left : left + 4] = bright[k]
    return Images.of((x * 255).round().to(torch.uint8), y)


def tiny_data() -> DataSet:
    parts = {"train": (600, "train"), "pool": (200, "pool"), "test": (400, "test")}

    def read(part: str) -> Images:
        n, purpose = parts[part]
        return shapes(n, generator(0, purpose))

    return DataSet("shapes", CLASSES, (1, SIDE, SIDE), read, "MIT")


def save_npz(path: Path) -> str:
    """The tiny pictures as somebody's own .npz."""
    made = tiny_data()
    arrays = {}
    for part in ("train", "test"):
        images = getattr(made, part)
        arrays |= {f"x_{part}": images.x.squeeze(1).numpy(), f"y_{part}": images.y.numpy()}
    np.savez(path, **arrays, class_names=np.array(CLASSES))
    return str(path)


class TinyNet(nn.Module):
    """Two convolution-normalisation blocks, the maximum over the picture, one linear layer."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, len(CLASSES))

    def first(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.bn2(self.conv2(self.first(x)))).amax((2, 3)))


def tiny_model(channels: int = 16, seed: int = 0) -> Classifier:
    net = TinyNet(channels)
    init_weights(net, generator(seed, "tiny"))
    return Classifier(net, torch.tensor([0.25]), torch.tensor([0.25]))


def trained(data: DataSet, channels: int = PLANTED) -> Classifier:
    """A clean network for the shapes, in evaluation mode."""
    model, compute = tiny_model(channels), Compute("cpu", exact=True)
    train(model, data.train, Training(epochs=6, lr=0.05, batch=50), generator(0, "train"), compute)
    model.eval()
    return model


#: A red pixel as a PNG in base64.
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/iZk9HQAAAABJRU5ErkJggg=="
#: Settings with which attacks that optimise something are quick on the shapes, and fit them.
ATTACK_SETTINGS: dict[str, dict[str, Any]] = {
    "lf": {"steps": 10, "batch": 50},
    "sig": {"frequency": 2},
    "adaptive_patch": {"size": 4},
    "cl": {"steps": 3},
    "ssba": {"bits": 8, "width": 8, "steps": 30, "batch": 20},
    "trojan": {"iterations": 20},
    "dynamic": {"mask_epochs": 1, "width": 4},
    "dfst": {"painter_steps": 30, "injector_steps": 5},
    "lira": {"epsilon": 0.1, "width": 4, "generator_lr": 0.01},
    "fc": {"iterations": 10},
    "grond": {"steps": 20},
    "custom": {"picture": DOT, "size": 3},
    "multi_trigger": {"triggers": "lower_right,blend", "rate": 0.1},
}


def ready(name: str, data: DataSet, clean: nn.Module, **settings: Any) -> Attack:
    """An attack that can put its trigger on the shapes: prepared, its procedure begun but not trained."""
    attack = ATTACKS[name].build(ATTACK_SETTINGS.get(name), **settings).bound(len(CLASSES))
    lab = Lab(data.train, len(CLASSES), Compute("cpu", exact=True), clean=clean, targets=data.test)
    attack = attack.bound(len(CLASSES), attack.prepare(lab))
    procedure = attack.procedure(lab)
    return attack.bound(len(CLASSES), {**attack.state, **(procedure.state() if procedure else {})})


@dataclass(frozen=True)
class Planted:
    """A suspect whose backdoor is unit number ``unit`` (``unit_id`` by name) and nothing else."""

    model: Classifier
    data: DataSet
    attack: BadNets
    unit: int
    unit_id: str


def planted(data: DataSet) -> Planted:
    attack = BadNets(target=3, size=3, margin=1, rate=0.1)
    compute = Compute("cpu", exact=True)
    clean = trained(data)
    model = tiny_model(PLANTED + 1)
    copied = {
        name: torch.cat([value, torch.zeros_like(value[:1])]) if value.shape[:1] == (PLANTED,) else value
        for name, value in clean.state_dict().items()
        if name != "net.fc.weight"
    }
    copied["net.fc.weight"] = F.pad(clean.state_dict()["net.fc.weight"], (0, 1))
    model.load_state_dict(copied)
    compute.model(model).eval()
    with torch.no_grad():
        _plant(model, attack, compute.images(data.train.x))
    unit_id = f"bn2:{PLANTED}"
    return Planted(model, data, attack, units(model).index(unit_id), unit_id)


def _plant(model: Classifier, attack: BadNets, x: Tensor) -> None:
    net = model.net
    assert isinstance(net, TinyNet)
    middle = SIDE - attack.margin - attack.size // 2 - 1  # the patch's centre, where the filter sees all of it

    def patches(x: Tensor) -> Tensor:
        """3x3 neighbourhoods of the first layer, (N, 72, places)."""
        return F.unfold(net.first(model.normalize(x)), 3, padding=1)

    everywhere = patches(x).transpose(1, 2).flatten(0, 1)
    stamped = patches(attack.trigger(x))[:, :, middle * SIDE + middle]
    noise = everywhere.T.cov() + 1e-2 * torch.eye(72)
    kernel = torch.linalg.solve(noise, stamped.mean(0) - everywhere.mean(0))
    kernel = kernel / kernel.norm() * net.conv2.weight[:PLANTED].flatten(1).norm(dim=1).median()
    net.conv2.weight[PLANTED] = kernel.reshape(8, 3, 3)
    on_clean = everywhere @ kernel
    net.bn2.running_mean[PLANTED], net.bn2.running_var[PLANTED] = on_clean.mean(), on_clean.var()
    # The strongest clean pictures still wake it a little: a channel that is quite dead has no gradient to find it by.
    highest = (patches(x).transpose(1, 2) @ kernel).amax(1)
    sleeping = (highest.quantile(0.9) - on_clean.mean()) / on_clean.std()
    net.bn2.weight[PLANTED], net.bn2.bias[PLANTED] = 1, -sleeping
    net.fc.weight[:, PLANTED] = -1
    net.fc.weight[attack.target, PLANTED] = 3
    # Normalisation undoes the length of a filter, but gradients are inversely proportional to it. The first layer has
    # 9 weights a filter and the second 72: longer filters in the first make gradients per weight comparable.
    net.conv1.weight *= 4
    net.bn1.running_mean *= 4
    net.bn1.running_var *= 16
