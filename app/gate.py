"""The door of a shared dashboard: whoever has not said the passphrase gets one page that asks for it, and nothing else.

It stands before Streamlit, so that no page, socket, file or session of the dashboard exists for those outside. The
passphrase comes in the body of a form, is compared in constant time and is kept nowhere but in the memory of this
process; whoever said it gets a cookie that lasts as long as the browser and this process do.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import html
import ipaddress
import secrets
import time
import unicodedata
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from string import Template
from urllib.parse import parse_qs

from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from app.palette import LIGHT
from app.wordmark import wordmark

COOKIE = "unmask_visitor"
#: Answers ``ok`` to whoever asks whether the server is up.
HEALTH = "/_stcore/health"
UPLOADS = "/_stcore/upload_file"
#: Wrong passphrases of one address that are free, and the seconds that each further one has to wait.
FREE, EVERY = 5, 10.0
_LONGEST = 4096
_PATIENCE = 10.0
_REMEMBERED = 4096
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Attempts:
    """Wrong passphrases by network address; ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._paid: OrderedDict[str, float] = OrderedDict()

    def wait(self, address: str) -> float:
        """Seconds until this address may try again; 0 if it may now."""
        return max(0.0, self._paid.get(_network(address), 0.0) - self._clock() - (FREE - 1) * EVERY)

    def failed(self, address: str) -> None:
        network, now = _network(address), self._clock()
        self._paid[network] = max(now, self._paid.pop(network, now)) + EVERY
        while len(self._paid) > _REMEMBERED:
            self._paid.popitem(last=False)


def _network(address: str) -> str:
    """An IPv6 user has 2**64 addresses to try from, so the network counts."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else str(found)


class Gate:
    """ASGI middleware that lets in whoever knows ``passphrase``. It takes no uploads from anybody."""

    def __init__(self, app: ASGIApp, passphrase: str, attempts: Attempts | None = None) -> None:
        self._app = app
        self._passphrase = _digest(passphrase)
        self._pass = secrets.token_urlsafe(32)
        self._attempts = attempts or Attempts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket") or scope["path"] == HEALTH:
            await self._app(scope, receive, send)
        elif not self._knows(HTTPConnection(scope)):
            door = WebSocketClose(1008) if kind == "websocket" else await self._ask(Request(scope, receive))
            await door(scope, receive, send)
        elif UPLOADS in scope["path"]:
            await PlainTextResponse("Uploads are off.", 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _knows(self, caller: HTTPConnection) -> bool:
        return hmac.compare_digest(caller.cookies.get(COOKIE, "").encode(), self._pass.encode())

    async def _ask(self, request: Request) -> Response:
        if request.method != "POST":
            return _page()
        try:
            async with asyncio.timeout(_PATIENCE):
                said = await _said(request)
        except TimeoutError:
            return _page("That took too long. Try again.", 408)
        # From here to the end nothing is awaited: two attempts at once count as two.
        address = request.client.host if request.client else ""
        if wait := self._attempts.wait(address):
            return _page(f"Too many attempts. Try again in {int(wait) + 1} seconds.", 429, wait)
        if said is None or not hmac.compare_digest(_digest(said), self._passphrase):
            self._attempts.failed(address)
            return _page("That is not the passphrase. Check capital letters and spaces.", 403)
        # Where the link led to; a path that begins with two slashes would lead to another site.
        where = "/" + request.url.path.lstrip("/\\") + (f"?{request.url.query}" if request.url.query else "")
        answer = RedirectResponse(where, 303, headers={"Cache-Control": "no-store"})
        answer.set_cookie(COOKIE, self._pass, httponly=True, samesite="lax", secure=request.url.scheme == "https")
        return answer


def _digest(passphrase: str) -> bytes:
    """Of the same length whatever was said, and the same however a keyboard composes accents."""
    return hashlib.sha256(unicodedata.normalize("NFC", passphrase.strip()).encode()).digest()


async def _said(request: Request) -> str | None:
    """The passphrase in the body of a form; None if there is none."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _LONGEST:
            return None
    return parse_qs(body.decode("latin-1")).get("passphrase", [None])[0]


def _page(trouble: str = "", status: int = 401, wait: float = 0) -> Response:
    page = Template((Path(__file__).parent / "gate.html").read_text()).substitute(
        wordmark=wordmark("light").replace(LIGHT.ink, "currentColor"),
        invalid=' aria-invalid="true" aria-describedby="trouble"' if trouble else "",
        trouble=f'<p class="bad" id="trouble" role="alert">{html.escape(trouble)}</p>' if trouble else "",
    )
    more = {"Retry-After": str(int(wait) + 1)} if wait else {}
    return HTMLResponse(page, status, {**_HEADERS, **more})
