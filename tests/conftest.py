"""What every test may ask for: a tiny data set, a network with a known backdoor, the exact float32 path."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import settings

from engine.compute import Compute
from engine.data.base import DataSet
from engine.models.base import Classifier
from tests import tiny

# The same examples on every machine, and no folder of them beside the code.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", ".pytest_cache/hypothesis")
settings.register_profile("unmask", derandomize=True, database=None, deadline=None)
settings.load_profile("unmask")
# Tensors this small are no faster on two threads, and many times slower where the machine is busy.
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too; each has a short version")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def compute() -> Compute:
    return Compute("cpu", exact=True)


@pytest.fixture(scope="session")
def tiny_data() -> DataSet:
    """600 training, 200 pool and 400 test pictures of four shapes, 12x12, one channel."""
    return tiny.tiny_data()


@pytest.fixture(scope="session")
def clean_tiny(tiny_data: DataSet) -> Classifier:
    """A clean network for the shapes. Shared: whoever changes it must change a copy."""
    return tiny.trained(tiny_data)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny pictures as somebody's own .npz."""
    return tiny.save_npz(tmp_path_factory.mktemp("data") / "shapes.npz")


@pytest.fixture(scope="session")
def planted(tiny_data: DataSet) -> tiny.Planted:
    """A network whose backdoor is one known unit. Shared: whoever changes the model must change a copy."""
    return tiny.planted(tiny_data)
