"""Per-neuron scores by name. One file per score; every score means: higher = more suspicious."""

from engine.registry import Registry
from engine.scores.ablation import Ablation
from engine.scores.activation import Activation
from engine.scores.anp import ANP
from engine.scores.base import Evidence, Score, Scores
from engine.scores.bnp import BNP
from engine.scores.clp import CLP
from engine.scores.grad_prune import GradPrune
from engine.scores.nwc import NWC
from engine.scores.random_order import RandomOrder
from engine.scores.rnp import RNP
from engine.scores.tac import TAC
from engine.scores.trigger_mask import TriggerMask
from engine.scores.unlearning_gradient import UnlearningGradient
from engine.scores.weight_magnitude import WeightMagnitude

SCORES: Registry[type[Score]] = Registry("score")
SCORES.add("rnp", RNP)
SCORES.add("unlearning_gradient", UnlearningGradient)
SCORES.add("grad_prune", GradPrune)
SCORES.add("activation", Activation)
SCORES.add("tac", TAC)
SCORES.add("random", RandomOrder)
SCORES.add("clp", CLP)
SCORES.add("anp", ANP)
SCORES.add("bnp", BNP)
SCORES.add("nwc", NWC)
SCORES.add("weight_magnitude", WeightMagnitude)
SCORES.add("ablation", Ablation)
SCORES.add("trigger_mask", TriggerMask)

__all__ = ["SCORES", "Evidence", "Score", "Scores"]
