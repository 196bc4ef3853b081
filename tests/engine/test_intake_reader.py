"""Untrusted checkpoints: genuine ones come out bit by bit, hostile and broken ones do nothing and are named."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections import Counter, OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from engine.intake import child, pickles
from engine.intake.limits import READER_MEMORY, Refused
from engine.intake.reader import Checkpoint, read
from engine.paths import ROOT
from tests import intake_corpus, intake_pool

GENUINE = "UNMASK_TEST_CHECKPOINTS"
ENDED = ("failed", "took too long", "was ended by its limits")
"""How a report says that the reading process did not end by itself: never, for any file."""


def save(path: Path, value: Any, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def tensors(path: Path, folder: Path) -> tuple[Checkpoint, dict[str, torch.Tensor]]:
    found = read(path, folder / "tensors.safetensors")
    assert found.tensors is not None, found.report["reason"]
    return found, safetensors.torch.load_file(found.tensors)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit by bit, so that NaN equals itself."""
    return a.dtype == b.dtype and a.shape == b.shape and a.reshape(-1).view(torch.uint8).equal(b.contiguous().reshape(-1).view(torch.uint8))  # fmt: skip  # noqa: E501


DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "uint16", "uint32"]  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_comes_out_bit_by_bit(dtype: str, tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    value = torch.randint(0, 2, (3, 5), generator=rng).to(getattr(torch, dtype))
    if value.is_floating_point():
        value = value.float().uniform_(-9, 9, generator=rng).to(value.dtype)
        value[0, 0], value[0, 1] = float("nan"), float("-inf")
    _, found = tensors(save(tmp_path / "x.pt", {"w": value}), tmp_path)
    assert same(found["w"], value)


def layouts() -> dict[str, torch.Tensor]:
    x = torch.randn(4, 6, 5, 3, generator=torch.Generator().manual_seed(0))
    return {
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "channels_last": x.to(memory_format=torch.channels_last),
        "transposed": x.transpose(0, 2),
        "slice": x[1:3, ::2, 1:, 2],
        "column": x[..., 1],
        "one": x[:1, :1],
        "half": x.half().permute(3, 2, 1, 0),
        "double": x.double().permute(1, 0, 3, 2),
        "bytes": (x > 0).permute(3, 1, 0, 2),
        "parameter": torch.nn.Parameter(x.flatten(1).T),
    }


@pytest.mark.parametrize("name", layouts())
def test_every_layout_comes_out_row_by_row(name: str, tmp_path: Path) -> None:
    value = layouts()[name]
    _, found = tensors(save(tmp_path / "x.pt", {"a": torch.ones(3), "w": value}), tmp_path)
    assert same(found["w"], value.detach())


def test_views_of_one_storage_and_tied_weights(tmp_path: Path) -> None:
    whole = torch.arange(12.0)
    state = {"whole": whole, "head": whole[:4].reshape(2, 2), "again": whole}
    _, found = tensors(save(tmp_path / "x.pt", state), tmp_path)
    assert all(same(found[name], value) for name, value in state.items())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_and_the_usual_wrappers(protocol: int, tmp_path: Path) -> None:
    state = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).state_dict()
    module = OrderedDict((f"module.{name}", value) for name, value in state.items())
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9).state_dict()
    value = {"epoch": 7, "state_dict": module, "best_acc": np.float64(91.25), "optimizer": optimizer, "note": "ok"}
    path = save(tmp_path / "x.th", value, pickle_protocol=protocol)
    found, loaded = tensors(path, tmp_path)
    assert found.verdict == "plain"
    assert {k.removeprefix("state_dict/") for k in loaded} == module.keys()
    assert all(same(loaded[f"state_dict/{name}"], value) for name, value in module.items())
    content = {row["path"]: row.get("value") for row in found.report["content"]}
    assert content["epoch"] == 7
    assert content["best_acc"] == 91.25
    assert content["note"] == "ok"
    assert content["optimizer.param_groups.0.lr"] == 0.1


def test_safetensors_come_out_as_they_are(tmp_path: Path) -> None:
    state = {"a.weight": torch.randn(3, 4), "a.bias": torch.zeros(3, dtype=torch.bfloat16)}
    safetensors.torch.save_file(state, tmp_path / "x.safetensors", {"made": "here"})
    found, loaded = tensors(tmp_path / "x.safetensors", tmp_path)
    assert found.report["format"] == "safetensors"
    assert all(same(loaded[name], value) for name, value in state.items())
    assert found.report["content"] == [{"path": "made", "type": "str", "value": "here"}]


