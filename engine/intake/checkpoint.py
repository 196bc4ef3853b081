"""What a checkpoint holds: tensors by name, plain values, and every name that its pickle mentions.

The reader of :mod:`engine.intake.pickles` leaves records of calls that were never made. The few that checkpoints are
made of are understood here: tensors over storages (checked against the bytes that are really there), parameters,
ordered dictionaries, numpy arrays and numbers. Everything else stays a record and is reported. This module runs in the
reading process and needs nothing but the standard library.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from engine.intake.archive import Archive
from engine.intake.limits import MAX_DEPTH, MAX_DIMS, MAX_KEY_CHARS, MAX_TENSORS, MAX_VALUES, Refused
from engine.intake.pickles import Made, Name, Pointer, check_bytes, dtype_format, plain_scalar, printable

#: torch's storages and dtypes: (safetensors' name, bytes of an element).
DTYPES = {
    "Double": ("F64", 8),
    "Float": ("F32", 4),
    "Half": ("F16", 2),
    "BFloat16": ("BF16", 2),
    "Long": ("I64", 8),
    "Int": ("I32", 4),
    "Short": ("I16", 2),
    "Char": ("I8", 1),
    "Byte": ("U8", 1),
    "Bool": ("BOOL", 1),
}
_TORCH_DTYPES = {
    "float64": "F64", "double": "F64", "float32": "F32", "float": "F32", "float16": "F16", "half": "F16",
    "bfloat16": "BF16", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
    "uint16": "U16", "uint32": "U32", "uint64": "U64",
}  # fmt: skip
SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "U16": 2, "U32": 4, "U64": 8,
}  # fmt: skip
_RECONSTRUCT = ("numpy._core.multiarray._reconstruct", "numpy.core.multiarray._reconstruct")
_TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3")
_PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_TENSORS_AND_PARAMETERS = frozenset(_TENSORS + _PARAMETERS)
_CONTAINERS = frozenset((list, tuple, dict, Made))
_MAPPINGS = ("collections.OrderedDict", "collections.defaultdict")
_KNOWN = (
    *_RECONSTRUCT,
    *_TENSORS,
    *_PARAMETERS,
    *_MAPPINGS,
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",
    "torch.Size",
    "torch.device",
    "torch.storage.UntypedStorage",
    *(f"torch.{name}Storage" for name in DTYPES),
    *(f"torch.{name}" for name in _TORCH_DTYPES),
)
_RUNNING = (
    "os", "posix", "nt", "subprocess", "sys", "runpy", "importlib", "pty", "socket", "shutil", "ctypes", "code",
    "codeop", "pdb", "bdb", "timeit", "cProfile", "profile", "trace", "builtins", "__builtin__", "operator",
    "functools", "types", "marshal", "pickle", "_pickle", "copyreg", "webbrowser", "urllib", "http", "requests",
    "asyncio", "multiprocessing", "threading", "_thread", "signal", "tempfile", "pathlib", "io", "_io", "gzip", "lzma",
    "bz2", "zipfile", "tarfile", "wave", "logging", "linecache", "pip", "pkgutil", "inspect", "platform", "commands",
    "popen2", "ftplib", "smtplib", "telnetlib", "xmlrpc", "doctest", "unittest", "setuptools", "distutils", "venv",
    "ensurepip", "idlelib", "turtledemo", "lib2to3", "ssl", "select", "mmap", "fcntl", "resource", "atexit", "gc",
    "weakref", "builtin", "numpy.testing", "numpy.f2py", "numpy.distutils", "numpy.load", "torch.load", "torch.hub",
    "torch.jit", "torch.ops", "torch.utils", "torch.serialization", "torch.compile", "torch._dynamo", "torch._inductor",
    "torch.distributed", "joblib", "dill", "cloudpickle", "jsonpickle", "yaml",
)  # fmt: skip
#: Parts of the modules above that hold data and run nothing.
_HARMLESS = (
    "builtins.set", "builtins.frozenset", "builtins.bytearray", "builtins.complex", "builtins.slice", "builtins.range",
    "builtins.xrange", "builtins.object", "builtins.int", "builtins.long", "builtins.float", "builtins.str",
    "builtins.list", "builtins.dict", "builtins.tuple", "builtins.bool", "builtins.bytes", "copyreg._reconstructor",
    "copy_reg._reconstructor", "pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath",
    "types.SimpleNamespace", "functools.partial", "torch.serialization._get_layout",
)  # fmt: skip


@functools.lru_cache(maxsize=4096)
def kind_of(name: str) -> str:
    """``known`` (a record that is understood here), ``running`` (of a module that can run things) or ``foreign``."""
    if name in _KNOWN:
        return "known"
    if name.startswith("__builtin__."):
        name = name.replace("__builtin__", "builtins", 1)  # as protocol 2 spells it
    if name in _HARMLESS:
        return "foreign"
    return "running" if any(name == m or name.startswith(f"{m}.") for m in _RUNNING) else "foreign"


@dataclass(frozen=True)
class Tensor:
    """A tensor over a storage: ``offset`` and ``stride`` count elements; ``start`` is a place in the file."""

    group: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    storage_bytes: int
    offset: int
    stride: tuple[int, ...]

    @property
    def path(self) -> str:
        return f"{self.group}/{self.name}" if self.group else self.name

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * SIZES[self.dtype]


class Content:
    """Everything that is found on one walk through a checkpoint's value; each container is entered once."""

    def __init__(self, root: Any, archive: Archive, prefix: str) -> None:
        self.tensors: list[Tensor] = []
        self.rows: list[dict[str, Any]] = []
        self.total = 0
        self.storages: dict[str, tuple[str, int]] = {}
        self._archive, self._prefix = archive, prefix
        self._pointers: dict[int, tuple[str, str, int]] = {}
        self._walk(root)

    def _walk(self, root: Any) -> None:
        todo: list[tuple[str, str, Any, int]] = [("", "", root, 0)]
        entered: set[int] = set()
        left = MAX_VALUES
        while todo:
            group, name, value, depth = todo.pop()
            if depth > MAX_DEPTH:
                raise Refused(f"expected content nested at most {MAX_DEPTH} deep, got deeper")
            if type(value) is Made and value.name.text in _TENSORS_AND_PARAMETERS:
                self.tensors.append(self._tensor(value, group, name))
                if len(self.tensors) > MAX_TENSORS:
                    raise Refused(f"expected at most {MAX_TENSORS:,} tensors, got more")
                continue
            if type(value) in _CONTAINERS:
                if id(value) in entered:
                    continue
                entered.add(id(value))
            here = "" if depth == 0 else f"{group}.{name}"[: MAX_KEY_CHARS + 1] if group else name
            if depth:
                self._note(here, value)
            inside = [(here, _label(key), child, depth + 1) for key, child in children(value)]
            left -= len(inside)
            if left < 0:
                raise Refused(f"expected at most {MAX_VALUES:,} values in the checkpoint, got more")
            inside.reverse()
            todo += inside

    def _note(self, path: str, value: Any) -> None:
        self.total += 1
        if len(self.rows) < 200:
            self.rows.append({"path": printable(path[:200]), **describe(value)})

    def _tensor(self, value: Made, group: str, name: str) -> Tensor:
        if value.name.text in _PARAMETERS:
            inner = value.args[0] if value.args else None
            if type(inner) is not Made or inner.name.text not in _TENSORS:
                raise Refused("expected parameters that are tensors, got something else")
            value = inner
        if len(value.args) < 4 or type(value.args[0]) is not Pointer:
            raise Refused("expected tensors over storages of the file, got something else")
        pointer, offset, shape, stride = value.args[:4]
        shape, stride = _numbers(shape), _numbers(stride)
        key, dtype, count = self._storage(pointer)
        if value.name.text.endswith("_v3"):
            if len(value.args) < 7 or type(value.args[6]) is not Name:
                raise Refused("expected a tensor's type as a name of torch, got something else")
            dtype = _TORCH_DTYPES.get(value.args[6].text.removeprefix("torch."), "")
            if dtype not in SIZES:
                raise Refused(f"expected tensors of plain numbers, got {value.args[6].text[:80]}")
            count //= SIZES[dtype]
        elif dtype == "":
            raise Refused("expected a type for each tensor, got a storage without one")
        start, size = self._place(key)
        return _checked(Tensor(group, name, dtype, shape, start, size, _whole(offset), stride), count)

    def _storage(self, pointer: Pointer) -> tuple[str, str, int]:
        """(key, dtype or "" for an untyped one, elements), which every mention of a storage must repeat."""
        found = self._pointers.get(id(pointer))
        if found is not None:
            return found
        value = pointer.value
        if type(value) is not tuple or len(value) not in (5, 6) or value[0] != "storage" or type(value[1]) is not Name:
            raise Refused("expected persistent ids that name a storage of the file, got something else")
        kind, key, count = value[1].text, value[2], _whole(value[4])
        if len(value) == 6 and value[5] is not None or type(key) is not str or type(value[3]) is not str:
            raise Refused("expected persistent ids that name a storage of the file, got something else")
        dtype, size = DTYPES.get(kind.removeprefix("torch.").removesuffix("Storage"), ("", 1))
        if dtype == "" and kind != "torch.storage.UntypedStorage":
            raise Refused(f"expected storages of plain numbers, got {kind[:80]}")
        there = self._place(key)[1]
        if count * size != there:
            raise Refused(f"expected {count * size:,} bytes in the storage {key!r}, as the pickle says, got {there:,}")
        if self.storages.setdefault(key, (dtype, count)) != (dtype, count):
            raise Refused(f"expected one type and size for the storage {key!r}, got two")
        self._pointers[id(pointer)] = key, dtype, count
        return key, dtype, count

    def _place(self, key: str) -> tuple[int, int]:
        entry = self._archive.entries.get(f"{self._prefix}data/{key}") if len(key) <= 40 else None
        if entry is None:
            raise Refused(f"expected the storage {key[:40]!r} in the file, got none")
        return entry.start, entry.size


