"""Pickles, read without running them.

A pickle is a program for a stack machine that may import any object and call it with any arguments; Python's own
unpickler does so, and it also hashes and nests whatever it is told to, which can exhaust or crash it without a single
import. The machine here knows the same instructions as far as checkpoints use them, and cannot import or call:
GLOBAL gives a :class:`Name`, a pair of strings; REDUCE and NEWOBJ give a :class:`Made`, a record of what would have
been called with what; BUILD adds a state to such a record. Work is bounded by the number of instructions, and memory by
that and the size of the file: strings are slices, keys of dictionaries are plain scalars, nothing recurses.

What the records of tensors and arrays mean is :mod:`engine.intake.checkpoint`'s business.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import itertools
import pickletools
import struct
from collections.abc import Callable, Iterator
from typing import Any

from engine.intake.limits import MAX_KEY_CHARS, MAX_OPERATIONS, Refused

_MARK = object()
_MAX_INT_BYTES = 32
_MAX_NAME = 200
MAX_NAMES = 2_000
#: What may be a key: values whose hash is theirs alone and takes no longer than they do.
_KEYS = (str, int, float, bool, type(None), bytes)


class Name:
    """Something that the file names: never looked up."""

    __slots__ = ("text",)

    def __init__(self, module: str, name: str) -> None:
        self.text = f"{module}.{name}"


class Made:
    """What a call would have made: the name, its arguments, and the state and items given to it afterwards."""

    __slots__ = ("args", "items", "name", "pairs", "state")

    def __init__(self, name: Name, args: tuple[Any, ...]) -> None:
        self.name, self.args = name, args
        self.state: Any = None
        self.items: list[Any] | tuple[()] = ()
        self.pairs: list[tuple[Any, Any]] | tuple[()] = ()


class Pointer:
    """A persistent id: what stands for data outside the pickle."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def read(data: bytes, names: set[str], *, operations: int = MAX_OPERATIONS) -> Any:
    """Read one pickle that fills ``data``; what it names is added to ``names``, also when it is refused.

    Returns:
        Its value, made of plain scalars, lists, tuples, dicts and the three inert classes.

    Raises:
        Refused: for an instruction that checkpoints do not need, one that fits no stack, or too many of them.
    """
    try:
        return _Machine(data, names, operations).run()
    except Refused:
        raise
    except (IndexError, struct.error, UnicodeDecodeError, TypeError, ValueError, KeyError, AttributeError):
        raise Refused("expected a well-formed pickle, got a broken one") from None


