"""Which pixels matter: to a unit, and to the answer. Computed by Captum (https://captum.ai) in float32.

What a unit is asked for is its mean output over the positions, the same number as in
:func:`engine.explain.activations.mean_outputs`. The maps keep their sign: above 0 speaks for, below 0 against.
Captum is imported where it is used: everything else in the engine runs without it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.compute import Compute
from engine.explain import METHODS
from engine.explain.activations import channels, evaluating
from engine.models.neurons import Layer, unit_modules, units

STEPS = 32
_AT_ONCE = 64


def attribution(
    model: nn.Module, unit: int, x: Tensor, method: str, compute: Compute | None = None, target: Tensor | None = None
) -> Tensor:
    """Attribute a unit, or for ``layer_gradcam`` the answer as its layer sees it, to the pixels of some pictures.

    Args:
        model: the classifier, left as it was.
        unit: its number in the order of all units.
        x: images (N, C, H, W), uint8 or float in [0, 1].
        method: one of ``engine.explain.METHODS``.
        compute: gives the device; the precision is float32 whatever it says.
        target: int64 (N,), the answers that ``layer_gradcam`` explains; default what the model answers.

    Returns:
        float32 (N, H, W) on the CPU, signed, summed over the colour channels.

    Raises:
        ValueError: for an unknown method or unit.
    """
    compute = compute or Compute()
    images = compute.images(x).float()
    if method == "layer_gradcam":
        return layer_gradcam(model, unit, images, target)
    ways = {
        "neuron_gradient": neuron_gradient,
        "neuron_gradient_x_input": neuron_gradient_x_input,
        "neuron_integrated_gradients": neuron_integrated_gradients,
    }
    if method not in ways:
        raise ValueError(f"expected method to be one of {', '.join(METHODS)}, got {method!r}")
    return ways[method](model, unit, images)


def neuron_gradient(model: nn.Module, unit: int, x: Tensor) -> Tensor:
    """d unit / d pixel: which pixels would change the unit's mean output if they grew brighter.

    Simonyan et al., "Deep Inside Convolutional Networks", https://arxiv.org/abs/1312.6034. Shapes as above.
    """
    return _gradient(model, unit, x).sum(1).float().cpu()


def neuron_gradient_x_input(model: nn.Module, unit: int, x: Tensor) -> Tensor:
    """Pixel times d unit / d pixel: what each pixel adds to the unit's mean output, to first order.

    Shrikumar et al., "Not Just a Black Box", https://arxiv.org/abs/1605.01713. Black pixels get nothing.
    Shapes as above.
    """
    return (_gradient(model, unit, x) * x).sum(1).float().cpu()


def neuron_integrated_gradients(model: nn.Module, unit: int, x: Tensor, steps: int = STEPS) -> Tensor:
    """Gradients of the unit along the way from a black picture: a map sums to the difference of the unit's outputs.

    Sundararajan et al., "Axiomatic Attribution for Deep Networks", https://arxiv.org/abs/1703.01365. Shapes as above.
    """
    from captum.attr import NeuronIntegratedGradients

    layer, module = _place(model, unit)
    with evaluating(model):
        way = NeuronIntegratedGradients(model, module)
        parts = way.attribute(
            x,
            lambda out: _mean_of(out, layer, unit),
            baselines=torch.zeros_like(x),
            n_steps=steps,
            internal_batch_size=max(_AT_ONCE, len(x)),
        )
    return parts.sum(1).detach().float().cpu()


def layer_gradcam(model: nn.Module, unit: int, x: Tensor, target: Tensor | None = None) -> Tensor:
    """Grad-CAM at the layer of a unit: where its layer speaks for the answer ``target`` (default: the model's own).

    Selvaraju et al., "Grad-CAM", https://arxiv.org/abs/1610.02391, without the final ReLU, so that evidence against
    the answer shows too; enlarged to the size of the picture. A unit of a linear layer has no positions: the last
    convolution stands in for its layer. Shapes as above.

    Raises:
        ValueError: for a network without convolutions.
    """
    from captum.attr import LayerAttribution, LayerGradCam

    layer, module = _place(model, unit)
    if layer.kind == "linear":
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        if not convolutions:
            raise ValueError(f"expected a network with convolutions for layer_gradcam, got none before unit {unit}")
        module = convolutions[-1]
    with evaluating(model):
        if target is None:
            with torch.no_grad():
                target = model(x).argmax(1)
        maps = LayerGradCam(model, module).attribute(x, target=target.to(x.device))
        maps = LayerAttribution.interpolate(maps, tuple(x.shape[2:]), "bilinear")
    return maps[:, 0].detach().float().cpu()


def _gradient(model: nn.Module, unit: int, x: Tensor) -> Tensor:
    from captum.attr import NeuronGradient

    layer, module = _place(model, unit)
    with evaluating(model):
        gradient: Tensor = NeuronGradient(model, module).attribute(
            x.detach().requires_grad_(), lambda out: _mean_of(out, layer, unit)
        )
    return gradient.detach()


def _place(model: nn.Module, unit: int) -> tuple[Layer, nn.Module]:
    found = units(model)
    layer = found.layer_of(unit)
    return layer, unit_modules(model)[found.layers.index(layer)]


def _mean_of(output: Tensor, layer: Layer, unit: int) -> Tensor:
    return channels(output, layer)[:, unit - layer.offset].mean(1)
