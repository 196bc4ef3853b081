"""Looking at units and pictures: one function per question.

``METHODS`` names the attributions of :mod:`engine.explain.attributions` for menus; this file needs no torch.
"""

from __future__ import annotations

METHODS: dict[str, str] = {
    "neuron_gradient": "Gradient of the unit",
    "neuron_gradient_x_input": "Gradient of the unit x picture",
    "neuron_integrated_gradients": "Integrated gradients of the unit",
    "layer_gradcam": "Grad-CAM of the answer, at the unit's layer",
}
"""Attribution methods: name -> what a menu calls it."""
