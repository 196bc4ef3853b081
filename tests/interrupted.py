"""Does some work, interrupted, end with the same tensors as undisturbed? For attacks that train something."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.runs.checkpoints import NOTHING, Keep


class Killed(BaseException):
    """Stands for ``kill -9``: nothing catches it."""


def assert_resumes(work: Callable[[Keep], Mapping[str, Tensor]], folder: Path, after: list[int]) -> None:
    """``work`` gives the same tensors after it died once for each number of pieces in ``after``."""
    whole = work(NOTHING)
    for pieces in after:
        keep = Keep(folder, "run")
        write, written = keep.write, [0]

        def counted(*what: Any, write: Any = write, written: list[int] = written, most: int = pieces) -> None:
            write(*what)
            written[0] += 1
            if written[0] > most:
                raise Killed

        keep.write = counted  # type: ignore[method-assign]
        with pytest.raises(Killed):
            work(keep)
    again = work(Keep(folder, "run"))
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[key], again[key]) for key in whole)
