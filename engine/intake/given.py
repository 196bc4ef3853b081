"""Architectures that a person gives as ``file.py:function`` on the command line.

This is the one place where code from outside runs, and it runs because its owner named it in a terminal: the file is
remembered by its hash in the workspace (``architectures.json``), and a copy travels in the run folder. A run folder
from elsewhere can therefore bring a file along, but not the permission to run it.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import types
from pathlib import Path

from torch import nn

from engine.paths import workspace
from engine.runs.store import json_bytes, write_atomic

_MAX_BYTES = 1 << 20


def _list() -> Path:
    return workspace() / "architectures.json"


def _approved() -> dict[str, str]:
    try:
        found = json.loads(_list().read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def approve(text: str) -> tuple[bytes, str]:
    """Take ``file.py:function`` from a command line: its source and the function's name, allowed here from now on.

    Raises:
        ValueError: if there is no such file, or the text is no such thing.
    """
    name, colon, function = text.rpartition(":")
    path = Path(name)
    if not colon or path.suffix != ".py" or not function.isidentifier():
        raise ValueError(f"expected --arch file.py:function, got {text!r}")
    if not path.is_file():
        raise ValueError(f"expected a python file for --arch, got {name!r}, which is none")
    source = path.read_bytes()
    if len(source) > _MAX_BYTES:
        raise ValueError(f"expected a python file of at most {_MAX_BYTES:,} bytes, got {len(source):,}")
    _list().parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(source).hexdigest()
    write_atomic(_list(), json_bytes({**_approved(), digest: str(path.resolve())}))
    return source, function


def _sizes(classes: int, channels: int) -> dict[str, int]:
    return {"classes": classes, "num_classes": classes, "channels": channels, "in_channels": channels}


def expression(source: bytes, function: str, classes: int, channels: int) -> str:
    """The python expression that :func:`build` evaluates, read from the source without running it."""
    names: list[str] = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name == function:
            node = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), node)
        elif not (isinstance(node, ast.FunctionDef) and node.name == function):
            continue
        if isinstance(node, ast.FunctionDef):
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    sizes = _sizes(classes, channels)
    return f"{function}({', '.join(f'{n}={sizes[n]}' for n in names if n in sizes)})"


def build(source: bytes, function: str, classes: int, channels: int) -> nn.Module:
    """Run an allowed source and call its function, with ``classes`` and ``channels`` where it takes them.

    Raises:
        ValueError: if the source was never given on a command line here, or gives no network.
    """
    digest = hashlib.sha256(source).hexdigest()
    if digest not in _approved():
        raise ValueError(
            f"expected an architecture that was given with import --arch on this machine, got another ({digest[:16]})"
        )
    module = types.ModuleType("given_architecture")
    known = _sizes(classes, channels)
    try:
        exec(compile(source, "architecture.py", "exec"), module.__dict__)
        make = getattr(module, function, None)
        if not callable(make):
            raise ValueError(f"expected a function {function} in the file of --arch, got none")
        parameters = inspect.signature(make).parameters
        net = make(**{name: value for name, value in known.items() if name in parameters})
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"expected {function} to build a network, got {type(error).__name__}: {error}") from None
    if not isinstance(net, nn.Module):
        raise ValueError(f"expected {function} to return a torch module, got {type(net).__name__}")
    return net
