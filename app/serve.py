"""The dashboard for a class in one room: ``python -m app.serve --address 0.0.0.0``.

It asks for a passphrase on the terminal, or takes it from ``UNMASK_PASSPHRASE``, and lets in whoever says it
(:mod:`app.gate`). Uploads and deletion are off, and so are error details (:mod:`app.shared`). The private dashboard,
``python -m streamlit run app/main.py``, may run beside it on another port over the same workspace.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import socket
import sys
from pathlib import Path
from typing import Any

import streamlit as st
from starlette.middleware import Middleware

from app import shared
from app.gate import Gate
from engine.paths import ROOT

PASSPHRASE = "UNMASK_PASSPHRASE"
SHORTEST = 8
_EVERYWHERE = ("0.0.0.0", "::")


def main() -> None:
    args = _arguments().parse_args()
    try:
        found = options(args)
        _free(args.address, args.port)
        passphrase = _passphrase()
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from None
    os.environ[shared.SETTING] = "look" if args.no_jobs else "1"
    os.chdir(ROOT)
    app = st.App(ROOT / "app" / "main.py", middleware=[Middleware(Gate, passphrase=passphrase)])
    app.run(config=found)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app.serve", description="Share the dashboard in a room.")
    parser.add_argument("--address", required=True, help="of this machine; 0.0.0.0: every network that it is in")
    parser.add_argument("--port", type=int, default=8501)
    parser.add_argument(
        "--host", action="append", default=[], help="a further name under which visitors reach it; may be repeated"
    )
    parser.add_argument("--certificate", type=Path, help="a TLS certificate (PEM), with --key: encrypts what is sent")
    parser.add_argument("--key", type=Path)
    parser.add_argument("--no-jobs", action="store_true", help="visitors start no jobs: they look, cut and ask")
    return parser


def options(args: argparse.Namespace) -> dict[str, Any]:
    """Streamlit's settings for a shared dashboard.

    Raises:
        ValueError: in one line, if the arguments make no sense.
    """
    if bool(args.certificate) != bool(args.key):
        raise ValueError("expected --certificate and --key together, got one of them")
    names = hosts(args.address, args.host)
    found: dict[str, Any] = {
        "server.address": args.address,
        "server.port": args.port,
        "server.allowedHosts": names,
        "server.headless": True,
        "server.enableCORS": True,
        "server.enableXsrfProtection": True,
        "server.maxUploadSize": 1,
        "server.fileWatcherType": "none",
        "client.showErrorDetails": "none",
        "client.toolbarMode": "viewer",
        "browser.gatherUsageStats": False,
        "browser.serverAddress": names[0],
        "browser.serverPort": args.port,
    }
    for key, file in (("server.sslCertFile", args.certificate), ("server.sslKeyFile", args.key)):
        if file is not None:
            if not file.is_file():
                raise ValueError(f"expected a file, got {str(file)!r}")
            found[key] = str(file.resolve())
    return found


def hosts(address: str, more: list[str]) -> list[str]:
    """The names by which a browser may ask for ``address``, the one to tell people first."""
    found = [*more] if address in _EVERYWHERE else [*more, address]
    if address in _EVERYWHERE:
        name = socket.gethostname()
        found += [*_addresses(), name, f"{name.partition('.')[0]}.local"]
    return list(dict.fromkeys([*found, "localhost", "127.0.0.1"]))


def _addresses() -> list[str]:
    """This machine's addresses, the one towards the network first."""
    found: list[str] = []
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # of the network for documentation; nothing is sent
        found.append(str(probe.getsockname()[0]))
    with contextlib.suppress(OSError):
        found += [str(row[4][0]) for row in socket.getaddrinfo(socket.gethostname(), None)]
    return found


def _free(address: str, port: int) -> None:
    """Refuse an address that is not this machine's, and a port that is taken.

    Raises:
        ValueError: in one line.
    """
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        socket.create_server((address, port), family=family).close()
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"expected a free address of this machine, got {address} port {port}: {why}") from None


def _passphrase() -> str:
    """From the environment, where programs that are started from here no longer find it, or from the keyboard.

    Raises:
        ValueError: in one line, if there is none or it is short.
    """
    said = os.environ.pop(PASSPHRASE, None)
    if said is None:
        if not sys.stdin.isatty():
            raise ValueError(f"expected a passphrase in {PASSPHRASE} or a terminal to ask for it, got neither")
        said = getpass.getpass("Passphrase for visitors: ")
    if len(said.strip()) < SHORTEST:
        raise ValueError(f"expected a passphrase of at least {SHORTEST} characters, got {len(said.strip())}")
    return said


if __name__ == "__main__":
    main()
