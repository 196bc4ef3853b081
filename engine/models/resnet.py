"""ResNet-18 with a CIFAR stem. He et al., "Deep Residual Learning", https://arxiv.org/abs/1512.03385

Plain torch, torchvision's parameter names (conv1, bn1, layerK.B.convJ, downsample, fc), so that this file
alone loads an exported checkpoint. ``width`` is the channel count of the first stage (64 in the paper).
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


def _conv(cin: int, cout: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False)


class BasicBlock(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(cin, cout, 3, stride), nn.BatchNorm2d(cout)
        self.conv2, self.bn2 = _conv(cout, cout, 3), nn.BatchNorm2d(cout)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or cin != cout:
            self.downsample = nn.Sequential(_conv(cin, cout, 1, stride), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class ResNet18(nn.Module):
    """(N, channels, H, W) normalised images -> (N, classes) logits."""

    def __init__(self, classes: int, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(channels, width, 3), nn.BatchNorm2d(width)
        sizes = [width, width, 2 * width, 4 * width, 8 * width]
        stages = [
            nn.Sequential(BasicBlock(sizes[k], sizes[k + 1], min(k, 1) + 1), BasicBlock(sizes[k + 1], sizes[k + 1], 1))
            for k in range(4)
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(8 * width, classes)

    def stages(self) -> list[Callable[[Tensor], Tensor]]:
        """Functions whose composition is the forward pass."""
        return [self._stem, self.layer1, self.layer2, self.layer3, self.layer4, self._head]

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages():
            x = stage(x)
        return x

    def _stem(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(x)))

    def _head(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
