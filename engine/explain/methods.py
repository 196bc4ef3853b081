"""Names of attributions and of the weights they are compared in, for menus. Needs no torch."""

from __future__ import annotations

METHODS: dict[str, str] = {
    "neuron_gradient": "Unit: gradient",
    "neuron_gradient_x_input": "Unit: gradient x picture",
    "neuron_integrated_gradients": "Unit: integrated gradients",
    "conductance": "Unit: conductance",
    "layer_gradcam": "Layer: Grad-CAM",
    "integrated_gradients": "Model: integrated gradients",
    "gradcam": "Model: Grad-CAM",
    "occlusion": "Model: occlusion",
}
"""Attribution methods: name -> what a menu calls it."""

WHOLE = frozenset({"integrated_gradients", "gradcam", "occlusion"})
"""Those of :data:`METHODS` that explain the answer of the whole model, whatever the unit."""

ANSWER = WHOLE | {"conductance", "layer_gradcam"}
"""Those of :data:`METHODS` that explain an answer; the others explain the output of the unit."""

STATES: dict[str, str] = {
    "suspect": "Suspect",
    "unlearned": "Unlearned",
    "recovered": "Recovered",
    "pruned": "Pruned",
}
"""The weights that are compared: name -> what a page calls them."""
