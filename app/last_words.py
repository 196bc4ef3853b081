"""What a finished run of a page still has to say reaches the browser before a part of the page is drawn again.

Streamlit hands the messages of a run to its event loop one by one. If the clock of a fragment asks for a redraw after
the run has ended but before the loop has got to its last messages, the redraw gets a runner of its own and the messages
of the old one are dropped: the page stays as it was, without an end, until somebody clicks. The comment in Streamlit's
own ``AppSession.request_rerun`` (1.67) tells how. With a class on one machine the loop is late often enough. Here such
a redraw waits until the old runner has been heard out.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

from streamlit.runtime.app_session import AppSession
from streamlit.runtime.scriptrunner_utils.script_requests import ScriptRequestType

if TYPE_CHECKING:
    from streamlit.proto.ClientState_pb2 import ClientState

#: Seconds between two looks at whether the old runner has been heard out, and looks after which nobody waits any more.
PAUSE, MOST = 0.02, 500


def listen() -> None:
    """Make every session wait; once per process."""
    plain = AppSession.request_rerun
    if getattr(plain, "waits", False):
        return

    @wraps(plain)
    def request_rerun(session: AppSession, client_state: ClientState | None, looks: int = 0) -> None:
        if client_state is not None and client_state.fragment_id and looks < MOST and _ending(session):
            session._event_loop.call_later(PAUSE, request_rerun, session, client_state, looks + 1)
        else:
            plain(session, client_state)

    request_rerun.waits = True  # type: ignore[attr-defined]
    AppSession.request_rerun = request_rerun  # type: ignore[method-assign, assignment]


def _ending(session: Any) -> bool:
    """Whether the session's runner takes no more requests and the loop has not yet got to its end."""
    runner = session._scriptrunner
    return runner is not None and runner._requests._state == ScriptRequestType.STOP
