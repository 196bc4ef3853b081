"""A small VGG of six convolutions with ELU, as in the code of I-BAU (Zeng et al., https://arxiv.org/abs/2110.03735).

Three stages of two convolutions, each followed by batch normalisation and ELU, halved by pooling; one linear layer on
4x4 positions. Plain torch, the parameter names of I-BAU's published checkpoints (features.N, classifier), so
that this file alone loads an exported one. ``width`` is the channel count of the first stage (32 there).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SmallVGG(nn.Module):
    """(N, channels, H, W) normalised images -> (N, classes) logits."""

    def __init__(self, classes: int, channels: int = 3, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        cin = channels
        for multiple in (1, 2, 4):
            for _ in range(2):
                cout = multiple * width
                layers += [nn.Conv2d(cin, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ELU()]
                cin = cout
            # Dropout keeps its place in the numbering; it never acts, so that training draws nothing at random.
            layers += [nn.MaxPool2d(2, 2, ceil_mode=True), nn.Dropout(0.0)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(4 * width * 16, classes)

    def forward(self, x: Tensor) -> Tensor:
        # 4x4 already for sides of 25 to 32 pixels; other sizes are brought to it.
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), 4).flatten(1))
