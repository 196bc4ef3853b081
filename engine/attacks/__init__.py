"""Attacks by name. One file per attack, the paper's name."""

from engine.attacks.badnets import BadNets
from engine.attacks.base import Attack, Poisoned
from engine.attacks.blend import Blend
from engine.attacks.sig import SIG
from engine.registry import Registry

ATTACKS: Registry[type[Attack]] = Registry("attack")
ATTACKS.add("badnets", BadNets)
ATTACKS.add("blend", Blend)
ATTACKS.add("sig", SIG)

__all__ = ["ATTACKS", "Attack", "Poisoned"]
