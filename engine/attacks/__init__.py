"""Attacks by name. One file per attack, the paper's name."""

from engine.attacks.adaptive_blend import AdaptiveBlend
from engine.attacks.adaptive_patch import AdaptivePatch
from engine.attacks.badnets import BadNets
from engine.attacks.base import Attack, Lab, Poisoned, Preset, Procedure
from engine.attacks.blend import Blend
from engine.attacks.cl import CL
from engine.attacks.lf import LF
from engine.attacks.picture import Picture
from engine.attacks.refool import Refool
from engine.attacks.sig import SIG
from engine.attacks.ssba import SSBA
from engine.attacks.trojan import Trojan
from engine.registry import Registry

ATTACKS: Registry[type[Attack]] = Registry("attack")
ATTACKS.add("badnets", BadNets)
ATTACKS.add("blend", Blend)
ATTACKS.add("sig", SIG)
ATTACKS.add("trojan", Trojan)
ATTACKS.add("adaptive_blend", AdaptiveBlend)
ATTACKS.add("cl", CL)
ATTACKS.add("adaptive_patch", AdaptivePatch)
ATTACKS.add("lf", LF)
ATTACKS.add("refool", Refool)
ATTACKS.add("ssba", SSBA)

# Triggers of imported models: they describe what somebody else did, and are not offered for training.
IMPORTED: Registry[type[Attack]] = Registry("imported trigger")
IMPORTED.add("picture", Picture)

__all__ = ["ATTACKS", "IMPORTED", "Attack", "Lab", "Poisoned", "Preset", "Procedure"]
