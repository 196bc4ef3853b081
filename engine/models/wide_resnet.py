"""WRN-16-k. Zagoruyko and Komodakis, "Wide Residual Networks", https://arxiv.org/abs/1605.07146

Plain torch, the names of the usual PyTorch version (conv1, blockG.layer.B.{bn1,conv1,bn2,conv2,convShortcut},
bn1, fc), so that this file alone loads an exported checkpoint. ``width`` is the channel count of the first group,
16 k in the paper: 16 is WRN-16-1, the network of the NAD experiments, 32 is WRN-16-2. The stem keeps 16 channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

STEM = 16
BLOCKS = 2  # in each of three groups: (16 - 4) / 6


def _conv(cin: int, cout: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False)


class WideBlock(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(cin), _conv(cin, cout, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(cout), _conv(cout, cout, 3)
        self.changes_shape = stride != 1 or cin != cout
        if self.changes_shape:
            self.convShortcut = _conv(cin, cout, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        past = self.convShortcut(out) if self.changes_shape else x
        return self.conv2(F.relu(self.bn2(self.conv1(out)))) + past


class Group(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        blocks = [WideBlock(cin if b == 0 else cout, cout, stride if b == 0 else 1) for b in range(BLOCKS)]
        self.layer = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WRN16(nn.Module):
    """(N, channels, H, W) normalised images -> (N, classes) logits."""

    def __init__(self, classes: int, channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.conv1 = _conv(channels, STEM, 3)
        self.block1 = Group(STEM, width, stride=1)
        self.block2 = Group(width, 2 * width, stride=2)
        self.block3 = Group(2 * width, 4 * width, stride=2)
        self.bn1 = nn.BatchNorm2d(4 * width)
        self.fc = nn.Linear(4 * width, classes)

    def stages(self) -> list[Callable[[Tensor], Tensor]]:
        """Functions whose composition is the forward pass."""
        return [self.conv1, self.block1, self.block2, self.block3, self._head]

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages():
            x = stage(x)
        return x

    def _head(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(F.relu(self.bn1(x)), 1).flatten(1))
