"""Which pixels matter: to a unit, and to the answer through it. Computed by Captum (https://captum.ai) in float32.

What a unit is asked for is its mean output over the positions, the same number as in
:func:`engine.explain.activations.mean_outputs`. The maps keep their sign: above 0 speaks for, below 0 against.
Captum is imported where it is used: everything else in the engine runs without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from engine.compute import Compute
from engine.explain.activations import channels, evaluating
from engine.explain.answers import AT_ONCE, STEPS, gradcam, integrated_gradients, occlusion
from engine.explain.methods import METHODS
from engine.models.neurons import Layer, unit_modules, units


def attribution(
    model: nn.Module, unit: int, x: Tensor, method: str, compute: Compute | None = None, target: Tensor | None = None
) -> Tensor:
    """Attribute a unit, or for the methods of ``methods.ANSWER`` an answer, to the pixels of some pictures.

    Args:
        model: the classifier, left as it was.
        unit: its number in the order of all units.
        x: images (N, C, H, W), uint8 or float in [0, 1].
        method: one of ``engine.explain.methods.METHODS``.
        compute: gives the device; the precision is float32 whatever it says.
        target: int64 (N,), the answers that are explained, where answers are; default what the model answers.

    Returns:
        float32 (N, H, W) on the CPU, signed, summed over the colour channels.

    Raises:
        ValueError: for an unknown method or unit.
    """
    compute = compute or Compute()
    images = compute.images(x).float()
    own: dict[str, Callable[[nn.Module, int, Tensor], Tensor]] = {
        "neuron_gradient": neuron_gradient,
        "neuron_gradient_x_input": neuron_gradient_x_input,
        "neuron_integrated_gradients": neuron_integrated_gradients,
    }
    if method in own:
        return own[method](model, unit, images)
    if method not in METHODS:
        raise ValueError(f"expected method to be one of {', '.join(METHODS)}, got {method!r}")
    if target is None:
        with evaluating(model), torch.no_grad():
            target = model(images).argmax(1)
    target = target.to(images.device)
    if method == "conductance":
        return conductance(model, unit, images, target)
    if method == "layer_gradcam":
        return layer_gradcam(model, unit, images, target)
    whole: dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {
        "integrated_gradients": integrated_gradients,
        "gradcam": gradcam,
        "occlusion": occlusion,
    }
    return whole[method](model, images, target)


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
            internal_batch_size=max(AT_ONCE, len(x)),
        )
    return parts.sum(1).detach().float().cpu()


def conductance(model: nn.Module, unit: int, x: Tensor, target: Tensor, steps: int = STEPS) -> Tensor:
    """How much of the answer passes through the unit, on the way from a black picture, and where.

    Dhamdhere et al., "How Important Is a Neuron?", https://arxiv.org/abs/1805.12233. A channel's conductance is taken
    at each position of its map and enlarged to the picture, the sum kept; a unit of a linear layer has no positions,
    so its conductance is told by pixel. Over all units of a layer that everything passes it sums to the difference of
    the two logits. Shapes as above.
    """
    from captum.attr import LayerAttribution, LayerConductance, NeuronConductance

    layer, module = _place(model, unit)
    walk: dict[str, Any] = {"baselines": torch.zeros_like(x), "target": target, "n_steps": steps}
    walk["internal_batch_size"] = max(AT_ONCE, 2 * len(x))  # Captum wants room for two points of the way
    with evaluating(model):
        if layer.kind == "linear":
            way = NeuronConductance(model, module)
            parts = way.attribute(x, lambda out: channels(out, layer)[:, unit - layer.offset].sum(1), **walk)
            return parts.sum(1).detach().float().cpu()
        parts = LayerConductance(model, module).attribute(x, **walk)[:, unit - layer.offset, None]
        share = parts[0, 0].numel() / x[0, 0].numel()
        maps = LayerAttribution.interpolate(parts, tuple(x.shape[2:]), "bilinear") * share
    return maps[:, 0].detach().float().cpu()


def layer_gradcam(model: nn.Module, unit: int, x: Tensor, target: Tensor) -> Tensor:
    """Grad-CAM at the layer of a unit: where its layer speaks for the answer.

    A unit of a linear layer has no positions: the last convolution stands in for its layer. Shapes as above.

    Raises:
        ValueError: for a network without convolutions.
    """
    layer, module = _place(model, unit)
    return gradcam(model, x, target, None if layer.kind == "linear" else module)


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
