"""A plain network of four layers without any normalisation: three convolutions and a hidden linear layer.

Small enough to train in a minute, and the case in which a unit is an output channel rather than a normalisation
channel. Plain torch, so that this file alone loads an exported checkpoint. ``width`` is the channel count of the
first convolution.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class CNN4(nn.Module):
    """(N, channels, H, W) normalised images -> (N, classes) logits."""

    def __init__(self, classes: int, channels: int = 3, width: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, padding=1)
        self.fc1 = nn.Linear(4 * width * 16, 8 * width)
        self.fc2 = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.conv1, self.conv2, self.conv3):
            x = F.max_pool2d(F.relu(conv(x)), 2, ceil_mode=True)
        # 4x4 already for sides of 25 to 32 pixels; larger images are averaged down to it.
        x = F.adaptive_avg_pool2d(x, 4).flatten(1)
        return self.fc2(F.relu(self.fc1(x)))
