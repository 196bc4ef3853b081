"""Input-Aware Dynamic Backdoor Attack. Nguyen and Tran, NeurIPS 2020.

https://arxiv.org/abs/2010.08138

Every picture gets a trigger of its own: one generator says where it goes, another what it looks like. Patterns are
pushed apart as far as the pictures are, and pictures with another picture's trigger keep their labels, so that no
single pattern opens the backdoor and a search for one universal trigger has nothing to find.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.attacks.base import COVER, CROSS, POISONED, Lab, Preset, Procedure
from engine.attacks.batchwise import Batchwise
from engine.attacks.generators import Generator, fresh, loaded, settle, stored
from engine.resume import passes
from engine.spec import param
from engine.train import batches


class Dynamic(Batchwise):
    """x' = (1 - M(x)) x + M(x) G(x).

    M is learned first: lambda_norm mean(max(0, M(x) - density)) + lambda_div mean(|x - z| / |M(x) - M(z)|), z another
    picture. Then G with the classifier: cross-entropy + lambda_div mean(|x - z| / |G(x) - G(z)|).
    """

    title: ClassVar[str] = "Dynamic (input-aware)"
    paper: ClassVar[str] = "https://arxiv.org/abs/2010.08138"
    learned: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(),
        "small": Preset(
            {"target": 8, "mask_epochs": 2, "width": 16},
            (
                "The target is class 8.",
                "The mask is learned in two passes instead of 25: beside five epochs of training, more would "
                "take most of the time.",
                "Generators have 16 channels at full size (the authors' for MNIST) instead of 32.",
                "The shipped model trains for five epochs, the other attacks' for three: the pattern is learned "
                "together with the classifier, and both need them.",
            ),
            epochs=5,
        ),
        "strong": Preset({"density": 0.064, "rate": 0.2}),
        "stealthy": Preset({"density": 0.016, "rate": 0.05}),
    }

    lambda_div: float = param(
        1.0, label="Diversity weight", help="How much two pictures' triggers must differ.", ge=0, le=100, step=0.1
    )
    lambda_norm: float = param(
        100.0, label="Mask weight", help="How much a mask above its density costs.", ge=0, le=10000, step=10
    )
    density: float = param(
        0.032, label="Mask density", help="Opacity of the mask that costs nothing.", gt=0, le=1, step=0.004
    )
    mask_epochs: int = param(
        25, label="Mask epochs", help="Passes in which the mask is learned, before all else.", ge=1, le=1000, step=1
    )
    width: int = param(32, label="Generator width", help="Channels at full size.", ge=2, le=256, step=2)
    generator_lr: float = param(
        0.01, label="Generator learning rate", help="Adam's rate for both generators.", gt=0, le=1, step=0.001
    )

    def trigger(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            mask, pattern = (loaded(self.state, name, x.shape[1], x.device) for name in ("mask", "pattern"))
            m = opacity(mask, x)
            return ((1 - m) * x + m * colours(pattern, x)).to(x.dtype).clamp(0, 1)

    def adam(self, net: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(net.parameters(), lr=self.generator_lr, betas=(0.5, 0.9))

    def prepare(self, lab: Lab) -> dict[str, Tensor]:
        net = fresh(lab.shape[0], 1, self.width, lab.rng("mask"), lab.compute).train()
        optimizer, rng, log = self.adam(net), lab.rng("mask order"), list[dict[str, float]]()
        for epoch in passes(lab.keep, "mask", self.mask_epochs, {"mask": net}, optimizer, None, rng, log):
            order = list(batches(len(lab.images), 128, rng))
            for step, index in enumerate(order):
                x = lab.compute.images(lab.images.x[index])
                with lab.compute.autocast():
                    m = opacity(net, x)
                loss = self.lambda_norm * F.relu(m - self.density).mean() + self.lambda_div * sameness(x, m)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if step % 10 == 0:
                    share = (epoch + step / len(order)) / self.mask_epochs
                    lab.progress(f"mask, pass {epoch + 1} of {self.mask_epochs}", share, loss=float(loss.detach()))
            log.append({"loss": float(loss.detach()), "density": float(m.detach().mean())})
        _settle(net, lab)
        return {key: value.cpu() for key, value in stored(net, "mask").items()}

    def procedure(self, lab: Lab) -> Procedure:
        return _Joint(self, lab)


class _Joint(Procedure):
    """Trains the pattern generator with the classifier; the mask is frozen."""

    def __init__(self, attack: Dynamic, lab: Lab) -> None:
        super().__init__()
        channels = lab.shape[0]
        self.attack, self.lab = attack, lab
        self.mask = loaded(attack.state, "mask", channels, lab.compute.torch_device)
        self.pattern = fresh(channels, channels, attack.width, lab.rng("pattern"), lab.compute)
        self.modules = {"pattern": self.pattern}
        self.optimizers = {"pattern": attack.adam(self.pattern)}

    def loss(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        rng: torch.Generator,
        share: float,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor, Tensor]:
        kinds = self.attack.draw(y.cpu(), rng)
        own = ((kinds == POISONED) | (kinds == COVER)).nonzero().squeeze(1).to(x.device)
        crossed = (kinds == CROSS).nonzero().squeeze(1).to(x.device)
        others = x.roll(1, 0)  # batches are shuffled: the one before is any other picture
        given = torch.cat([x[own], others[crossed]])
        apart = x.new_zeros(())
        if len(given):
            with torch.no_grad():
                m = opacity(self.mask, given)
            patterns = colours(self.pattern, torch.cat([given, others[own]]))
            places = torch.cat([own, crossed])
            x = x.index_put((places,), (1 - m) * x[places] + m * patterns[: len(given)])
            if len(own):
                apart = _ratio(given[: len(own)], others[own], patterns[: len(own)], patterns[len(given) :])
        poisoned = (kinds == POISONED).to(y.device)
        y = torch.where(poisoned, self.attack.label(y), y)
        logits = model(x).float()
        return F.cross_entropy(logits, y) + self.attack.lambda_div * apart, logits, y

    def epoch_ended(self, model: nn.Module, share: float) -> None:  # noqa: ARG002
        _settle(self.pattern, self.lab)

    def state(self) -> dict[str, Tensor]:
        return stored(self.pattern, "pattern")


def _settle(net: Generator, lab: Lab) -> None:
    with lab.compute.autocast():
        settle(net, (lab.compute.images(part) for part in lab.images.x[:4096].split(128)))


def opacity(mask: Generator, x: Tensor) -> Tensor:
    """M(x), (N, 1, H, W) in [0, 1]: pushed towards 0 and 1 by a steep second tanh, as the authors do."""
    return (10 * mask(x)).tanh() / 2 + 0.5


def colours(pattern: Generator, x: Tensor) -> Tensor:
    """G(x), (N, C, H, W) in [0, 1]."""
    return pattern(x) / 2 + 0.5


def sameness(x: Tensor, made: Tensor) -> Tensor:
    """Mean of |x - z| / |made(x) - made(z)|, z the picture before x in the batch."""
    return _ratio(x, x.roll(1, 0), made, made.roll(1, 0))


def _ratio(x: Tensor, z: Tensor, of_x: Tensor, of_z: Tensor) -> Tensor:
    def distance(a: Tensor, b: Tensor) -> Tensor:
        # The small number keeps the root's gradient finite where two are the same.
        return ((a - b).square().flatten(1).mean(1) + 1e-10).sqrt()

    return (distance(x, z) / (distance(of_x, of_z) + 1e-7)).mean()
