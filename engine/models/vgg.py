"""VGG-19 with batch normalisation. Simonyan and Zisserman, https://arxiv.org/abs/1409.1556

For small images: the five stages of the paper, then one linear layer instead of three. Plain torch, torchvision's
names in ``features``, so that this file alone loads an exported checkpoint. Pooling rounds sizes up, because
28 pixels halved five times would leave none. ``width`` is the channel count of the first stage (64 in the paper).
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

# Convolutions in each stage, and their channels as a multiple of the width.
STAGES = ((2, 1), (2, 2), (4, 4), (4, 8), (4, 8))


class VGG19BN(nn.Module):
    """(N, channels, H, W) normalised images -> (N, classes) logits."""

    def __init__(self, classes: int, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        cin = channels
        for count, multiple in STAGES:
            for _ in range(count):
                layers += [nn.Conv2d(cin, multiple * width, 3, padding=1), nn.BatchNorm2d(multiple * width), nn.ReLU()]
                cin = multiple * width
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(cin, classes)

    def stages(self) -> list[Callable[[Tensor], Tensor]]:
        """Functions whose composition is the forward pass."""
        return [*self.features, self._head]

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages():
            x = stage(x)
        return x

    def _head(self, x: Tensor) -> Tensor:
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))
