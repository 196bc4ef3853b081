"""Attacks by name. One file per attack, the paper's name."""

from engine.attacks.badnets import BadNets
from engine.attacks.base import Attack, Lab, Poisoned, Preset, Procedure
from engine.attacks.blend import Blend
from engine.attacks.custom import Custom
from engine.attacks.dfst import DFST
from engine.attacks.fc import FeatureCollision
from engine.attacks.grond import Grond
from engine.attacks.multi_trigger import MultiTrigger
from engine.attacks.picture import Picture
from engine.attacks.sig import SIG
from engine.registry import Registry

ATTACKS: Registry[type[Attack]] = Registry("attack")
ATTACKS.add("badnets", BadNets)
ATTACKS.add("blend", Blend)
ATTACKS.add("sig", SIG)
ATTACKS.add("dfst", DFST)
ATTACKS.add("fc", FeatureCollision)
ATTACKS.add("grond", Grond)
ATTACKS.add("multi_trigger", MultiTrigger)
ATTACKS.add("custom", Custom)

# Triggers of imported models: they describe what somebody else did, and are not offered for training.
IMPORTED: Registry[type[Attack]] = Registry("imported trigger")
IMPORTED.add("picture", Picture)

__all__ = ["ATTACKS", "IMPORTED", "Attack", "Lab", "Poisoned", "Preset", "Procedure"]
