"""Detectors by name. One file per detector; each answers a question about a model and changes nothing."""

from engine.detectors.base import Detection, Detector
from engine.detectors.neural_cleanse import NeuralCleanse
from engine.registry import Registry

DETECTORS: Registry[type[Detector]] = Registry("detector")
DETECTORS.add("neural_cleanse", NeuralCleanse)

__all__ = ["DETECTORS", "Detection", "Detector"]
