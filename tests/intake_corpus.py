# ruff: noqa: E501  (one case a line reads better than a case wrapped)
"""Hostile and malformed files, made by hand: an assembler for pickles, archives that can lie, and the list of cases.

Each case is (bytes, expectation): ``hostile`` names something that runs, ``refused`` cannot be read, ``foreign`` and
``plain`` can be read and hold nothing that a reader could trip over. :data:`CANARY` is a file that only an execution
could create.
"""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROTO = b"\x80\x02"
NONE, MARK, STOP, REDUCE, BUILD, TUPLE1, TUPLE2, TUPLE3 = b"N", b"(", b".", b"R", b"b", b"\x85", b"\x86", b"\x87"
EMPTY_TUPLE, EMPTY_LIST, EMPTY_DICT, TUPLE, PERSID = b")", b"]", b"}", b"t", b"Q"


# Pickles


def text(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def raw(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def whole(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def name(dotted: str) -> bytes:
    module, _, attribute = dotted.rpartition(".")
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def numbers(*values: int) -> bytes:
    return MARK + b"".join(whole(v) for v in values) + TUPLE


def table(*pairs: tuple[bytes, bytes]) -> bytes:
    return EMPTY_DICT + MARK + b"".join(k + v for k, v in pairs) + b"u"


def storage(
    key: bytes = text("0"), kind: str = "torch.FloatStorage", count: bytes = whole(4), more: bytes = b""
) -> bytes:
    return MARK + text("storage") + name(kind) + key + text("cpu") + count + more + TUPLE + PERSID


def tensor(
    store: bytes | None = None,
    offset: bytes = whole(0),
    shape: bytes = numbers(2, 2),
    stride: bytes = numbers(2, 1),
    function: str = "torch._utils._rebuild_tensor_v2",
    more: bytes = b"\x89" + name("collections.OrderedDict") + EMPTY_TUPLE + REDUCE,
) -> bytes:
    return name(function) + MARK + (store or storage()) + offset + shape + stride + more + TUPLE + REDUCE


def program(value: bytes) -> bytes:
    return PROTO + value + STOP


# Archives


@dataclass
class Member:
    """An entry; whatever is not None is written instead of the truth."""

    name: str | bytes
    data: bytes = b""
    method: int = 0
    flags: int = 0x800
    local_name: bytes | None = None
    local_method: int | None = None
    local_flags: int | None = None
    local_sizes: tuple[int, int] | None = None
    crc: int | None = None
    size: int | None = None
    packed: int | None = None
    offset: int | None = None
    disk: int = 0
    made_by: int = 0
    mode: int = 0
    extra: bytes = b""
    local_extra: bytes = b""
    packed_data: bytes | None = None


@dataclass
class Zip:
    members: list[Member]
    prefix: bytes = b""
    trailer: bytes = b""
    comment: bytes = b""
    gap: bytes = b""
    count: int | None = None
    counts_here: int | None = None
    cd_offset: int | None = None
    cd_size: int | None = None
    disk: int = 0
    end64: bytes | None = None
    spoil: dict[str, bytes] = field(default_factory=dict)

    def build(self) -> bytes:
        out, directory = bytearray(self.prefix), bytearray()
        for m in self.members:
            title = m.name if isinstance(m.name, bytes) else m.name.encode()
            body = m.data
            if m.packed_data is not None:
                body = m.packed_data
            elif m.method == 8:
                deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
                body = deflate.compress(m.data) + deflate.flush()
            crc = zlib.crc32(m.data) if m.crc is None else m.crc
            size = len(m.data) if m.size is None else m.size
            packed = len(body) if m.packed is None else m.packed
            at = len(out) if m.offset is None else m.offset
            local = title if m.local_name is None else m.local_name
            l_packed, l_size = (packed, size) if m.local_sizes is None else m.local_sizes
            flags = m.flags if m.local_flags is None else m.local_flags
            method = m.method if m.local_method is None else m.local_method
            out += struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, flags, method, 0, 0, crc & 0xFFFFFFFF,
                               l_packed & 0xFFFFFFFF, l_size & 0xFFFFFFFF, len(local), len(m.local_extra))  # fmt: skip
            out += local + m.local_extra + body
            directory += struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", m.made_by << 8 | 20, 20, m.flags, m.method, 0, 0,
                                     crc & 0xFFFFFFFF, packed & 0xFFFFFFFF, size & 0xFFFFFFFF, len(title), len(m.extra),
                                     0, m.disk, 0, m.mode << 16, at & 0xFFFFFFFF)  # fmt: skip
            directory += title + m.extra
        start = len(out) if self.cd_offset is None else self.cd_offset
        length = len(directory) if self.cd_size is None else self.cd_size
        count = len(self.members) if self.count is None else self.count
        here = count if self.counts_here is None else self.counts_here
        out += directory + self.gap + (self.end64 or b"")
        out += struct.pack("<4sHHHHIIH", b"PK\5\6", self.disk, self.disk, here & 0xFFFF, count & 0xFFFF,
                           length & 0xFFFFFFFF, start & 0xFFFFFFFF, len(self.comment))  # fmt: skip
        return bytes(out + self.comment + self.trailer)


STORAGE = struct.pack("<4f", 1, 2, 3, 4)


def members(pkl: bytes, storages: dict[str, bytes] | None = None) -> list[Member]:
    stored = {"0": STORAGE} if storages is None else storages
    return [
        Member("archive/data.pkl", pkl),
        *(Member(f"archive/data/{key}", data) for key, data in stored.items()),
        Member("archive/version", b"3\n"),
    ]


def checkpoint(value: bytes, storages: dict[str, bytes] | None = None) -> bytes:
    """A torch zip whose pickle is ``value``, between PROTO and STOP."""
    return Zip(members(program(value), storages)).build()


def state(value: bytes) -> bytes:
    """A state dictionary with one good tensor and ``value`` beside it."""
    return table((text("weight"), tensor()), (text("extra"), value))


GOOD = checkpoint(table((text("weight"), tensor())))


# Cases

Case = tuple[bytes, str]

GADGETS = (
    "os.system", "posix.system", "nt.system", "os.popen", "os.execv", "subprocess.Popen", "subprocess.check_output",
    "builtins.eval", "builtins.exec", "__builtin__.eval", "builtins.__import__", "builtins.getattr", "builtins.open",
    "builtins.compile", "runpy.run_path", "importlib.import_module", "pty.spawn", "socket.create_connection",
    "shutil.rmtree", "ctypes.CDLL", "code.interact", "pdb.run", "timeit.timeit", "cProfile.run", "operator.attrgetter",
    "functools.reduce", "types.FunctionType", "marshal.loads", "pickle.loads", "_pickle.loads", "webbrowser.open",
    "urllib.request.urlopen", "asyncio.create_subprocess_shell", "multiprocessing.Process", "gzip.open", "lzma.open",
    "wave.open", "logging.config.fileConfig", "torch.load", "torch.hub.load", "torch.jit.load", "numpy.load",
    "numpy.testing._private.utils.runstring", "pip.main", "linecache.getline", "tempfile.mktemp", "signal.raise_signal",
    "sys.exit", "threading.Thread", "io.open",
)  # fmt: skip

CANARY = Path(tempfile.gettempdir()) / f"unmask-canary-{os.getpid()}"
COMMAND = f"touch {CANARY}"


def gadgets() -> Iterator[tuple[str, Case]]:
    """Every way in which a pickle can ask for a call, of names that run something."""
    for i, gadget in enumerate(GADGETS):
        call = name(gadget) + text(COMMAND)
        module, _, attribute = gadget.rpartition(".")
        line = f"{module}\n{attribute}\n".encode()
        forms = {
            "reduce": call + TUPLE1 + REDUCE,
            "stack_global": text(module) + text(attribute) + b"\x93" + text(COMMAND) + TUPLE1 + REDUCE,
            "inst": MARK + text(COMMAND) + b"i" + line,
            "obj": MARK + call + b"o",
            "newobj": call + TUPLE1 + b"\x81",
            "newobj_ex": call + TUPLE1 + EMPTY_DICT + b"\x92",
            "build": name("collections.OrderedDict") + EMPTY_TUPLE + REDUCE + table((text("__setstate__"), name(gadget)))
            + BUILD + text(COMMAND) + BUILD,
            "beside weights": state(call + TUPLE1 + REDUCE),
            "in a persistent id": call + TUPLE1 + REDUCE + PERSID,
            "as storage type": tensor(MARK + text("storage") + name(gadget) + text("0") + text("cpu") + whole(4) + TUPLE + PERSID),
        }  # fmt: skip
        # All forms of the first gadgets, the plain call of all of them.
        for form, value in forms.items():
            if i < 6 or form == "reduce":
                yield f"{form} {gadget}", (checkpoint(value), "hostile")


def tricks() -> Iterator[tuple[str, Case]]:
    """Calls that hide: behind known names, in keys, behind the end, in hooks of tensors."""
    call = name("os.system") + text(COMMAND) + TUPLE1 + REDUCE
    yield "as a key", (checkpoint(table((call, NONE))), "hostile")
    yield (
        "as a default factory",
        (checkpoint(name("collections.defaultdict") + name("os.system") + TUPLE1 + REDUCE), "hostile"),
    )
    yield "in tensor hooks", (checkpoint(table((text("w"), tensor(more=b"\x89" + call)))), "hostile")
    yield "in tensor shape", (checkpoint(table((text("w"), tensor(shape=call)))), "hostile")
    yield "in tensor offset", (checkpoint(table((text("w"), tensor(offset=call)))), "hostile")
    yield "in storage key", (checkpoint(table((text("w"), tensor(storage(key=call))))), "hostile")
    yield "in storage size", (checkpoint(table((text("w"), tensor(storage(count=call))))), "hostile")
    yield "in a list never used", (checkpoint(EMPTY_LIST + call + b"a0" + EMPTY_DICT), "hostile")
    yield "popped", (checkpoint(call + b"0" + EMPTY_DICT), "hostile")
    yield "behind the end", (Zip(members(program(EMPTY_DICT) + program(call))).build(), "hostile")
    yield "in the memo", (checkpoint(call + b"q\x000" + EMPTY_DICT), "hostile")
    yield "ordered dict of calls", (
        checkpoint(name("collections.OrderedDict") + EMPTY_LIST + call + TUPLE1 + b"a" + TUPLE1 + REDUCE), "hostile")  # fmt: skip
    yield (
        "codec",
        (checkpoint(state(name("_codecs.decode") + text("616263") + text("hex") + TUPLE2 + REDUCE)), "foreign"),
    )
    yield "partial", (checkpoint(name("functools.partial") + name("os.system") + TUPLE1 + REDUCE), "hostile")
    yield (
        "name with dots",
        (checkpoint(text("os") + text("path.os.system") + b"\x93" + text(COMMAND) + TUPLE1 + REDUCE), "hostile"),
    )
    yield (
        "name of a foreign class",
        (
            checkpoint(state(name("__main__.Args") + EMPTY_TUPLE + b"\x81" + table((text("lr"), whole(1))) + BUILD)),
            "foreign",
        ),
    )
    yield "foreign call", (checkpoint(state(name("my_project.models.Net") + text("x") + TUPLE1 + REDUCE)), "foreign")
    yield (
        "terabyte bytearray",
        (checkpoint(state(name("builtins.bytearray") + whole(2**40) + TUPLE1 + REDUCE)), "foreign"),
    )
    yield "endless range", (checkpoint(state(name("builtins.range") + whole(2**60) + TUPLE1 + REDUCE)), "foreign")
    yield (
        "sparse tensor",
        (checkpoint(state(name("torch._utils._rebuild_sparse_csr_tensor") + EMPTY_TUPLE + REDUCE)), "foreign"),
    )
    yield (
        "quantised tensor",
        (checkpoint(state(name("torch._utils._rebuild_qtensor") + EMPTY_TUPLE + REDUCE)), "foreign"),
    )
    for i, code in enumerate((b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00")):
        yield f"extension code {2**i}", (checkpoint(code), "refused")


def pickles() -> Iterator[tuple[str, Case]]:
    """Programs that are broken, or that exhaust whoever runs them."""

    def bad(value: bytes, expected: str = "refused") -> Case:
        return checkpoint(value), expected

    full = program(table((text("weight"), tensor())))
    for n in range(0, len(full) - 1, 24):
        yield f"cut after {n}", (Zip(members(full[:n])).build(), "refused")
    for code in b"0abersqhtu\x81\x85\x86\x87\x93\x94Q":
        yield f"empty stack before 0x{code:02x}", bad(bytes([code]) + b"\0\0\0\0")
    for code in sorted(set(range(256)) - {ord(c) for c in "().0BCGJKMNQRTUX]abcehjqrstu}"} - {*range(0x80, 0x96)}):
        if code % 5 == 0:
            yield f"instruction 0x{code:02x}", bad(bytes([code]) + text("a"))
    for version in (0, 1, 6, 255):
        yield f"protocol {version}", (Zip(members(bytes([0x80, version]) + EMPTY_DICT + STOP)).build(), "refused")
    doubling = whole(1) + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + TUPLE2 for i in range(200))
    yield "doubling tuples", bad(doubling)
    yield "doubling tuples as a key", bad(table((doubling, NONE)))
    yield (
        "doubling lists",
        bad(b"]" + b"".join(b"q" + bytes([i]) + b"]h" + bytes([i]) + b"ah" + bytes([i]) + b"a" for i in range(200))),
    )
    yield "a list in itself", bad(b"]q\x00h\x00a", "plain")
    yield "a dict in itself", bad(b"}q\x00" + text("a") + b"h\x00s", "plain")
    deep = 200_000
    yield "deep lists", bad(b"]" * deep + b"a" * (deep - 1))
    yield "deep tuples", bad(b")" + TUPLE1 * deep)
    yield "deep tuples as a key", bad(table((b")" + TUPLE1 * deep, NONE)))
    yield "deep dicts", bad((b"}" + text("a")) * deep + b"}" + b"s" * deep)
    yield "deep marks", bad(MARK * 900_000)
    yield "deep calls", bad(name("a.b") + (TUPLE1 + name("a.b") + b"q\x000h\x00") * 1000 + EMPTY_TUPLE + REDUCE)
    yield "deep records", bad(b")" + (TUPLE1 + b"q\x000" + name("a.b") + b"h\x00" + REDUCE) * deep)
    yield (
        "deep parameters",
        bad(
            table(
                (
                    text("w"),
                    (name("torch._utils._rebuild_parameter") + MARK) * 2000 + tensor() + (TUPLE + REDUCE) * 2000,
                )
            )
        ),
    )
    yield "deep persistent ids", bad(b")" + PERSID * deep, "plain")
    yield "too many instructions", bad(b"N0" * 600_000 + NONE)
    yield "many empty dicts", bad(EMPTY_LIST + MARK + b"}" * 990_000 + b"e")
    yield "many lists", bad(EMPTY_LIST + MARK + b"]" * 990_000 + b"e")
    yield "many records", bad(EMPTY_LIST + MARK + (name("a.b") + b")R") * 190_000 + b"e", "foreign")
    yield "one record often", bad(EMPTY_LIST + MARK + name("a.b") + b")Rq\x00" + b"h\x00" * 140_000 + b"e", "foreign")
    yield (
        "one table often",
        bad(
            EMPTY_LIST
            + MARK
            + table(*((whole(i), NONE) for i in range(50_000)))
            + b"q\x00"
            + b"h\x00" * 140_000
            + b"e",
            "plain",
        ),
    )
    yield "many names", bad(b"".join(name(f"a.n{i}") + b"0" for i in range(5_000)) + NONE)
    yield "memo at 2**32-1", bad(b"}r\xff\xff\xff\xff", "plain")
    yield "memo of nothing", bad(b"h\x07")
    yield "wide memo of nothing", bad(b"j\x07\x00\x00\x00")
    yield "odd table", bad(EMPTY_DICT + MARK + text("a") + b"u")
    for label, key in {
        "list": b"]",
        "dict": b"}",
        "tuple": b")",
        "record": name("a.b") + b")R",
        "name": name("a.b"),
        "pointer": NONE + PERSID,
    }.items():
        yield f"{label} as a key", bad(table((key, NONE)))
    yield (
        "colliding keys",
        bad(table(*((b"\x8a\x14" + (k * (2**61 - 1)).to_bytes(20, "little"), NONE) for k in range(1, 40_000)))),
    )
    yield "long equal keys", bad(table(*((text("k" * 200_000), NONE) for _ in range(60))))
    yield "text of 4 GB", bad(b"X\xff\xff\xff\xff")
    yield "text of 2**63", bad(b"\x8d" + struct.pack("<Q", 2**63))
    yield "text of -1", bad(b"\x8d" + b"\xff" * 8)
    yield "bytes of 4 GB", bad(b"B\xff\xff\xff\xff")
    yield "bytes of 2**63", bad(b"\x8e" + struct.pack("<Q", 2**63))
    yield "bytearray of 2**40", bad(b"\x96" + struct.pack("<Q", 2**40))
    yield "next buffer", bad(b"\x97")
    yield "number of 255 bytes", bad(b"\x8a\xff" + b"\x7f" * 255)
    yield "number of 2 GB", bad(b"\x8b\xff\xff\xff\x7f")
    yield "number of -1 bytes", bad(b"\x8b\xff\xff\xff\xff")
    for label, code in {
        "UNICODE": b"Va\\u0041\n", "STRING": b"S'a\\x41'\n", "INT": b"I12\n", "LONG": b"L12L\n", "FLOAT": b"F1.5\n",
        "PERSID": b"P0\n", "PUT": b"Np0\n", "GET": b"Np0\ng0\n", "LIST": b"(l", "DICT": b"(d", "DUP": b"N2", "POP_MARK": b"(1N",
        "EMPTY_SET": b"\x8f", "FROZENSET": b"(\x91", "LONG4": b"\x8b\x01\0\0\0\x01", "INST": b"(ia.b\nc\n", "BAD STRING": b"S\xff\n",
        "BAD UNICODE": b"V\\uzzzz\n", "BAD INT": b"Ix\n", "STRING IN BAD UTF-8": b"U\x02\xff\xfe" + b"i\xff\n\xff\n",
    }.items():  # fmt: skip
        yield f"{label} before a name", bad(code + b"0" + name("a.b"))
    yield "number of a million digits", bad(b"I" + b"9" * 1_000_000 + b"\n")
    yield "long of a million digits", bad(b"L" + b"9" * 1_000_000 + b"L\n")
    yield "wide number", bad(table((text("n"), b"\x8a\x20" + b"\x7f" * 32)), "plain")
    yield "not a number", bad(table((text("n"), b"G\x7f\xf8" + b"\0" * 6)), "plain")
    yield "bad utf-8", bad(text(b"\xff\xfe"))
    yield "surrogates", bad(table((text("\ud800"), text("\udfff"))), "plain")
    yield "name without end", bad(b"c" + b"a" * 10_000)
    yield "name of 1,000 letters", bad(name("a." + "b" * 1_000))
    yield "name in bad utf-8", bad(b"c\xff\xfe\nx\n")
    yield "name that steers a terminal", bad(name("os.\x1b[2J"), "hostile")
    yield "name that cannot be encoded", bad(text("os") + text("\ud800") + b"\x93", "hostile")
    yield "name that reads backwards", bad(name("a.\u202esystem"))
    yield "text that steers a terminal", bad(table((text("\x1b]0;x\x07"), text("\x9b2J\n"))), "plain")
    yield "name of numbers", bad(whole(1) + whole(2) + b"\x93")
    yield "frame of 2**63", bad(b"\x95" + struct.pack("<Q", 2**63) + EMPTY_DICT, "plain")
    yield "state twice", bad(name("a.b") + b")R" + b"}b}b")
    yield "state of a list", bad(b"]}b")
    yield "call of a list", bad(b"])R")
    yield "call without a tuple", bad(name("a.b") + b"]R")
    yield "items of a number", bad(whole(1) + NONE + b"a")
    yield "items of a text", bad(text("a") + NONE + NONE + b"s")
    yield "no value", (Zip(members(PROTO + STOP)).build(), "refused")
    yield "two values", bad(b"NN")
    yield "open mark", bad(NONE + MARK)
    yield "more behind the end", (Zip(members(program(EMPTY_DICT) + b"x")).build(), "refused")
    yield "nothing", (Zip(members(b"")).build(), "refused")
    yield "noise", (Zip(members(bytes((i * 197 + 13) % 256 for i in range(4096)))).build(), "refused")


def tensors() -> Iterator[tuple[str, Case]]:
    """Storages and tensors that are not where or what they say."""

    def bad(value: bytes, storages: dict[str, bytes] | None = None) -> Case:
        return checkpoint(table((text("w"), value)), storages), "refused"

    stores = {
        "text as persistent id": text("0") + PERSID,
        "short persistent id": text("storage") + TUPLE1 + PERSID,
        "other persistent id": MARK + text("module") + name("torch.FloatStorage") + text("0") + text("cpu") + whole(4) + TUPLE + PERSID,
        "type as text": MARK + text("storage") + text("FloatStorage") + text("0") + text("cpu") + whole(4) + TUPLE + PERSID,
        "place as a number": MARK + text("storage") + name("torch.FloatStorage") + text("0") + whole(0) + whole(4) + TUPLE + PERSID,
        "view of a storage": storage(more=numbers(1, 2)),
        "unknown type": storage(kind="torch.QUInt8Storage"),
        "type of elsewhere": storage(kind="collections.OrderedDict"),
        "missing storage": storage(text("1")),
        "number as key": storage(whole(0)),
        "None as key": storage(NONE),
        "empty key": storage(text("")),
        "long key": storage(text("0" * 100)),
        "key to the pickle": storage(text("../data.pkl")),
        "key to a file": storage(text("../../../../etc/passwd")),
        "absolute key": storage(text("/etc/passwd")),
        "more than stored": storage(count=whole(5)),
        "less than stored": storage(count=whole(3)),
        "none of it": storage(count=whole(0)),
        "negative count": storage(count=whole(-4)),
        "huge count": storage(count=whole(2**62)),
        "count over 64 bits": storage(count=whole(2**64 + 4)),
        "count as float": storage(count=b"G" + struct.pack(">d", 4.0)),
        "count as truth": storage(count=b"\x88"),
        "wider type": storage(kind="torch.DoubleStorage"),
        "untyped without a type": storage(kind="torch.storage.UntypedStorage", count=whole(16)),
    }  # fmt: skip
    for label, store in stores.items():
        yield f"storage: {label}", bad(tensor(store))
    sizes: dict[str, dict[str, Any]] = {
        "behind the storage": {"offset": whole(1)},
        "far behind the storage": {"offset": whole(2**40)},
        "before the storage": {"offset": whole(-1)},
        "offset as text": {"offset": text("0")},
        "offset as truth": {"offset": b"\x89"},
        "larger than the storage": {"shape": numbers(3, 2)},
        "huge": {"shape": numbers(2**31, 2**31)},
        "overflowing": {"shape": numbers(2**32, 2**32, 4), "stride": numbers(1, 1, 1)},
        "negative size": {"shape": numbers(-2, 2)},
        "two negative sizes": {"shape": numbers(-2, -2)},
        "size as float": {"shape": MARK + b"G" + struct.pack(">d", 2.0) + whole(2) + TUPLE},
        "size as text": {"shape": text("22")},
        "size as None": {"shape": NONE},
        "size as truth": {"shape": MARK + b"\x88\x88" + TUPLE},
        "negative stride": {"stride": numbers(-2, 1), "offset": whole(2)},
        "stride of zero": {"stride": numbers(0, 1)},
        "all strides zero": {"shape": numbers(2, 2), "stride": numbers(0, 0)},
        "expanded to 2**40": {"shape": numbers(2**20, 2**20), "stride": numbers(0, 0)},
        "huge stride": {"stride": numbers(2**40, 1)},
        "stride past the end": {"stride": numbers(3, 1)},
        "fewer strides": {"stride": numbers(1)},
        "more strides": {"stride": numbers(2, 1, 1)},
        "100 dimensions": {"shape": numbers(*[1] * 100), "stride": numbers(*[1] * 100)},
        "empty but behind": {"shape": numbers(0, 2), "offset": whole(9)},
        "storage as a number": {"store": whole(0)},
        "storage as a table": {"store": EMPTY_DICT},
        "unknown v3 type": {"function": "torch._utils._rebuild_tensor_v3", "more": NONE + NONE + name("torch.complex64")},
        "v3 without a type": {"function": "torch._utils._rebuild_tensor_v3", "more": NONE},
    }  # fmt: skip
    for label, settings in sizes.items():
        yield f"tensor: {label}", bad(tensor(**settings))
    yield "tensor: no arguments", bad(name("torch._utils._rebuild_tensor_v2") + EMPTY_TUPLE + REDUCE)
    yield "tensor: truth values of 7", bad(tensor(storage(kind="torch.BoolStorage")), {"0": b"\0\1\7\0"})
    yield "tensor: one storage, two types", (
        checkpoint(table((text("a"), tensor()), (text("b"), tensor(storage(kind="torch.IntStorage"))))), "refused")  # fmt: skip
    yield "tensor: one path twice", (
        checkpoint(table((text("a"), table((text("b"), tensor()))), (text("a/b"), tensor()))), "refused")  # fmt: skip
    for label, title in {
        "empty": "",
        "unprintable": "a\n\x1b[31m",
        "of 600 letters": "w" * 600,
        "reversed": "a\u202eb",
    }.items():
        yield f"tensor: name {label}", (checkpoint(table((text(title), tensor()))), "refused")
    yield "tensor: 20,001 of them", (
        checkpoint(EMPTY_LIST + MARK + tensor() + b"q\x00" + b"h\x00" * 20_000 + b"e"), "refused")  # fmt: skip
    big = {"0": bytes(4 * 2**20)}
    wide = tensor(storage(count=whole(2**20)), shape=numbers(2**20), stride=numbers(1))
    yield "tensor: 1,000 copies of 4 MB", (
        checkpoint(EMPTY_LIST + MARK + wide + b"q\x00" + b"h\x00" * 1_000 + b"e", big), "refused")  # fmt: skip
    order = Zip([*members(program(table((text("w"), tensor())))), Member("archive/byteorder", b"big")])
    yield "tensor: big-endian", (order.build(), "refused")


def arrays() -> Iterator[tuple[str, Case]]:
    """numpy's records."""
    double = name("numpy.dtype") + text("f8") + b"\x89\x88" + TUPLE3 + REDUCE

    def made(dtype: bytes = double, shape: bytes = numbers(1), data: bytes = raw(bytes(8))) -> bytes:
        empty = (
            name("numpy.core.multiarray._reconstruct")
            + name("numpy.ndarray")
            + numbers(0)
            + raw(b"b")
            + TUPLE3
            + REDUCE
        )
        return empty + MARK + whole(1) + shape + dtype + b"\x89" + data + TUPLE + BUILD

    def dtype(kind: str, order: str = "<") -> bytes:
        built = name("numpy.dtype") + text(kind) + b"\x89\x88" + TUPLE3 + REDUCE
        return built + MARK + whole(3) + text(order) + NONE * 3 + whole(0) + TUPLE + BUILD

    yield "array: good", (checkpoint(state(made())), "plain")
    bad = {
        "of objects": made(dtype("O8")),
        "of records": made(dtype("V8")),
        "of texts": made(dtype("U2")),
        "big-endian": made(dtype("f8", ">")),
        "larger than its bytes": made(shape=numbers(2)),
        "huge": made(shape=numbers(2**20, 2**20, 2**20)),
        "negative": made(shape=numbers(-1)),
        "data as a list": made(data=EMPTY_LIST),
        "dtype as a text": made(dtype=text("f8")),
        "without state": name("numpy.core.multiarray._reconstruct") + EMPTY_TUPLE + REDUCE,
        "with a short state": name("numpy.core.multiarray._reconstruct") + EMPTY_TUPLE + REDUCE + numbers(1) + BUILD,
        "zlib codec": made(data=name("_codecs.encode") + text("x") + text("zlib") + TUPLE2 + REDUCE),
    }
    for label, value in bad.items():
        yield f"array: {label}", (checkpoint(state(value)), "refused")
    scalar = name("numpy.core.multiarray.scalar")
    for label, data in {"short": raw(b"1"), "long": raw(bytes(100)), "text": text("12345678"), "None": NONE}.items():
        yield f"number: {label} data", (checkpoint(state(scalar + double + data + TUPLE2 + REDUCE)), "refused")
        yield f"number: {label} data in a key", (
            checkpoint(table((scalar + double + data + TUPLE2 + REDUCE, NONE))), "refused")  # fmt: skip
    long = name("_codecs.encode") + text("x" * 2**20) + text("latin1") + TUPLE2 + REDUCE + b"q\x01"
    yield "number: a megabyte encoded 100,000 times", (
        checkpoint(EMPTY_LIST + MARK + long + (scalar + double + b"h\x01" + TUPLE2 + REDUCE) * 20_000 + b"e"), "refused")  # fmt: skip


def archives() -> Iterator[tuple[str, Case]]:
    """Archives that lie, each around a good pickle."""
    pkl = program(table((text("weight"), tensor())))

    def bad(**changes: Any) -> Case:
        return Zip(members(pkl), **changes).build(), "refused"

    def first(**changes: Any) -> Case:
        made = members(pkl)
        for key, value in changes.items():
            setattr(made[0], key, value)
        return Zip(made).build(), "refused"

    def also(*more: Member) -> Case:
        return Zip([*members(pkl), *more]).build(), "refused"

    for n in range(1, len(GOOD), 71):
        yield f"zip: cut after {n}", (GOOD[:n], "refused")
    yield "zip: data before it", bad(prefix=b"#!/bin/sh\n")
    yield "zip: a zip before it", (GOOD + GOOD, "refused")
    yield "zip: data behind it", bad(trailer=b"more")
    yield "zip: a comment", bad(comment=b"PK\5\6 hello")
    yield "zip: gap before the end", bad(gap=b"\0" * 40)
    yield "zip: too many counted", bad(count=9)
    yield "zip: too few counted", bad(count=2)
    yield "zip: none counted", bad(count=0)
    yield "zip: 65,535 counted", bad(count=0xFFFF)
    yield "zip: two counts", bad(counts_here=1)
    yield "zip: directory elsewhere", bad(cd_offset=4)
    yield "zip: directory behind the file", bad(cd_offset=2**31)
    yield "zip: directory of 4 GB", bad(cd_size=0xFFFFFFFF)
    yield "zip: second volume", bad(disk=1)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1)
    record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 3, 3, 100, 0)
    yield "zip64: record of other sizes", bad(end64=record + locator)
    yield "zip64: locator to nowhere", bad(end64=b"\0" * 56 + struct.pack("<4sIQI", b"PK\6\7", 0, 2**62, 1))
    yield "zip64: locator to the front", bad(end64=record + struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1))
    yield "zip64: two volumes", bad(end64=record + struct.pack("<4sIQI", b"PK\6\7", 0, 0, 2))
    for label, extra in {
        "missing": b"",
        "short": struct.pack("<HHI", 1, 4, 9),
        "cut": struct.pack("<HH", 1, 16) + b"\0" * 4,
        "huge": struct.pack("<HHQ", 1, 8, 2**62),
        "twice": struct.pack("<HHQ", 1, 8, len(pkl)) * 2,
        "negative": struct.pack("<HHq", 1, 8, -1),
    }.items():
        yield f"zip64: {label} size", first(size=0xFFFFFFFF, packed=0xFFFFFFFF, extra=extra)
        yield f"zip64: {label} offset", first(offset=0xFFFFFFFF, extra=extra)
    yield "zip: encrypted", first(flags=0x801)
    yield "zip: strongly encrypted", first(flags=0x841)
    yield "zip: masked header", first(flags=0x2800)
    yield "zip: encrypted only locally", first(local_flags=0x801)
    yield "zip: compressed pickle", first(method=8)
    yield "zip: compressed only locally", first(local_method=8)
    for method in (1, 6, 9, 12, 14, 93, 95, 98, 99, 0xFFFF):
        yield f"zip: method {method}", first(method=method)
    yield "zip: other local name", first(local_name=b"archive/evil.pkl")
    yield "zip: longer local name", first(local_name=b"archive/data.pkl.txt")
    yield "zip: other local sizes", first(local_sizes=(1, 1))
    yield "zip: wrong size", first(size=10)
    yield "zip: wrong packed size", first(packed=10)
    yield "zip: size of 4 GB", first(size=0xFFFFFFF0, packed=0xFFFFFFF0)
    yield "zip: wrong checksum of a storage", (
        Zip([members(pkl)[0], Member("archive/data/0", STORAGE, crc=1), members(pkl)[2]]).build(), "refused")  # fmt: skip
    yield "zip: wrong checksum of the pickle", first(crc=1)
    yield "zip: header at the directory", first(offset=700)
    yield "zip: header behind the file", first(offset=2**31)
    yield "zip: entry on another disk", first(disk=2)
    yield "zip: a link", first(made_by=3, mode=0o120777)
    yield "zip: a device", first(made_by=3, mode=0o060666)
    yield "zip: a pipe", first(made_by=3, mode=0o010666)
    yield "zip: two pickles of one name", also(Member("archive/data.pkl", program(EMPTY_DICT)))
    yield "zip: names that differ by case", also(Member("archive/DATA.pkl", b""))
    yield "zip: two folders with a pickle", also(Member("other/data.pkl", pkl))
    yield "zip: an entry inside another", also(Member("archive/data/1", STORAGE, offset=0))
    half = Member("archive/data/1", b"", size=400, packed=400)
    yield "zip: overlapping entries", (Zip([half, *members(pkl)]).build(), "refused")
    yield "zip: one body for many", (
        Zip([*members(pkl), *(Member(f"archive/data/{i}", STORAGE, offset=0, local_name=b"") for i in range(1, 50))]).build(), "refused")  # fmt: skip
    for title in ("../data.pkl", "/etc/passwd", "archive/../../x", "archive//x", "C:/x", "archive\\x", "a/./b", "\x00",
                  "archive/x\n", "a\x1b[2J", "x" * 600, "", "archive/\u202etxt"):  # fmt: skip
        yield f"zip: name {title[:20]!r}", also(Member(title, b"x"))
    yield "zip: name in latin-1", also(Member(b"archive/\xe9", b"x"))
    yield "zip: folder with data", also(Member("archive/x/", b"data"))
    yield "zip: 60,000 entries", (Zip([Member(f"a/{i}", b"") for i in range(60_000)], count=60_000).build(), "refused")
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = bomb.compress(bytes(50 * 2**20)) + bomb.flush()
    yield "zip: bomb", also(Member("archive/data/1", bytes(0), method=8, packed_data=packed, size=50 * 2**20))
    yield "zip: pickle of 60 MB", (Zip(members(PROTO + NONE * (60 * 2**20))).build(), "refused")
    nested = members(pkl)
    for member in nested:
        member.name = "a/b/" + str(member.name)
    yield "zip: deep folder", (Zip(nested).build(), "refused")


