"""A redraw waits for the runner that has ended but was not heard out; everything else goes its way at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.runtime.app_session import AppSession
from streamlit.runtime.scriptrunner import ScriptRunner
from streamlit.runtime.scriptrunner_utils.script_requests import RerunData, ScriptRequests, ScriptRequestType

from app import last_words


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The fragments that reached Streamlit's own method."""
    found: list[str] = []
    monkeypatch.setattr(AppSession, "request_rerun", lambda session, state: found.append(state.fragment_id))
    last_words.listen()
    return found


def session(requests: ScriptRequests | None) -> Any:
    later: list[tuple[Any, ...]] = []
    runner = None if requests is None else SimpleNamespace(_requests=requests)
    loop = SimpleNamespace(call_later=lambda seconds, *call: later.append(call))
    return SimpleNamespace(_scriptrunner=runner, _event_loop=loop, later=later)


def ended() -> ScriptRequests:
    requests = ScriptRequests()
    assert requests.on_scriptrunner_ready().type == ScriptRequestType.STOP  # nothing to do: this is how a runner ends
    assert not requests.request_rerun(RerunData())
    return requests


def test_a_redraw_waits_until_the_runner_is_gone(asked: list[str]) -> None:
    room = session(ended())
    AppSession.request_rerun(room, ClientState(fragment_id="strip"))
    assert asked == []
    again, *values = room.later.pop()
    again(*values)
    assert asked == []
    room._scriptrunner = None  # what Streamlit does with the runner's last event
    again, *values = room.later.pop()
    again(*values)
    assert (asked, room.later) == (["strip"], [])


def test_nobody_waits_for_ever(asked: list[str]) -> None:
    room = session(ended())
    AppSession.request_rerun(room, ClientState(fragment_id="strip"))
    for _ in range(last_words.MOST):
        again, *values = room.later.pop()
        again(*values)
    assert asked == ["strip"]


STRIP = ClientState(fragment_id="strip")


@pytest.mark.parametrize(("state", "requests"), [(STRIP, ScriptRequests()), (STRIP, None), (ClientState(), ended())])
def test_all_else_goes_at_once(asked: list[str], state: ClientState, requests: ScriptRequests | None) -> None:
    room = session(requests)
    AppSession.request_rerun(room, state)
    assert (asked, room.later) == ([state.fragment_id], [])


def test_it_is_done_once() -> None:
    last_words.listen()
    first = AppSession.request_rerun
    last_words.listen()
    assert AppSession.request_rerun is first


def test_the_runner_still_has_what_is_looked_at() -> None:
    """A new Streamlit may call these otherwise, or need none of it."""
    assert "_requests" in ScriptRunner.__init__.__code__.co_names
    assert "_state" in ScriptRequests.__init__.__code__.co_names
    assert "_event_loop" in AppSession.__init__.__code__.co_names
