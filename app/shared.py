"""What a visitor of a shared dashboard may do. In a private one everything is allowed.

``python -m app.serve`` shares a dashboard: it asks for a passphrase and sets ``UNMASK_SHARED`` for the pages. They ask
here before they draw a control that would change what belongs to everybody, and again before they do what it says.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Literal

import streamlit as st

from engine.paths import ROOT

#: ``1``: shared. ``look``: shared, and visitors start no jobs either. Anything else but ``0`` counts as ``1``.
SETTING = "UNMASK_SHARED"
SECRETS = ROOT / ".streamlit" / "secrets.toml"
Control = Literal["uploads", "delete", "jobs", "cancel", "resume"]

_WHY: dict[Control, str] = {
    "uploads": "Uploads are off in a shared dashboard; whoever runs it can open files for you.",
    "delete": "Deleting is off in a shared dashboard.",
    "jobs": "Starting jobs is off in this shared dashboard; whoever runs it can start them.",
    "cancel": "In a shared dashboard you can cancel only what you started in this session.",
    "resume": "In a shared dashboard you can resume only what you started in this session.",
}

WELCOME = "A shared dashboard: your edits, answers and questions are yours alone. Uploads and deleting are off."


def on() -> bool:
    """Whether other people use this dashboard."""
    return os.environ.get(SETTING, "") not in ("", "0")


def why_not(what: Control, job: str | None = None) -> str | None:
    """Why this visitor may not do something, in one sentence; None if it is allowed. ``job`` is what it is done to."""
    if not on():
        return None
    allowed = (what == "jobs" and os.environ[SETTING] != "look") or (what in ("cancel", "resume") and job in own())
    return None if allowed else _WHY[what]


def allowed(what: Control, job: str | None = None) -> bool:
    return why_not(what, job) is None


def started(job: str) -> None:
    """Remember a job as this visitor's own."""
    st.session_state.setdefault("jobs-mine", set()).add(job)


def own() -> set[str]:
    """The jobs that this visitor started in this session."""
    return set(st.session_state.get("jobs-mine", ()))


@functools.cache
def _places() -> tuple[Path, ...]:
    return (SECRETS, *(Path(name) for name in st.get_option("secrets.files")))


_found: tuple[object, tuple[bool, ...], bool] | None = None


def _has_secrets() -> bool:
    """Whether Streamlit has secrets; where there are none it would search with every rerun, a tenth of its time."""
    global _found
    files = tuple(path.exists() for path in _places())
    if _found is None or _found[0] is not st.secrets or _found[1] != files:
        _found = (st.secrets, files, st.secrets.load_if_toml_exists())
    return _found[2]


def signed_in() -> bool:
    """Whether the pages may be shown. Where ``.streamlit/secrets.toml`` has ``[auth]``, people sign in there first."""
    if not _has_secrets():
        if SECRETS.exists():  # it may ask for people to sign in, so nobody comes in until it reads
            st.error(f"Expected {SECRETS.name} to be TOML, got something else.", icon=":material/error:")
        return not SECRETS.exists()
    if "auth" not in st.secrets or st.user.get("is_logged_in"):
        return True
    st.title("Sign in to Unmask")
    st.button("Sign in", type="primary", icon=":material/login:", on_click=st.login)
    return False