@pytest.mark.skipif(GENUINE not in os.environ, reason=f"{GENUINE} names no folder of checkpoints")
def test_genuine_checkpoints_come_out_bit_by_bit(tmp_path: Path) -> None:
    seen = 0
    for path in sorted(Path(os.environ[GENUINE]).glob("*.[pt]*[hrt]")):
        if not zipfile.is_zipfile(path):
            assert "sandbox of your own" in str(read(path).report["reason"])
            continue
        _, found = tensors(path, tmp_path)
        whole = torch.load(path, map_location="cpu", weights_only=True)
        groups = {"": whole, **{k: v for k, v in whole.items() if isinstance(v, dict)}}
        wanted = {
            f"{group}/{name}" if group else name: value
            for group, state in groups.items()
            for name, value in state.items()
            if isinstance(value, torch.Tensor)
        }
        assert found.keys() == wanted.keys()
        assert all(same(found[name], value) for name, value in wanted.items())
        seen += 1
    assert seen


def test_objects_of_the_writer_stay_names(tmp_path: Path) -> None:
    import argparse

    value = {"state_dict": {"w": torch.ones(2)}, "args": argparse.Namespace(lr=0.1)}
    found, loaded = tensors(save(tmp_path / "x.pt", value), tmp_path)
    assert found.verdict == "foreign"
    assert {row["name"]: row["kind"] for row in found.report["globals"]}["argparse.Namespace"] == "foreign"
    assert loaded["state_dict/w"].equal(torch.ones(2))


def test_python_s_own_data_types_are_no_threat(tmp_path: Path) -> None:
    value = {"w": torch.ones(2), "set": {1}, "bytes": bytearray(b"x"), "slice": slice(1), "size": torch.Size([2])}
    found = read(save(tmp_path / "x.pt", {**value, "dtype": torch.float16, "device": torch.device("cpu"), "c": 1j}))
    assert found.verdict == "foreign"
    assert not [row for row in found.report["globals"] if row["kind"] == "running"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_genuine_program_is_told_what_it_is(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), tmp_path / "x.pt")
    found = read(tmp_path / "x.pt")
    assert found.report["format"] == "torchscript"
    assert "a TorchScript program" in found.report["reason"]


def test_corpus_is_large_and_names_every_class() -> None:
    expected = Counter(case[1] for case in intake_corpus.cases().values())
    assert sum(expected.values()) >= 300
    assert expected["hostile"] >= 100
    assert expected["refused"] >= 200


def test_no_file_of_the_corpus_does_anything(tmp_path: Path) -> None:
    """One process for each: the verdict is right, the process ended by itself, no command ran, the report is printable.

    The process ends with a code of its own at the first import, call or opened file, which no verdict survives.
    """
    intake_corpus.CANARY.unlink(missing_ok=True)

    def one(item: tuple[str, intake_corpus.Case]) -> str | None:
        label, (data, expected) = item
        folder = tmp_path / f"{abs(hash(label))}"
        folder.mkdir()
        path = folder / "file.pt"
        path.write_bytes(data)
        found = read(path, folder / "tensors.safetensors")
        reason = str(found.report["reason"])
        shown = json.dumps({**found.report, "backdoorbench": None}, ensure_ascii=False)
        left = sorted(p.name for p in folder.iterdir())
        allowed = ["file.pt", "tensors.safetensors"] if expected in ("plain", "foreign") else ["file.pt"]
        path.unlink()
        if found.verdict != expected or reason.endswith(ENDED) or left != allowed or not shown.isprintable():
            return f"{label}: expected {expected}, got {found.verdict} ({reason}), files {left}"
        return None

    with ThreadPoolExecutor(2) as pool:
        wrong = [line for line in pool.map(one, intake_corpus.cases().items()) if line]
    assert not wrong, "\n".join(wrong)
    assert not intake_corpus.CANARY.exists()


def test_the_canary_would_sing() -> None:
    """The commands of the corpus do run where a pickle is loaded: the test above could fail."""
    call = intake_corpus.name("os.system") + intake_corpus.text(intake_corpus.COMMAND)
    data = intake_corpus.program(call + intake_corpus.TUPLE1 + intake_corpus.REDUCE)
    subprocess.run([sys.executable, "-c", "import pickle, sys; pickle.load(sys.stdin.buffer)"], input=data, check=True)
    assert intake_corpus.CANARY.exists()
    intake_corpus.CANARY.unlink()


def test_names_of_hostile_files_are_reported(tmp_path: Path) -> None:
    for label, (data, _) in intake_corpus.cases().items():
        form, _, gadget = label.partition(" ")
        if form in ("reduce", "stack_global", "inst", "obj", "newobj", "build") and gadget in intake_corpus.GADGETS[:2]:
            (tmp_path / "x.pt").write_bytes(data)
            names = {row["name"]: row["kind"] for row in read(tmp_path / "x.pt").report["globals"]}
            assert names.get(gadget) == "running", label


def test_mutants_do_nothing_and_end_nothing() -> None:
    found = intake_pool.read_all(intake_pool.mutants(500))
    assert found.crashes == []
    assert sum(found.verdicts.values()) == 500
    assert found.peak <= 512 * 2**20
    # Some damage leaves a file readable; what comes out must still be sound.
    assert found.accepted
    for data in found.accepted:
        safetensors.torch.load(data)


