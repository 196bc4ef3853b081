"""torchvision's networks: MobileNetV2, EfficientNet-B0, and the ResNets at ImageNet size.

They expect three channels; grey images reach them through a normalisation with three means, which repeats the
grey value. Weights are never downloaded. Dropout and stochastic depth are off, since they would draw from
torch's global generator and make a training irreproducible.

MobileNetV2 and EfficientNet-B0 reduce an image 32-fold, which leaves nothing of 32 pixels. As usual for small
images their stem keeps the size, and MobileNetV2's second stage does too. Plain torch and torchvision, so that
this file alone loads an exported checkpoint.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def _torchvision(name: str, classes: int, **settings: Any) -> nn.Module:
    # Imported late: it takes a second that the other architectures need not wait for.
    import torchvision

    return getattr(torchvision.models, name)(weights=None, num_classes=classes, **settings)


def mobilenet_v2(classes: int) -> nn.Module:
    """MobileNetV2 for images of about 32 pixels: (N, 3, H, W) normalised -> (N, classes) logits."""
    stages = [[1, 16, 1, 1], [6, 24, 2, 1], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]]
    net: Any = _torchvision("mobilenet_v2", classes, inverted_residual_setting=stages, dropout=0.0)
    net.features[0][0].stride = (1, 1)
    return net


def efficientnet_b0(classes: int) -> nn.Module:
    """EfficientNet-B0 for images of about 32 pixels: (N, 3, H, W) normalised -> (N, classes) logits."""
    net: Any = _torchvision("efficientnet_b0", classes, dropout=0.0, stochastic_depth_prob=0.0)
    net.features[0][0].stride = (1, 1)
    return net


def resnet18(classes: int) -> nn.Module:
    return _torchvision("resnet18", classes)


def resnet34(classes: int) -> nn.Module:
    return _torchvision("resnet34", classes)


def resnet50(classes: int) -> nn.Module:
    return _torchvision("resnet50", classes)