def printable(text: str) -> str:
    """A stranger's text with a replacement for whatever could steer a terminal or cannot be encoded."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def names_behind(data: bytes, names: set[str], operations: int = 50_000) -> None:
    """Add the names of a refused pickle that a disassembler finds, as far as it gets; for a report, not for safety."""
    texts: list[str] = []
    with contextlib.suppress(Exception):
        for instruction, argument, _ in itertools.islice(_instructions(data), operations):
            if instruction.name in ("GLOBAL", "INST") and len(names) < MAX_NAMES:
                names.add(printable(str(argument).replace(" ", ".", 1)[: 2 * _MAX_NAME]))
            elif instruction.name == "STACK_GLOBAL" and len(texts) == 2 and len(names) < MAX_NAMES:
                names.add(printable(".".join(texts)[: 2 * _MAX_NAME]))
            elif isinstance(argument, str):
                texts = [*texts[-1:], argument]


# The disassembler's codecs are imported at their first use, which the lock of the reading process would not allow.
for _codec in ("ascii", "latin-1", "utf-8", "raw-unicode-escape", "unicode-escape"):
    codecs.lookup(_codec)


def _instructions(data: bytes) -> Iterator[Any]:
    """Also those behind a STOP, where another pickle may lie."""
    stream = io.BytesIO(data)
    while stream.tell() < len(data):
        yield from pickletools.genops(stream)


class _Machine:
    def __init__(self, data: bytes, names: set[str], operations: int) -> None:
        self.data, self.at, self.left = data, 0, operations
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.lines: dict[bytes, Name] = {}
        self.names = names

    def run(self) -> Any:
        data, steps, size = self.data, _STEPS, len(self.data)
        for _ in range(self.left):
            if self.at >= size:
                raise Refused("expected a complete pickle, got one that ends before its STOP")
            code = data[self.at]
            self.at += 1
            if code == _STOP:
                if self.at != size:
                    raise Refused("expected one pickle, got more bytes behind its end")
                if len(self.stack) != 1 or self.marked:
                    raise Refused("expected a pickle of one value, got a broken one")
                return self.stack[0]
            step = steps.get(code)
            if step is None:
                raise Refused(f"expected instructions that checkpoints use, got {_instruction(code)} in the pickle")
            step(self)
        raise Refused(f"expected a pickle of at most {self.left:,} instructions, got more")

    # Reading

    def take(self, n: int) -> bytes:
        if n < 0 or self.at + n > len(self.data):
            raise Refused("expected a complete pickle, got a value that ends behind it")
        part = self.data[self.at : self.at + n]
        self.at += n
        return part

    def number(self, n: int) -> int:
        return int.from_bytes(self.take(n), "little")

    def sized(self, width: int) -> bytes:
        return self.take(self.number(width))

    def text(self, width: int) -> str:
        return self.sized(width).decode("utf-8", "surrogatepass")

    # The stack

    def top(self, kind: type | tuple[type, ...]) -> Any:
        value = self.stack[-1]
        if type(value) is not kind and not (isinstance(kind, tuple) and type(value) in kind):
            raise Refused("expected a well-formed pickle, got an instruction for another kind of value")
        return value

    def to_mark(self) -> list[Any]:
        if not self.marked:
            raise Refused("expected a well-formed pickle, got one without its MARK")
        items, self.stack = self.stack, self.marked.pop()
        return items

    def name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str or max(len(module), len(name)) > _MAX_NAME:
            raise Refused("expected names as short texts in the pickle, got something else")
        found = Name(module, name)
        if not found.text.isprintable():
            raise Refused("expected printable names in the pickle, got others")
        self.names.add(found.text)
        if len(self.names) > MAX_NAMES:
            raise Refused(f"expected at most {MAX_NAMES:,} different names in the pickle, got more")
        self.stack.append(found)

    def key(self, value: Any) -> Any:
        if type(value) is Made:
            value = plain_scalar(value)
        if type(value) not in _KEYS:
            raise Refused("expected texts and numbers as keys of the pickle's tables, got something else")
        # Longer texts and wider numbers can be made to collide, and then each comparison takes its time.
        if (
            (len(value) > MAX_KEY_CHARS)
            if isinstance(value, (str, bytes))
            else (type(value) is int and abs(value) >> 64)
        ):
            raise Refused(f"expected keys of at most {MAX_KEY_CHARS} characters or 64 bits, got a longer one")
        return value

    # Instructions

    def proto(self) -> None:
        if not 2 <= self.number(1) <= 5:
            raise Refused("expected pickle protocol 2 to 5, got another")

    def frame(self) -> None:
        self.number(8)

    def mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def pop(self) -> None:
        self.stack.pop()

    def put(self, width: int) -> None:
        self.memo[self.number(width)] = self.stack[-1]

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, width: int) -> None:
        place = self.number(width)
        if place not in self.memo:
            raise Refused("expected a well-formed pickle, got a reference to nothing")
        self.stack.append(self.memo[place])

    def long(self) -> None:
        raw = self.sized(1)
        if len(raw) > _MAX_INT_BYTES:
            raise Refused(f"expected whole numbers of at most {_MAX_INT_BYTES} bytes, got {len(raw)}")
        self.stack.append(int.from_bytes(raw, "little", signed=True))

    def signed(self) -> None:
        self.stack.append(struct.unpack("<i", self.take(4))[0])

    def real(self) -> None:
        self.stack.append(struct.unpack(">d", self.take(8))[0])

    def tuple_of(self, n: int) -> None:
        if len(self.stack) < n:
            raise Refused("expected a well-formed pickle, got an empty stack")
        items = tuple(self.stack[-n:])
        self.stack[-n:] = [items]

    def tuple_to_mark(self) -> None:
        items = tuple(self.to_mark())
        self.stack.append(items)

    def append(self) -> None:
        value = self.stack.pop()
        self.extend([value])

    def appends(self) -> None:
        items = self.to_mark()
        self.extend(items)

    def extend(self, items: list[Any]) -> None:
        target = self.top((list, Made))
        if type(target) is Made:
            if not target.items:
                target.items = []
            target = target.items
        target.extend(items)

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_all([key, value])

    def set_items(self) -> None:
        items = self.to_mark()
        self.set_all(items)

    def set_all(self, items: list[Any]) -> None:
        target = self.top((dict, Made))
        if len(items) % 2:
            raise Refused("expected a value for each key of the pickle's tables, got one without")
        if type(target) is Made and not target.pairs:
            target.pairs = []
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(target) is dict:
                target[self.key(key)] = value
            else:
                target.pairs.append((key, value))

    def reduce(self) -> None:
        args, name = self.stack.pop(), self.stack.pop()
        if type(name) is not Name or type(args) is not tuple:
            raise Refused("expected calls of names with arguments in the pickle, got something else")
        self.stack.append(Made(name, args))

    def build(self) -> None:
        state = self.stack.pop()
        target = self.top(Made)
        if target.state is not None:
            raise Refused("expected one state for each object of the pickle, got two")
        target.state = state

    def global_name(self) -> None:
        data, at = self.data, self.at
        middle = data.find(b"\n", at, at + _MAX_NAME + 1)
        end = data.find(b"\n", middle + 1, middle + _MAX_NAME + 2) if middle >= 0 else -1
        if end < 0:
            raise Refused(f"expected names of at most {_MAX_NAME} characters in the pickle, got a longer one")
        raw, self.at = data[at:end], end + 1
        known = self.lines.get(raw)
        if known is None:
            module, _, name = raw.decode().partition("\n")
            self.name(module, name)
            self.lines[raw] = self.stack[-1]
        else:
            self.stack.append(known)

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.name(module, name)

    def pointer(self) -> None:
        self.stack.append(Pointer(self.stack.pop()))


def _push(make: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(make(m))


def _constant(value: Any) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(value)


_STOP = ord(".")
_STEPS: dict[int, Callable[[_Machine], None]] = {
    0x80: _Machine.proto,
    0x95: _Machine.frame,
    ord("("): _Machine.mark,
    ord("0"): _Machine.pop,
    ord("N"): _constant(None),
    0x88: _constant(True),
    0x89: _constant(False),
    ord("J"): _Machine.signed,
    ord("K"): _push(lambda m: m.number(1)),
    ord("M"): _push(lambda m: m.number(2)),
    0x8A: _Machine.long,
    ord("G"): _Machine.real,
    ord("X"): _push(lambda m: m.text(4)),
    0x8C: _push(lambda m: m.text(1)),
    0x8D: _push(lambda m: m.text(8)),
    ord("T"): _push(lambda m: m.sized(4).decode("latin-1")),
    ord("U"): _push(lambda m: m.sized(1).decode("latin-1")),
    ord("B"): _push(lambda m: m.sized(4)),
    ord("C"): _push(lambda m: m.sized(1)),
    0x8E: _push(lambda m: m.sized(8)),
    ord(")"): _constant(()),
    0x85: lambda m: m.tuple_of(1),
    0x86: lambda m: m.tuple_of(2),
    0x87: lambda m: m.tuple_of(3),
    ord("t"): _Machine.tuple_to_mark,
    ord("]"): lambda m: m.stack.append([]),
    ord("}"): lambda m: m.stack.append({}),
    ord("a"): _Machine.append,
    ord("e"): _Machine.appends,
    ord("s"): _Machine.set_item,
    ord("u"): _Machine.set_items,
    ord("q"): lambda m: m.put(1),
    ord("r"): lambda m: m.put(4),
    0x94: _Machine.memoize,
    ord("h"): lambda m: m.get(1),
    ord("j"): lambda m: m.get(4),
    ord("c"): _Machine.global_name,
    0x93: _Machine.stack_global,
    ord("R"): _Machine.reduce,
    0x81: _Machine.reduce,
    ord("b"): _Machine.build,
    ord("Q"): _Machine.pointer,
}

_REFUSED_NAMES = {
    ord("i"): "INST",
    ord("o"): "OBJ",
    ord("P"): "PERSID",
    0x82: "EXT1",
    0x83: "EXT2",
    0x84: "EXT4",
    0x92: "NEWOBJ_EX",
    0x96: "BYTEARRAY8",
    0x97: "NEXT_BUFFER",
    0x98: "READONLY_BUFFER",
    0x8B: "LONG4",
    0x8F: "EMPTY_SET",
    0x90: "ADDITEMS",
    0x91: "FROZENSET",
    ord("I"): "INT",
    ord("L"): "LONG",
    ord("F"): "FLOAT",
    ord("S"): "STRING",
    ord("V"): "UNICODE",
    ord("p"): "PUT",
    ord("g"): "GET",
    ord("d"): "DICT",
    ord("l"): "LIST",
    ord("1"): "POP_MARK",
    ord("2"): "DUP",
}


def _instruction(code: int) -> str:
    return _REFUSED_NAMES.get(code, f"byte 0x{code:02x}")


_SCALARS = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")
_FORMATS = {"i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q", "f2": "e"}
_FORMATS |= {"f4": "f", "f8": "d", "b1": "?"}


def check_bytes(value: Any, size: int) -> Any:
    """Bytes, or the text that protocol 2 writes for them (``_codecs.encode(text, "latin1")``), of their proper size.

    The text is not encoded here: to encode one long text again and again would fill time and memory.
    """
    if type(value) is str:
        value = None
    elif type(value) is Made and value.name.text == "_codecs.encode" and len(value.args) == 2:
        value = value.args[0] if value.args[1] in ("latin1", "latin-1") else None
    elif type(value) is Made and value.name.text in ("builtins.bytes", "__builtin__.bytes") and value.args == ():
        value = b""
    if type(value) not in (bytes, str):
        raise Refused("expected bytes in the pickle, got something else")
    if len(value) != size:
        raise Refused(f"expected {size:,} bytes for a number or an array, got {len(value):,}")
    return value


def dtype_format(value: Any) -> str:
    """The numpy type that a ``numpy.dtype`` record means, such as ``f8``; little-endian plain numbers only."""
    if type(value) is Made and value.name.text == "numpy.dtype" and value.args and type(value.args[0]) is str:
        state = value.state
        order = state[1] if type(state) is tuple and len(state) >= 2 else "|"
        if value.args[0] in _FORMATS and order in ("<", "|", "="):
            return value.args[0]
    raise Refused("expected numpy arrays of plain numbers, got another type")


def plain_scalar(value: Made) -> Any:
    """The number that a numpy scalar's record means; other records are given back as they are.

    Raises:
        Refused: for a number whose bytes are not those of its type.
    """
    if value.name.text not in _SCALARS or len(value.args) != 2:
        return value
    kind = dtype_format(value.args[0])
    raw = check_bytes(value.args[1], int(kind[1:]))
    raw = raw.encode("latin-1") if type(raw) is str else raw
    return struct.unpack(f"<{_FORMATS[kind]}", raw)[0]
