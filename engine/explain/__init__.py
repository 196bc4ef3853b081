"""Looking at units and pictures: one function per question.

``METHODS`` names the attributions of :mod:`engine.explain.attributions` for menus; this file needs no torch.
"""

from __future__ import annotations

METHODS: dict[str, str] = {
    "neuron_gradient": "Gradient of the unit",
    "neuron_gradient_x_input": "Gradient of the unit x picture",
    "neuron_integrated_gradients": "Integrated gradients of the unit",
    "conductance": "Conductance of the answer through the unit",
    "layer_gradcam": "Grad-CAM of the answer, at the unit's layer",
    "integrated_gradients": "Whole model: integrated gradients",
    "gradcam": "Whole model: Grad-CAM",
    "occlusion": "Whole model: occlusion",
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