def headers() -> Iterator[tuple[str, Case]]:
    """safetensors."""

    def made(header: Any, data: bytes = STORAGE, length: int | None = None) -> Case:
        head = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(head) if length is None else length) + head + data, "refused"

    good = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    yield "safetensors: good", (made({"w": good})[0], "plain")
    yield "safetensors: empty", (made({}, b"")[0], "plain")
    changes: dict[str, dict[str, Any]] = {
        "unknown type": {"dtype": "F128"}, "type as number": {"dtype": 1}, "no type": {"dtype": None},
        "larger shape": {"shape": [3, 2]}, "negative shape": {"shape": [-2, -2]}, "float shape": {"shape": [2.0, 2]},
        "huge shape": {"shape": [2**40, 2**40]}, "shape as text": {"shape": "22"}, "100 dimensions": {"shape": [1] * 100},
        "truth as shape": {"shape": [True, 4]}, "offsets swapped": {"data_offsets": [16, 0]},
        "offsets behind": {"data_offsets": [16, 32]}, "negative offsets": {"data_offsets": [-16, 0]},
        "one offset": {"data_offsets": [16]}, "offsets as text": {"data_offsets": "ab"},
        "offsets past 64 bits": {"data_offsets": [2**64, 2**64 + 16]}, "another key": {"run": "x"},
        "gap": {"data_offsets": [4, 20]},
    }  # fmt: skip
    for label, change in changes.items():
        yield f"safetensors: {label}", made({"w": {**good, **change}})
    yield "safetensors: overlap", made({"a": good, "b": good})
    yield "safetensors: half overlap", made({"a": good, "b": {**good, "data_offsets": [8, 24]}}, bytes(24))
    yield "safetensors: more data", made({"w": good}, STORAGE * 2)
    yield "safetensors: less data", made({"w": good}, STORAGE[:-1])
    yield "safetensors: a list", made(b"{[]}")
    yield "safetensors: not JSON", made(b"{not json}")
    yield "safetensors: NaN", made(b'{"__metadata__": {"a": NaN}}')
    yield "safetensors: deep JSON", made(b"{" + b'"a":{' * 100_000)
    yield "safetensors: deep lists", made(b'{"a":' + b"[" * 100_000)
    yield "safetensors: twice one name", made(b'{"w":%s,"w":%s}' % ((json.dumps(good).encode(),) * 2))
    yield "safetensors: number as metadata", made({"__metadata__": {"a": 1}, "w": good})
    yield "safetensors: long name", made({"w" * 1000: good})
    yield "safetensors: unprintable name", made({"a\n": good})
    yield "safetensors: bad utf-8", made(b'{"\xff": 1}')
    yield "safetensors: digits without end", made(b'{"w": ' + b"9" * 1_000_000 + b"}")
    yield "safetensors: header of 100 MB", made({"w": good}, length=100 * 2**20)
    yield "safetensors: header behind the file", made({"w": good}, length=2**39)
    yield "safetensors: header of 1 byte", made({"w": good}, length=1)
    many = {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(20_100)}
    yield "safetensors: 20,100 tensors", made(many, b"")


