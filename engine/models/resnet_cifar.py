"""ResNet-20 for CIFAR. He et al., "Deep Residual Learning", section 4.2, https://arxiv.org/abs/1512.03385

The paper's own small network: three stages of three blocks, and shortcuts without parameters (option A: every second
pixel, missing channels filled with zeros). Plain torch, the names of the usual PyTorch version (conv1, bn1,
layerK.B.{conv1,bn1,conv2,bn2}, linear), so that this file alone loads an exported checkpoint. ``width`` is the
channel count of the first stage (16 in the paper).
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

BLOCKS = 3


class PlainBlock(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.stride, self.missing = stride, cout - cin

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        past = x[:, :, :: self.stride, :: self.stride]
        before = self.missing // 2
        return F.relu(out + F.pad(past, (0, 0, 0, 0, before, self.missing - before)))


class ResNet20(nn.Module):
    """(N, channels, H, W) normalised images -> (N, classes) logits."""

    def __init__(self, classes: int, channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        cin = width
        stages = []
        for multiple in (1, 2, 4):
            cout = multiple * width
            stride = 1 if multiple == 1 else 2
            blocks = [PlainBlock(cin if b == 0 else cout, cout, stride if b == 0 else 1) for b in range(BLOCKS)]
            stages.append(nn.Sequential(*blocks))
            cin = cout
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(cin, classes)

    def stages(self) -> list[Callable[[Tensor], Tensor]]:
        """Functions whose composition is the forward pass."""
        return [self._stem, self.layer1, self.layer2, self.layer3, self._head]

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages():
            x = stage(x)
        return x

    def _stem(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(x)))

    def _head(self, x: Tensor) -> Tensor:
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
