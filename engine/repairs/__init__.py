"""Repairs by name. One file per repair; each returns a model that was tuned or trained."""

from engine.registry import Registry
from engine.repairs.base import Repair, Repaired
from engine.repairs.distillation import Distillation
from engine.repairs.fine_tuning import FineTuning
from engine.repairs.ft_sam import FTSAM
from engine.repairs.gradient_ascent import GradientAscent
from engine.repairs.i_bau import IBAU
from engine.repairs.mcr import MCR
from engine.repairs.nad import NAD
from engine.repairs.retrain import Retrain
from engine.repairs.seam import SEAM

REPAIRS: Registry[type[Repair]] = Registry("repair")
REPAIRS.add("fine_tuning", FineTuning)
REPAIRS.add("ft_sam", FTSAM)
REPAIRS.add("nad", NAD)
REPAIRS.add("seam", SEAM)
REPAIRS.add("distillation", Distillation)
REPAIRS.add("retrain", Retrain)
REPAIRS.add("mcr", MCR)
REPAIRS.add("gradient_ascent", GradientAscent)
REPAIRS.add("i_bau", IBAU)

__all__ = ["REPAIRS", "Repair", "Repaired"]