LOCKED = {
    "import": "import wave",
    "open": "open('/etc/hostname')",
    "write": "open('/tmp/x', 'w')",
    "run": "os.system('true')",
    "fork": "os.fork()",
    "socket": "import _socket; _socket.socket()",
    "eval": "eval('1')",
    "list": "os.listdir('/')",
}


@pytest.mark.parametrize("case", LOCKED)
def test_the_reading_process_is_locked(case: str) -> None:
    """What a reader that was led astray could try ends it on the spot."""
    lines = [
        f"import os, sys; sys.path.insert(0, {str(ROOT)!r})",
        "from engine.intake import child",
        "from engine.runs import process",
        f"process.confine(memory={READER_MEMORY}, seconds=10, file_bytes=0)",
        "child.lock()",
        LOCKED[case],
        "os._exit(0)",
    ]
    done = subprocess.run([sys.executable, "-I", "-c", "\n".join(lines)], capture_output=True, check=False)
    assert done.returncode == child.LOCKED, done.stderr


def test_limits_of_the_reading_process_hold() -> None:
    lines = [
        f"import os, sys; sys.path.insert(0, {str(ROOT)!r})",
        "from engine.runs import process",
        f"process.confine(memory={READER_MEMORY}, seconds=1, file_bytes=0)",
        "try:",
        "    bytearray(2**30)",
        "except MemoryError:",
        "    os.write(1, b'memory ')",
        "while True: pass",
    ]
    done = subprocess.run([sys.executable, "-I", "-c", "\n".join(lines)], capture_output=True, check=False)
    assert done.stdout == b"memory "
    assert done.returncode < 0


def test_a_reader_that_hangs_or_dies_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.intake import reader

    path = save(tmp_path / "x.pt", {"w": torch.ones(1)})
    for start, word in {"import os; os._exit(86)": "failed", "import os; os.abort()": "limits"}.items():
        monkeypatch.setattr(reader, "_START", start.replace("{", "{{"))
        found = reader.read(path, tmp_path / "out.safetensors")
        assert found.verdict == "refused"
        assert word in found.report["reason"]
    monkeypatch.setattr(reader, "_START", "while True: pass")
    monkeypatch.setattr(reader, "_SECONDS", 0.3)
    assert "took too long" in reader.read(path, tmp_path / "out.safetensors").report["reason"]
    # A reader that was taken over may say anything, which must not be believed.
    for said in ("[]", "{}", "nonsense", json.dumps({"verdict": "plain"})):
        monkeypatch.setattr(reader, "_START", f"import os, sys; os.write(int(sys.argv[2]), {said.encode()!r})".replace("{", "{{").replace("}", "}}"))  # fmt: skip  # noqa: E501
        assert reader.read(path, tmp_path / "out.safetensors").verdict == "refused"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.pt"]


def test_running_out_of_memory_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(child, "_read", full)
    report = child.describe(io.BytesIO(intake_corpus.GOOD), len(intake_corpus.GOOD), io.BytesIO())
    assert report["verdict"] == "refused"
    assert "limited memory" in report["reason"]


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a file, got .* which is none"):
        read(tmp_path / "x.pt")
    with pytest.raises(ValueError, match="which is a folder"):
        read(tmp_path)


def test_the_machine_agrees_with_pickle_on_plain_data() -> None:
    import pickle

    value = {"a": [1, -1, 2**40, -(2**40), 2.5, None, True, "text", b"bytes", (1,), (1, 2, 3, 4), {}, [[]], {"b": ()}]}
    for protocol in (2, 3, 4, 5):
        data = pickle.dumps(value, protocol)
        found = pickles.read(data, set())
        # Protocol 2 knows no bytes: it writes a call that makes them.
        if protocol == 2:
            made = found["a"][8]
            assert (made.name.text, made.args) == ("_codecs.encode", ("bytes", "latin1"))
            found["a"][8] = b"bytes"
        assert found == value


def test_nothing_here_loads_a_pickle() -> None:
    """``torch.load`` and ``pickle`` occur nowhere in the intake but in the hint on how to convert a file."""
    for path in sorted((ROOT / "engine" / "intake").glob("*.py")):
        text = path.read_text().replace("torch.save(torch.load(OLD", "")
        for word in ("torch.load(", "pickle.load", "import pickle\n", "__import__", "importlib"):
            quoted = f'"{word}' in text or f'{word}"' in text
            assert word not in text or quoted, f"{word} in {path.name}"
    with pytest.raises(Refused, match="well-formed"):
        pickles.read(b"\x80\x02R.", set())
    buffer = io.BytesIO()
    torch.save({}, buffer)
    assert pickles.read(zipfile.ZipFile(buffer).read("archive/data.pkl"), set()) == {}