def _checked(tensor: Tensor, count: int) -> Tensor:
    """A tensor whose every element lies in its storage of ``count`` elements, and which repeats none of them."""
    shape, stride = tensor.shape, tensor.stride
    if len(shape) != len(stride) or len(shape) > MAX_DIMS:
        raise Refused(
            f"expected a stride for each of at most {MAX_DIMS} dimensions, got {len(shape)} and {len(stride)}"
        )
    numel = math.prod(shape)
    last = tensor.offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) if numel else tensor.offset - 1
    if numel > count or last >= count or tensor.offset > count:
        raise Refused(f"expected {tensor.path[:80]!r} within its storage of {count:,} elements, got one outside it")
    if any(n > 1 and s == 0 for n, s in zip(shape, stride, strict=True)) and numel:
        raise Refused(f"expected {tensor.path[:80]!r} with an element of its own for each place, got an expanded one")
    if not tensor.name or len(tensor.path) > MAX_KEY_CHARS or not tensor.path.isprintable():
        raise Refused(f"expected tensors with printable names of at most {MAX_KEY_CHARS} characters, got another name")
    return tensor


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**48:
        raise Refused("expected sizes, offsets and strides as whole numbers from 0 on, got something else")
    return value


def _numbers(value: Any) -> tuple[int, ...]:
    if type(value) is Made and value.name.text == "torch.Size" and len(value.args) == 1:
        value = value.args[0]
    if type(value) not in (tuple, list) or len(value) > MAX_DIMS:
        raise Refused(f"expected sizes and strides of at most {MAX_DIMS} dimensions, got something else")
    return tuple(_whole(n) for n in value)


