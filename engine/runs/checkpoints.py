"""What an unfinished run has worked out so far, so that a process that was killed loses little.

A run keeps named pieces in ``checkpoint/`` of its folder: arrays with whatever else describes the state, as JSON, in
one safetensors file that is replaced as a whole. A piece of another run, or one that does not read, is as good as
none. Whoever computes for long asks :attr:`Keep.due` at every step and writes when it says so; on the CPU a run that
was continued from a piece gives the same bits as one that was never disturbed, because a piece holds everything that
the next step depends on, the state of the random generators included. Needs no torch.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from engine.runs.files import write_atomic

FOLDER = "checkpoint"
#: Seconds between two pieces, unless writing takes so long that it would cost more than a twentieth of the time.
EVERY = 10.0
_stop_asked = False
_asked_at = -1e9


def ask_to_stop() -> bool:
    """Called when the process is asked to end. True if a loop that keeps pieces will see to it at its next step."""
    global _stop_asked
    if _stop_asked or time.monotonic() - _asked_at > 1.0:
        return False
    _stop_asked = True
    return True


def stop_if_asked() -> None:
    """End the process here, if that was put off until a good moment."""
    if _stop_asked:
        sys.exit(143)


class Keep:
    """The pieces of one run; without a folder nothing is kept.

    Args:
        folder: the run's folder.
        run: the run's id; pieces that another run left there are not read.
    """

    def __init__(self, folder: Path | None = None, run: str = "") -> None:
        self.folder, self.run = folder, run
        self._folder = folder / FOLDER if folder else None
        self._every = float(os.environ.get("UNMASK_CHECKPOINT_SECONDS") or EVERY)
        if self._folder is not None:
            for torn in self._folder.glob(".*.part"):  # what a process was writing when it was killed
                torn.unlink(missing_ok=True)
        self._began = time.monotonic()
        self._next = self._began + self._every

    def part(self, name: str) -> Keep:
        """For one part of a run among several alike: what another part left in the same place is not read."""
        return Keep(self.folder, f"{self.run} {name}")

    @property
    def due(self) -> bool:
        """Whether it is time to write a piece; cheap enough to ask at every step."""
        global _asked_at
        if self._folder is None:
            return False
        _asked_at = time.monotonic()
        return _stop_asked or _asked_at >= self._next

    @property
    def worth(self) -> bool:
        """Whether the end of a part is worth writing down, although the last piece is young: the run is a long one."""
        return self._folder is not None and time.monotonic() - self._began >= self._every

    def read(self, name: str) -> tuple[dict[str, np.ndarray], Any] | None:
        """The arrays and the state of a piece; None if there is none that can be used."""
        if self._folder is None:
            return None
        try:
            data = (self._folder / f"{name}.safetensors").read_bytes()
            (length,) = struct.unpack("<Q", data[:8])
            about = json.loads(data[8 : 8 + length])["__metadata__"]
            if about["run"] != self.run:
                return None
            return safetensors.numpy.load(data), json.loads(about["state"])
        except (OSError, ValueError, KeyError, TypeError, struct.error, safetensors.SafetensorError):
            return None

    def write(self, name: str, arrays: dict[str, np.ndarray], state: Any) -> None:
        """Replace a piece. If the process was asked to end in the meantime, it ends here.

        Raises:
            OSError: if it cannot be written; the piece before it is still there.
        """
        if self._folder is None:
            return
        started = time.monotonic()
        about = {"run": self.run, "state": json.dumps(state)}
        whole = {key: np.asarray(value, order="C") for key, value in arrays.items()}
        self._folder.mkdir(exist_ok=True)
        write_atomic(self._folder / f"{name}.safetensors", safetensors.numpy.save(whole, about))
        now = time.monotonic()
        self._next = now + max(self._every, 20 * (now - started) if self._every else 0)
        stop_if_asked()

    def clear(self) -> None:
        """Forget everything: the run is finished, or can never be."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def stamp(folder: Path) -> int:
    """Changes whenever a run writes a piece; 0 if it has none."""
    try:
        return max((piece.stat().st_mtime_ns for piece in (folder / FOLDER).glob("*.safetensors")), default=0)
    except OSError:
        return 0


#: For callers that keep nothing.
NOTHING = Keep()
