"""Mutants: good and hostile files with random damage, read in confined processes that are replaced now and then.

A mutant is small, and there are thousands: a process for each would spend its time starting. A process here confines
and locks itself like the product's reading process does, then reads one file after the other from its input.
"""

from __future__ import annotations

import io
import json
import random
import struct
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from engine.intake.limits import READER_MEMORY
from engine.paths import ROOT
from tests import intake_corpus as corpus

RECYCLED = 250
"""Mutants that one process reads."""
_CHILD = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.intake_pool_child import main; main(int(sys.argv[1]))"
)


def seeds() -> list[bytes]:
    """Small files of every kind that is read, and some that ask to run something."""
    state = {
        "conv.weight": torch.arange(24.0).reshape(2, 3, 2, 2).to(memory_format=torch.channels_last),
        "conv.bias": torch.zeros(2, dtype=torch.float16),
        "bn.num_batches_tracked": torch.tensor(3),
        "flags": torch.tensor([True, False]),
    }
    found = []
    for value in (state, {"state_dict": state, "epoch": 3, "best": 0.9, "args": ["a", None, (1, 2)]}):
        for protocol in (2, 4):
            buffer = io.BytesIO()
            torch.save(value, buffer, pickle_protocol=protocol)
            found.append(buffer.getvalue())
    found.append(safetensors.torch.save({k: v.contiguous() for k, v in state.items()}, {"format": "pt"}))
    chosen = ("array: good", "reduce os", "build os", "beside weights os")
    found += [data for label, (data, _) in corpus.cases().items() if label.startswith(chosen)]
    return found


def mutants(n: int, seed: int = 0) -> Iterator[bytes]:
    """``n`` damaged files, the same for the same seed."""
    rng = random.Random(seed)
    originals = seeds()
    for _ in range(n):
        data = rng.choice(originals)
        # Half of the damage goes to the pickle, in an archive that is otherwise right: its checks would hide it.
        if data.startswith(b"PK") and rng.random() < 0.6:
            yield _repacked(data, rng)
        else:
            yield _damaged(data, rng)


def _repacked(data: bytes, rng: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    pickle = next(name for name in parts if name.endswith("data.pkl"))
    parts[pickle] = _damaged(parts[pickle], rng)
    return corpus.Zip([corpus.Member(name, part) for name, part in parts.items()]).build()


_EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63, 2**64 - 1]
_PIECES = [
    b"(", b")", b"t", b"R", b"b", b"Q", b"]", b"}", b"s", b"u", b"e", b"0", b".", b"N", b"\x85", b"\x86", b"\x81",
    b"\x94", b"h\x00", b"q\x00", b"cos\nsystem\n", b"\x8a\x01\xff", b"K\x00", b"ctorch\nload\n",
]  # fmt: skip


def _damaged(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(out)) if out else 0
        kind = rng.randrange(8)
        if kind == 0 and out:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and out:
            out[at] = rng.randrange(256)
        elif kind == 2:
            del out[at : at + rng.choice((1, 2, 4, 8, 64))]
        elif kind == 3:
            out[at:at] = rng.choice(_PIECES)
        elif kind == 4:
            width = rng.choice((1, 2, 4, 8))
            out[at : at + width] = struct.pack("<Q", rng.choice(_EXTREMES))[:width]
        elif kind == 5:
            end = rng.randrange(at, min(len(out), at + 200) + 1)
            place = rng.randrange(len(out) + 1)
            out[place:place] = out[at:end]
        elif kind == 6:
            del out[at:]
        else:
            piece = rng.choice(_PIECES)
            out[at : at + len(piece)] = piece
    return bytes(out)


@dataclass
class Outcome:
    """What became of the mutants: verdicts, processes that ended, the longest and the peak memory."""

    verdicts: Counter[str] = field(default_factory=Counter)
    crashes: list[tuple[int, int]] = field(default_factory=list)
    """(number of the mutant, exit code of the process that read it)"""
    seconds: float = 0.0
    peak: int = 0
    accepted: list[bytes] = field(default_factory=list)
    """The safetensors of the mutants that were read, the first 2,000."""


class _Process:
    def __init__(self) -> None:
        command = [sys.executable, "-I", "-c", _CHILD, str(READER_MEMORY)]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def ask(self, data: bytes) -> tuple[dict[str, Any], bytes] | None:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        try:
            self.child.stdin.write(struct.pack("<Q", len(data)) + data)
            self.child.stdin.flush()
        except BrokenPipeError:
            return None
        head = self.child.stdout.read(16)
        if len(head) < 16:
            return None
        report, tensors = struct.unpack("<QQ", head)
        return json.loads(self.child.stdout.read(report)), self.child.stdout.read(tensors)

    def end(self) -> int:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.close()
        self.child.stdout.close()
        return self.child.wait(30)


def _peak(pid: int) -> int:
    """The most memory that a process has held so far, in bytes; 0 where the system does not say."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def read_all(files: Sequence[bytes] | Iterator[bytes]) -> Outcome:
    """Read files in confined processes, each of which is replaced after :data:`RECYCLED` files or when it ends."""
    found, process = Outcome(), None
    for i, data in enumerate(files):
        if process is None:
            process = _Process()
        started = time.perf_counter()
        answer = process.ask(data)
        found.seconds = max(found.seconds, time.perf_counter() - started)
        if answer is None:
            found.crashes.append((i, process.end()))
            process = None
            continue
        report, tensors = answer
        found.peak = max(found.peak, _peak(process.child.pid))
        found.verdicts[report["verdict"]] += 1
        if tensors and len(found.accepted) < 2_000:
            found.accepted.append(tensors)
        if i % RECYCLED == RECYCLED - 1:
            process.end()
            process = None
    if process is not None:
        process.end()
    return found
