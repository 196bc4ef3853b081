"""Repairs by name. One file per repair; each returns a model that was tuned or trained."""

from engine.registry import Registry
from engine.repairs.base import Repair, Repaired
from engine.repairs.fine_tuning import FineTuning
from engine.repairs.gradient_norm import GradientNorm

REPAIRS: Registry[type[Repair]] = Registry("repair")
REPAIRS.add("fine_tuning", FineTuning)
REPAIRS.add("gradient_norm", GradientNorm)
from engine.repairs.influence import Influence
from engine.repairs.joint import Joint
from engine.repairs.neural_cleanse import NeuralCleanseUnlearning

REPAIRS: Registry[type[Repair]] = Registry("repair")
REPAIRS.add("fine_tuning", FineTuning)
REPAIRS.add("joint", Joint)
REPAIRS.add("neural_cleanse", NeuralCleanseUnlearning)
REPAIRS.add("influence", Influence)

__all__ = ["REPAIRS", "Repair", "Repaired"]
