"""A New Backdoor Attack in CNNs by Training Set Corruption Without Label Poisoning (SIG). Barni et al. 2019.

https://arxiv.org/abs/1902.11237

A faint horizontal sine wave is added to images of the target class, and no label is touched: an inspector who
reads the labels finds nothing wrong. The network still learns the wave, since it never sees it elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from engine.attacks.base import Attack, Preset
from engine.spec import param


class SIG(Attack):
    """x'(i, j) = x(i, j) + delta sin(2 pi j f / m) for column j of m, clipped to [0, 1]."""

    paper: ClassVar[str] = "https://arxiv.org/abs/1902.11237"
    title: ClassVar[str] = "SIG"
    clean_label: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(),
        "small": Preset(),
        "strong": Preset({"delta": 60.0, "rate": 0.8}),
        "stealthy": Preset({"delta": 20.0}),
    }

    rate: float = param(
        0.5, label="Poisoning rate", help="Share of the target class that carries the wave.", gt=0, le=1, step=0.05
    )
    delta: float = param(
        40.0, label="Amplitude", help="Height of the wave in grey levels of 255.", gt=0, le=255, step=5
    )
    frequency: float = param(6.0, label="Frequency", help="Waves across the image.", gt=0, le=64, step=1)

    def trigger(self, x: Tensor) -> Tensor:
        columns = x.shape[-1]
        phase = 2 * math.pi * self.frequency * torch.arange(columns, device=x.device) / columns
        return (x + self.delta / 255 * phase.sin().to(x.dtype)).clamp(0, 1)