def other_formats() -> Iterator[tuple[str, Case]]:
    """What is no checkpoint of weights, or one that is not read."""
    call = PROTO + name("os.system") + text(COMMAND) + TUPLE1 + REDUCE + STOP
    legacy = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps(1001, protocol=2)
    yield "legacy", (legacy + call, "refused")
    yield "bare pickle", (call, "refused")
    yield "bare pickle, protocol 4", (b"\x80\x04" + call[2:], "refused")
    yield "text pickle", (b"cos\nsystem\n(S'" + COMMAND.encode() + b"'\ntR.", "refused")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("../../evil")
        info.size = len(call)
        tar.addfile(info, io.BytesIO(call))
    yield "tar", (buffer.getvalue(), "refused")
    pkl = program(table((text("weight"), tensor())))
    for label, more in {"constants": "archive/constants.pkl", "code": "archive/code/__torch__.py"}.items():
        yield f"TorchScript: {label}", (Zip([*members(pkl), Member(more, call)]).build(), "refused")
    exported = [Member("archive/archive_format", b"pt2"), Member("archive/models/model.json", b"{}")]
    yield "exported program", (Zip(exported).build(), "refused")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x_train.npy", b"\x93NUMPY\x01\0")
    yield "npz", (buffer.getvalue(), "refused")
    yield "empty zip", (Zip([]).build(), "refused")
    heads = {
        "nothing": b"", "one byte": b"P", "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(100), "gzip": b"\x1f\x8b\x08" + bytes(50),
        "npy": b"\x93NUMPY\x01\0" + bytes(50), "png": b"\x89PNG\r\n\x1a\n" + bytes(50), "elf": b"\x7fELF" + bytes(100),
        "script": b"#!/bin/sh\n" + COMMAND.encode(), "html": b"<script>alert(1)</script>", "zeros": bytes(1000),
        "ones": b"\xff" * 1000, "json": b'{"weights": []}', "zip magic alone": b"PK\3\4", "7z": b"7z\xbc\xaf\x27\x1c" + bytes(50),
    }  # fmt: skip
    for label, head in heads.items():
        yield f"format: {label}", (head, "refused")


@functools.cache
def cases() -> dict[str, Case]:
    """Every case by name."""
    found: dict[str, Case] = {}
    for family in (gadgets, tricks, pickles, tensors, arrays, archives, headers, other_formats):
        for label, case in family():
            assert label not in found, label
            found[label] = case
    return found
