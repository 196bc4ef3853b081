"""Work that dies while it writes a piece, and is taken up again: does it end as if nothing had happened?"""

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


def dying(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let the process die when its piece number ``after`` (from 0) has been written."""
    write, written = Keep.write, [0]

    def counted(self: Keep, name: str, arrays: Any, state: Any) -> None:
        write(self, name, arrays, state)
        written[0] += 1
        if written[0] > after:
            raise Killed

    monkeypatch.setattr(Keep, "write", counted)


def interrupted(work: Callable[[Keep], Any], folder: Path, after: list[int]) -> Any:
    """The result of ``work`` after it died once for each number of pieces in ``after``."""
    for pieces in after:
        with pytest.MonkeyPatch.context() as patch:
            dying(patch, pieces)
            with pytest.raises(Killed):
                work(Keep(folder, "run"))
    return work(Keep(folder, "run"))


def assert_resumes(work: Callable[[Keep], Mapping[str, Tensor]], folder: Path, after: list[int]) -> None:
    """``work`` gives the same tensors after it died once for each number of pieces in ``after``."""
    whole, again = work(NOTHING), interrupted(work, folder, after)
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[key], again[key]) for key in whole)
