"""Repairs by name. One file per repair; each returns a model that was tuned or trained."""

from engine.registry import Registry
from engine.repairs.base import Repair, Repaired
from engine.repairs.distillation import Distillation
from engine.repairs.fine_tuning import FineTuning
from engine.repairs.ft_sam import FTSAM
from engine.repairs.gradient_ascent import GradientAscent
from engine.repairs.gradient_norm import GradientNorm
from engine.repairs.i_bau import IBAU
from engine.repairs.influence import Influence
from engine.repairs.joint import Joint
from engine.repairs.mcr import MCR
from engine.repairs.nad import NAD
from engine.repairs.neural_cleanse import NeuralCleanseUnlearning
from engine.repairs.retrain import Retrain
from engine.repairs.seam import SEAM

REPAIRS: Registry[type[Repair]] = Registry("repair")
REPAIRS.add("fine_tuning", FineTuning)
REPAIRS.add("ft_sam", FTSAM)
REPAIRS.add("gradient_norm", GradientNorm)
REPAIRS.add("nad", NAD)
REPAIRS.add("seam", SEAM)
REPAIRS.add("i_bau", IBAU)
REPAIRS.add("mcr", MCR)
REPAIRS.add("joint", Joint)
REPAIRS.add("gradient_ascent", GradientAscent)
REPAIRS.add("neural_cleanse", NeuralCleanseUnlearning)
REPAIRS.add("influence", Influence)
REPAIRS.add("distillation", Distillation)
REPAIRS.add("retrain", Retrain)

__all__ = ["REPAIRS", "Repair", "Repaired"]
