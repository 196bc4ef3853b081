"""The registry: order, refused duplicates, helpful refusals."""

from __future__ import annotations

import pytest

from engine.attacks import ATTACKS
from engine.registry import Registry


@pytest.fixture
def fruit() -> Registry[int]:
    registry: Registry[int] = Registry("fruit")
    registry.add("pear", 1)
    registry.add("apple", 2)
    return registry


def test_names_keep_the_order_in_which_they_were_added(fruit: Registry[int]) -> None:
    assert list(fruit) == ["pear", "apple"]
    assert list(fruit.items()) == [("pear", 1), ("apple", 2)]
    assert len(fruit) == 2
    assert fruit["apple"] == 2
    assert "pear" in fruit
    assert "plum" not in fruit


def test_a_duplicate_is_refused_and_changes_nothing(fruit: Registry[int]) -> None:
    with pytest.raises(ValueError, match=r"^expected a new fruit name, got 'pear', which is registered already$"):
        fruit.add("pear", 3)
    assert fruit["pear"] == 1


def test_an_unknown_name_lists_the_known_ones_and_the_nearest(fruit: Registry[int]) -> None:
    nearest = r"^expected fruit to be one of pear, apple, got 'aple'; did you mean 'apple'\?$"
    with pytest.raises(ValueError, match=nearest):
        fruit["aple"]
    with pytest.raises(ValueError, match=r"^expected fruit to be one of pear, apple, got 'zzz'$"):
        fruit["zzz"]


def test_the_attacks_of_the_first_version_are_registered() -> None:
    assert {"badnets", "blend", "sig"} <= set(ATTACKS)
    for name in ATTACKS:
        assert name == name.lower()
        assert name.isidentifier()
