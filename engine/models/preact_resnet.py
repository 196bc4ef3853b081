"""PreActResNet-18. He et al., "Identity Mappings in Deep Residual Networks", https://arxiv.org/abs/1603.05027

Plain torch, BackdoorBench's parameter names (conv1, layerK.B.{bn1,conv1,bn2,conv2,shortcut.0}, linear), so that
this file alone loads an exported checkpoint. Normalisation stands before the convolution it feeds, and as in
BackdoorBench none follows the last block. ``width`` is the channel count of the first stage (64 in the paper).
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


def _conv(cin: int, cout: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False)


class PreActBlock(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(cin), _conv(cin, cout, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(cout), _conv(cout, cout, 3)
        self.changes_shape = stride != 1 or cin != cout
        if self.changes_shape:
            self.shortcut = nn.Sequential(_conv(cin, cout, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        past = self.shortcut(out) if self.changes_shape else x
        return self.conv2(F.relu(self.bn2(self.conv1(out)))) + past


def _stage(cin: int, cout: int, stride: int) -> nn.Sequential:
    return nn.Sequential(PreActBlock(cin, cout, stride), PreActBlock(cout, cout, stride=1))


class PreActResNet18(nn.Module):
    """(N, channels, H, W) normalised images -> (N, classes) logits."""

    def __init__(self, classes: int, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.conv1 = _conv(channels, width, 3)
        self.layer1 = _stage(width, width, stride=1)
        self.layer2 = _stage(width, 2 * width, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, stride=2)
        self.layer4 = _stage(4 * width, 8 * width, stride=2)
        self.linear = nn.Linear(8 * width, classes)

    def stages(self) -> list[Callable[[Tensor], Tensor]]:
        """Functions whose composition is the forward pass."""
        return [self.conv1, self.layer1, self.layer2, self.layer3, self.layer4, self._head]

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages():
            x = stage(x)
        return x

    def _head(self, x: Tensor) -> Tensor:
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
