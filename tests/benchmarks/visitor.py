"""A visitor of the dashboard without a browser: Streamlit's own protocol, spoken over one WebSocket.

It does what the browser's program does as far as the server can tell: it asks for a page, sends what a person changed
together with the state of everything else, follows the address, redraws fragments at their interval, and keeps the
elements that are on the page.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.Element_pb2 import Element
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

#: Seconds that a run of the script may take before it counts as lost.
PATIENCE = 120.0
_ENDS = (ForwardMsg.FINISHED_SUCCESSFULLY, ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY)


class Lost(Exception):
    """The server did not answer, or closed the connection."""


class Visitor:
    """One browser tab. Use it as an asynchronous context manager.

    Args:
        url: of the server, such as ``http://127.0.0.1:8501``.
        page: its path, such as ``prune``; empty for the start page.
        query: of the address, without the question mark.
        cookie: what the door of a shared dashboard gave out.
    """

    def __init__(self, url: str, page: str = "", query: str = "", cookie: str = "") -> None:
        self._url = url.replace("http", "ws", 1) + "/_stcore/stream"
        self._headers = {"Cookie": cookie} if cookie else {}
        self.page, self.query = page, query
        self.errors: list[str] = []
        self._hash = self._run = ""
        self._states: dict[str, WidgetState] = {}
        #: By place: the run and the fragment that drew it, and what it is.
        self._elements: dict[tuple[int, ...], tuple[str, str, Element]] = {}
        self._redraws: dict[str, asyncio.Task[None]] = {}
        self._finished = 0
        self._changed = asyncio.Condition()
        self._socket: ClientConnection | None = None
        self._listener: asyncio.Task[None] | None = None
        self._closed = False

    async def __aenter__(self) -> Visitor:
        self._socket = await connect(
            self._url,
            additional_headers=self._headers,
            subprotocols=[Subprotocol("streamlit")],
            max_size=None,
            open_timeout=PATIENCE,
        )
        self._listener = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop_redraws()
        assert self._socket is not None
        assert self._listener is not None
        await self._socket.close()
        await self._listener  # also brings out what went wrong in it

    # --- what a person does -----------------------------------------------------------------------------------------

    async def open(self) -> float:
        """Ask for the page; returns the seconds until it is complete."""
        return await self._rerun()

    async def click(self, key: str) -> float:
        """Click a button; returns the seconds until the page is complete."""
        return await self._rerun(WidgetState(id=self.widget(key), trigger_value=True))

    async def toggle(self, key: str, value: bool) -> float:
        return await self._rerun(WidgetState(id=self.widget(key), bool_value=value))

    async def report(self, key: str, **values: Any) -> float:
        """What a component of the browser tells: the neuron grid's threshold, say."""
        return await self._rerun(WidgetState(id=self.widget(key), json_value=json.dumps(values)))

    async def until(self, what: Callable[[], bool], seconds: float = PATIENCE) -> float:
        """Wait until something holds for the page; returns the seconds that took.

        Raises:
            Lost: if it does not within ``seconds``.
        """
        began = time.monotonic()
        await self._wait(what, seconds)
        return time.monotonic() - began

    # --- what a person sees -----------------------------------------------------------------------------------------

    def words(self) -> str:
        """The page's markup and sentences."""
        found = []
        for _, _, element in self._elements.values():
            kind = element.WhichOneof("type")
            body = getattr(getattr(element, kind), "body", "") if kind else ""
            found.append(body if isinstance(body, str) else "")
        return "\n".join(found)

    def widget(self, key: str) -> str:
        """The id of the widget whose key ends with ``key``.

        Raises:
            ValueError: if it is not on the page.
        """
        for _, _, element in reversed(self._elements.values()):
            kind = element.WhichOneof("type")
            name = str(getattr(getattr(element, kind), "id", "")) if kind else ""
            if name.endswith(f"-{key}"):
                return name
        raise ValueError(f"expected a widget {key!r} on the page, got none")

    # --- the protocol -----------------------------------------------------------------------------------------------

    async def _rerun(self, state: WidgetState | None = None) -> float:
        before, began = self._finished, time.monotonic()
        await self._send(state)
        await self._wait(lambda: self._finished > before, PATIENCE)
        return time.monotonic() - began

    async def _send(self, state: WidgetState | None = None, fragment: str = "") -> None:
        message = BackMsg()
        script = message.rerun_script
        script.query_string, script.page_script_hash, script.fragment_id = self.query, self._hash, fragment
        script.page_name = "" if self._hash else self.page
        script.is_auto_rerun = bool(fragment)
        script.context_info.timezone, script.context_info.color_scheme = "Europe/Berlin", "light"
        if state is not None:
            if state.WhichOneof("value") != "trigger_value":
                self._states[state.id] = state
            else:
                script.widget_states.widgets.append(state)
        script.widget_states.widgets.extend(self._states.values())
        assert self._socket is not None
        await self._socket.send(message.SerializeToString())

    async def _wait(self, what: Callable[[], bool], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: what() or self._closed)
        except TimeoutError:
            raise Lost(f"expected an answer within {seconds:g} s, got none") from None
        if not what():
            raise Lost("expected an answer, got a closed connection")

    async def _listen(self) -> None:
        assert self._socket is not None
        try:
            async for data in self._socket:
                message = ForwardMsg()
                assert isinstance(data, bytes)
                message.ParseFromString(data)
                async with self._changed:
                    self._take(message)
                    self._changed.notify_all()
        except ConnectionClosed:
            pass
        finally:
            self._closed = True
            async with self._changed:
                self._changed.notify_all()

    def _take(self, message: ForwardMsg) -> None:
        kind, run = message.WhichOneof("type"), message.metadata.run
        if kind == "new_session":
            self._run = run.script_run_id
            if not run.fragment_ids:
                self._stop_redraws()
        elif kind == "delta" and message.delta.WhichOneof("type") == "new_element":
            element = message.delta.new_element
            self._elements[tuple(message.metadata.delta_path)] = (self._run, message.delta.fragment_id, element)
            if element.WhichOneof("type") == "exception":
                self.errors.append(element.exception.message or "an exception")
        elif kind == "navigation":
            self._hash = message.navigation.page_script_hash
        elif kind == "auto_rerun":
            fragment = message.auto_rerun.fragment_id
            if fragment not in self._redraws:
                self._redraws[fragment] = asyncio.create_task(self._redraw(fragment, message.auto_rerun.interval))
        elif kind == "stop_auto_rerun":
            self._stop_redraws(set(message.stop_auto_rerun.fragment_ids))
        elif kind == "page_info_changed":
            self.query = message.page_info_changed.query_string
        elif kind == "script_finished" and message.script_finished in _ENDS:
            # What this run should have drawn again and did not is gone.
            part = set(run.fragment_ids)
            for path, (drawn, fragment, _) in list(self._elements.items()):
                if drawn != run.script_run_id and (not part or fragment in part):
                    del self._elements[path]
            self._finished += not part

    async def _redraw(self, fragment: str, interval: float) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(interval)
                await self._send(fragment=fragment)

    def _stop_redraws(self, only: set[str] | None = None) -> None:
        for fragment in list(self._redraws):
            if only is None or fragment in only:
                self._redraws.pop(fragment).cancel()
