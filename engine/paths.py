"""The two places the project reads and writes: the shipped assets and the user's workspace."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "assets"


def workspace() -> Path:
    """``$UNMASK_HOME``, else ``.unmask/`` in the checkout. Created by whoever writes first."""
    return Path(os.environ.get("UNMASK_HOME") or ROOT / ".unmask")
