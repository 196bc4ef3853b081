"""Invisible Backdoor Attack with Sample-Specific Triggers (SSBA, also ISSBA). Li et al. ICCV 2021.

https://arxiv.org/abs/2012.03816

Every picture gets a trigger of its own: an encoder hides one and the same bit string in it, as a faint residual that
follows the picture's content, like a watermark. Encoder and decoder are trained on the attacker's pictures before any
is poisoned: the decoder must read the bits back, the encoder must change little. A defense that looks for one pattern
in all triggered pictures finds none. The encoder is smaller than StegaStamp's, its residual bounded, and the perceptual
loss, which needs a network trained elsewhere, is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from engine.attacks.base import Attack, Lab, Preset
from engine.attacks.learning import goes_with
from engine.models.base import init_weights
from engine.spec import param


class _Encoder(nn.Module):
    """Pictures (N, C, H, W) and bits (N, bits) -> residuals in [-1, 1] of the pictures' shape."""

    def __init__(self, shape: tuple[int, int, int], bits: int, width: int) -> None:
        super().__init__()
        channels, height, width_of_picture = shape
        self.coarse = (1, (height + 1) // 2, (width_of_picture + 1) // 2)
        self.spread = nn.Linear(bits, self.coarse[1] * self.coarse[2])
        self.first = nn.Conv2d(channels + 1, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width + channels + 1, channels, 3, padding=1)

    def forward(self, x: Tensor, bits: Tensor) -> Tensor:
        spread = self.spread(2 * bits - 1).unflatten(1, self.coarse)
        x = torch.cat([2 * x - 1, F.interpolate(spread, x.shape[-2:], mode="nearest")], 1)
        return self.last(torch.cat([F.relu(self.second(F.relu(self.first(x)))), x], 1)).tanh()


class _Decoder(nn.Sequential):
    """Pictures (N, C, H, W) -> logits (N, bits)."""

    def __init__(self, shape: tuple[int, int, int], bits: int, width: int) -> None:
        channels, *sides = shape
        small = [(side + 3) // 4 for side in sides]
        super().__init__(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(width * small[0] * small[1], bits),
        )


class SSBA(Attack):
    """x' = x + eps E(x, s), clipped, for the attacker's bits s; E = argmin cross-entropy(D(x'), s) + weight |E|^2."""

    title: ClassVar[str] = "SSBA"
    paper: ClassVar[str] = "https://arxiv.org/abs/2012.03816"
    learned: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(),
        "small": Preset(
            {"target": 1, "bits": 20, "width": 16, "steps": 400, "batch": 50},
            (
                "The target is class 1.",
                "20 bits instead of 100, because the pictures are small.",
                "16 channels instead of 32, so that the encoder is trained in half a minute.",
                "400 steps of 50 pictures instead of 140,000 of 4, after which almost all bits are read.",
            ),
        ),
        "strong": Preset({"eps": 0.2, "rate": 0.2}),
        "stealthy": Preset({"eps": 0.05, "rate": 0.05}),
    }

    bits: int = param(100, label="Bits", help="Length of the hidden string.", ge=1, le=1000, step=1)
    eps: float = param(0.1, label="Strength", help="Largest change of a pixel by the residual.", gt=0, le=1, step=0.01)
    weight: float = param(
        1.0, label="Invisibility", help="Weight of the residual's mean square in the loss.", ge=0, le=100, step=0.1
    )
    width: int = param(32, label="Width", help="Channels of encoder and decoder.", ge=1, le=256, step=1)
    steps: int = param(140000, label="Steps", help="Training steps of the encoder.", ge=1, le=1000000, step=100)
    batch: int = param(4, label="Batch size", help="Pictures a step.", ge=1, le=1024, step=1)

    def trigger(self, x: Tensor) -> Tensor:
        if "secret" not in self.state:
            raise ValueError("expected a trained encoder, got none")
        weights = {key: value.to(x) for key, value in self.state.items()}
        secret, shape = weights.pop("secret"), tuple(int(k) for k in weights.pop("shape"))
        goes_with(x, shape, "on which the encoder was trained")
        with torch.device("meta"):
            encoder = _Encoder((shape[0], shape[1], shape[2]), len(secret), self.width)
        residual = functional_call(encoder, weights, (x, secret.expand(len(x), -1)))
        return (x + self.eps * residual).clamp(0, 1)

    def prepare(self, lab: Lab) -> dict[str, Tensor]:
        rng, device = lab.rng("ssba"), lab.compute.torch_device
        secret = torch.randint(2, (self.bits,), generator=rng).float()
        # Built without weights: torch's own initial ones come from its global generator.
        with torch.device("meta"):
            sizes = lab.shape, self.bits, self.width
            encoder, decoder = _Encoder(*sizes), _Decoder(*sizes)
        nets = nn.ModuleList([encoder, decoder]).to_empty(device="cpu")
        init_weights(nets, rng)
        lab.compute.model(nets).train()
        optimizer = torch.optim.Adam(nets.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=self.steps, cycle_momentum=False)
        for k in range(self.steps):
            x = lab.draw(self.batch, rng)
            bits = torch.randint(2, (self.batch, self.bits), generator=rng).float().to(device)
            with lab.compute.autocast():
                residual = encoder(x, bits).float()
                read = decoder((x + self.eps * residual).clamp(0, 1)).float()
            # The bits come first: an encoder that must be quiet from the beginning never learns to hide them.
            quiet = self.weight * max(0.0, 2 * k / self.steps - 1)
            loss = F.binary_cross_entropy_with_logits(read, bits) + quiet * residual.square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if (k + 1) % 10 == 0 or k + 1 == self.steps:
                right = float(((read > 0) == (bits > 0.5)).float().mean())
                lab.progress(f"training the encoder, {right:.0%} of the bits are read", (k + 1) / self.steps)
        state = {key: value.detach().cpu().contiguous() for key, value in encoder.state_dict().items()}
        return {**state, "secret": secret, "shape": torch.tensor(lab.shape)}
