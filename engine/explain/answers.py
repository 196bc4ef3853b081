"""Which pixels the whole model's answer comes from. Computed by Captum (https://captum.ai) in float32.

What is explained is the logit of one answer for each picture. The maps keep their sign: above 0 speaks for the
answer, below 0 against it. Pictures are (N, C, H, W), float in [0, 1]; answers int64 (N,); maps float32 (N, H, W) on
the CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.explain.activations import evaluating

STEPS = 32
AT_ONCE = 64
#: Windows along a side of the picture that occlusion covers, about; each pixel lies under two or so.
_WINDOWS = 6


def integrated_gradients(model: nn.Module, x: Tensor, target: Tensor, steps: int = STEPS) -> Tensor:
    """Gradients of the answer along the way from a black picture: a map sums to the difference of the two logits.

    Sundararajan et al., "Axiomatic Attribution for Deep Networks", https://arxiv.org/abs/1703.01365. Summed over the
    colours.
    """
    from captum.attr import IntegratedGradients

    with evaluating(model):
        parts = IntegratedGradients(model).attribute(
            x, baselines=torch.zeros_like(x), target=target, n_steps=steps, internal_batch_size=max(AT_ONCE, len(x))
        )
    return parts.sum(1).detach().float().cpu()


def gradcam(model: nn.Module, x: Tensor, target: Tensor, module: nn.Module | None = None) -> Tensor:
    """Grad-CAM: where a layer, by default the last convolution, speaks for the answer; enlarged to the picture.

    Selvaraju et al., "Grad-CAM", https://arxiv.org/abs/1610.02391, without the final ReLU, so that evidence against
    the answer shows too.

    Raises:
        ValueError: for a network without convolutions.
    """
    from captum.attr import LayerAttribution, LayerGradCam

    if module is None:
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        if not convolutions:
            raise ValueError("expected a network with convolutions for Grad-CAM, got none")
        module = convolutions[-1]
    with evaluating(model):
        maps = LayerGradCam(model, module).attribute(x, target=target)
        maps = LayerAttribution.interpolate(maps, tuple(x.shape[2:]), "bilinear")
    return maps[:, 0].detach().float().cpu()


def occlusion(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """What the answer's logit loses when a square of the picture is made black; pixels average over their squares.

    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", https://arxiv.org/abs/1311.2901. A
    square is about a sixth of the picture wide and moves by half of that, so a trigger in a corner has its own.
    """
    from captum.attr import Occlusion

    channels, side = x.shape[1], min(x.shape[2:])
    window = max(2, -(-side // _WINDOWS))
    step = window // 2 + 1
    with evaluating(model), torch.no_grad():
        parts = Occlusion(model).attribute(
            x,
            sliding_window_shapes=(channels, window, window),
            strides=(channels, step, step),
            baselines=0,
            target=target,
            perturbations_per_eval=max(1, AT_ONCE // len(x)),
        )
    return parts.mean(1).float().cpu()  # the squares are black in all colours, so each colour has the whole effect
