"""One training by two processes is the training of one: the same batches, losses, weights and statistics."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from engine.compute import Compute, generator
from engine.group import synchronised
from engine.paths import ROOT
from engine.runs.store import Run, open_run
from engine.suspects import AttackRun, run_attack
from engine.train import Training

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo and signals as on Unix")


def asked(shapes: str, nproc: int, model: dict[str, Any]) -> AttackRun:
    # Batches of 137 divide into parts of 69 and 68, and the last one of 129 into 65 and 64.
    # So low a rate that rounding, which no two sums share, stays small: it grows with every step.
    training = {"epochs": 2, "lr": 0.001, "batch": 137, "augment": True, "nproc": nproc}
    attack = {"name": "badnets", "params": {"target": 3}}
    return AttackRun.build(data=shapes, model=model, attack=attack, training=training)


def compare(one: Run, two: Run) -> None:
    assert one.id != two.id
    for epoch, same in zip(one.result["history"], two.result["history"], strict=True):
        assert same["loss"] == pytest.approx(epoch["loss"], rel=5e-4)
        assert same["acc"] == pytest.approx(epoch["acc"], abs=0.01)
    before, after = one.arrays("model"), two.arrays("model")
    assert before.keys() == after.keys()
    for name, value in before.items():
        if value.ndim > 1 or "running" in name:  # statistics of each part alone are off by a tenth
            np.testing.assert_allclose(after[name], value, atol=0.005 * np.abs(value).max(), err_msg=name)


def test_statistics_and_gradients_are_those_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads stand for two processes."""
    rng = generator(0, "x")
    x, upstream = (3 * torch.randn(7, 5, 4, 4, generator=rng) + 1 for _ in range(2))
    whole, parts = nn.BatchNorm2d(5), [nn.BatchNorm2d(5) for _ in range(2)]
    with torch.no_grad():
        whole.weight.copy_(torch.rand(5, generator=rng)), whole.bias.copy_(torch.rand(5, generator=rng))
    [part.load_state_dict(whole.state_dict()) for part in parts]
    met, sent = threading.Barrier(2), dict[int, torch.Tensor]()

    def all_reduce(values: torch.Tensor) -> None:
        sent[threading.get_ident()] = values.clone()
        met.wait(30)
        total = sum(sent[key] for key in sorted(sent))
        met.wait(30)
        values.copy_(total)

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    pieces = [piece.clone().requires_grad_() for piece in x.tensor_split(2)]

    def work(k: int) -> torch.Tensor:
        y = synchronised(parts[k], pieces[k])
        y.backward(upstream.tensor_split(2)[k])
        return y.detach()

    with ThreadPoolExecutor(2) as pool:
        got = torch.cat(list(pool.map(work, range(2))))
    x.requires_grad_()
    wanted = whole(x)
    wanted.backward(upstream)
    near = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(got, wanted.detach(), **near)
    torch.testing.assert_close(torch.cat([piece.grad for piece in pieces]), x.grad, **near)
    for name in ("weight", "bias"):
        total = sum(getattr(part, name).grad for part in parts)
        torch.testing.assert_close(total, getattr(whole, name).grad, **near)
    for part in parts:
        torch.testing.assert_close(part.state_dict(), whole.state_dict(), **near)
        torch.testing.assert_close(synchronised(part.eval(), x), whole.eval()(x), **near)
        whole.train()


def test_two_processes_train_as_one_does_normalisation_included(shapes: str, tmp_path: Path) -> None:
    exact, model = Compute("cpu", exact=True), {"name": "resnet18", "width": 4}
    said: list[str] = []

    def note(what: str, share: float, **figures: float | None) -> None:
        said.append(what)

    one = run_attack(asked(shapes, 1, model), exact, tmp_path / "one")
    two = run_attack(asked(shapes, 2, model), exact, tmp_path / "two", progress=note)
    compare(one, two)
    assert any(line.startswith("epoch 2 of 2, loss ") for line in said)
    assert two.spec["training"]["nproc"] == 2
    assert sorted(path.name for path in two.folder.iterdir()) == sorted(path.name for path in one.folder.iterdir())


@pytest.mark.slow
def test_a_network_without_normalisation(shapes: str, tmp_path: Path) -> None:
    exact, model = Compute("cpu", exact=True), {"name": "cnn4", "width": 4}
    one = run_attack(asked(shapes, 1, model), exact, tmp_path / "one")
    compare(one, run_attack(asked(shapes, 2, model), exact, tmp_path / "two"))


def test_one_process_leaves_no_trace_in_the_specification() -> None:
    assert "nproc" not in Training().model_dump(mode="json")
    assert Training(nproc=2).model_dump(mode="json")["nproc"] == 2
    with pytest.raises(ValueError, match="expected batch to be at least nproc, 4, got 3"):
        Training.build(batch=3, nproc=4)


# --- processes that are killed ---------------------------------------------------------------------------------------


def until(what: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ranks(folder: Path) -> list[int]:
    """The processes that train for a run, by number."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_text().split("\0") if entry.name.isdecimal() else []
        except OSError:
            continue
        if "engine.group" in words and "torch.distributed.run" not in words and str(folder) in " ".join(words):
            found.append(int(entry.name))
    return sorted(found)


def start(shapes: str, folder: Path, epochs: int) -> subprocess.Popen[bytes]:
    words = ["attack", "--data", shapes, "--model", "resnet18", "--attack", "none", "--set", "model.width=4"]
    words += ["--set", f"training.epochs={epochs}", "--set", "training.nproc=2", "--set", "training.batch=32"]
    return subprocess.Popen(
        [sys.executable, "-m", "engine", *words, "--device", "cpu", "--threads", "1", "--out", str(folder), "--json"],
        cwd=ROOT,
        env={**os.environ, "UNMASK_CHECKPOINT_SECONDS": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes in /proc")
def test_a_killed_process_is_started_again_with_the_same_bits_and_none_outlives_the_run(
    shapes: str, tmp_path: Path
) -> None:
    calm = start(shapes, tmp_path / "calm", 3)
    assert calm.wait(240) == 0
    disturbed = start(shapes, tmp_path / "disturbed", 3)
    until((tmp_path / "disturbed" / "checkpoint" / "train.safetensors").exists)
    first = ranks(tmp_path / "disturbed")
    assert len(first) == 2
    os.kill(first[1], signal.SIGKILL)
    assert disturbed.wait(240) == 0
    files = [open_run(tmp_path / name).manifest["files"] for name in ("calm", "disturbed")]
    assert files[0] == files[1]

    endless = start(shapes, tmp_path / "endless", 1000)
    until((tmp_path / "endless" / "checkpoint" / "train.safetensors").exists)
    assert len(ranks(tmp_path / "endless")) == 2
    endless.kill()
    endless.wait()
    until(lambda: not ranks(tmp_path / "endless"), 10)
    assert not (tmp_path / "endless" / "manifest.json").exists()
    assert json.loads((tmp_path / "calm" / "spec.json").read_text())["training"]["nproc"] == 2