def _label(key: Any) -> str:
    return key[: MAX_KEY_CHARS + 1] if type(key) is str else str(key)


def mapping(value: Any) -> list[tuple[Any, Any]] | None:
    """The pairs of a dictionary, ordered or not; None for everything else."""
    if type(value) is dict:
        return list(value.items())
    if type(value) is Made and value.name.text in _MAPPINGS:
        pairs = list(value.pairs)
        if value.name.text == "collections.OrderedDict" and value.args:
            given = value.args[0]
            if type(given) is not list or any(type(p) not in (list, tuple) or len(p) != 2 for p in given):
                raise Refused("expected pairs in an ordered dictionary, got something else")
            pairs = [(p[0], p[1]) for p in given] + pairs
        return [(plain_scalar(k) if type(k) is Made else k, v) for k, v in pairs]
    return None


def children(value: Any) -> Iterable[tuple[Any, Any]]:
    """What is inside a value, with keys; nothing in a leaf."""
    pairs = mapping(value)
    if pairs is not None:
        for key, _ in pairs:
            if type(key) not in (str, int, float, bool, bytes, type(None)):
                raise Refused("expected texts and numbers as keys, got something else")
        return pairs
    if type(value) in (list, tuple):
        return enumerate(value)
    if type(value) is Made and kind_of(value.name.text) != "known":
        found = [("args", value.args), ("state", value.state), ("items", value.items)]
        found = [(k, v) for k, v in found if v is not None and v != ()]
        return found + [(k if type(k) is str else "key", v) for k, v in value.pairs] if value.pairs else found
    return ()


def describe(value: Any) -> dict[str, Any]:
    """A value as a row of the report: its type, and what it is where that is short."""
    if type(value) is Made:
        value = plain_scalar(value)
    if type(value) is float and not math.isfinite(value):
        return {"type": "float", "value": str(value)}
    if value is None or type(value) in (bool, int, float):
        return {
            "type": type(value).__name__,
            "value": value if type(value) is not int or abs(value) < 2**53 else hex(value),
        }
    if type(value) is str:
        return {"type": "str", "value": printable(value if len(value) <= 200 else value[:197] + "...")}
    if type(value) is bytes:
        return {"type": "bytes", "length": len(value)}
    if type(value) is dict or type(value) is Made and value.name.text in _MAPPINGS:
        return {"type": "dict", "length": len(value.pairs) if isinstance(value, Made) else len(value)}
    if type(value) in (list, tuple):
        return {"type": type(value).__name__, "length": len(value)}
    if type(value) is Name:
        return {"type": "name", "value": value.text}
    if type(value) is Made:
        found = array(value)
        return {"type": "ndarray", **found} if found is not None else {"type": "object", "value": value.name.text}
    return {"type": "pointer"}


def array(value: Any) -> dict[str, Any] | None:
    """Type and shape of a numpy array's record; None for everything else."""
    if type(value) is not Made or value.name.text not in _RECONSTRUCT:
        return None
    state = value.state
    if type(state) is not tuple or len(state) != 5:
        raise Refused("expected a complete numpy array, got one without its state")
    shape, kind = _numbers(state[1]), dtype_format(state[2])
    if math.prod(shape) >= 2**40:
        raise Refused("expected a numpy array of the size of its bytes, got a larger one")
    check_bytes(state[4], math.prod(shape) * int(kind[1:]))
    return {"dtype": kind, "shape": list(shape)}
