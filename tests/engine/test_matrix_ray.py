"""The matrix on a real Ray cluster of two nodes, of which one is killed: every result once, with the same bits."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.cli import main
from engine.matrix import table
from engine.paths import ROOT
from engine.runs import jobs, process
from engine.runs.store import all_runs
from tests.command_line import refusal

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes in /proc"),
    pytest.mark.timeout(400),
]

SPEC = """
data = {data}
model = {{ name = "resnet18", width = 4 }}
training = {{ epochs = 1, lr = 0.05, batch = 32 }}
"""
SHORT = """
attack_seeds = [0, 1]
attacks = [{ name = "badnets", settings = { target = 3 } }]
"""
LONG = """
defense_seeds = [0, 1]
samples = [40]
attacks = [{ name = "badnets", settings = { target = 3 } }, { name = "none" }]
defenses = [{ name = "activation" }, { name = "random", policy = { name = "fraction", fraction = 0.1 } }]
"""


def until(what: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class TwoNodes:
    """A cluster on this machine, each node with a workspace of its own and one processor."""

    def __init__(self, place: Path, temporary: str) -> None:
        self.homes = [place / "one", place / "two"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.engine.ray_nodes", temporary, *map(str, self.homes)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the cluster did not start"
        return line

    def kill_second_at_work(self, driver: subprocess.Popen[bytes]) -> None:
        """Kill the second node in the middle of a run."""
        until(lambda: driver.poll() is not None or list(self.homes[1].glob(".ray-*/run/.part-*")), 120)
        assert driver.poll() is None, "the matrix ended before the node could be killed"
        assert self._process.stdin is not None
        self._process.stdin.write("kill\n")
        self._process.stdin.flush()
        assert self._line() == "killed"

    def close(self) -> None:
        self._process.communicate(timeout=60)


def with_token(token: str) -> list[str]:
    """The processes but this one that were started with a token."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name in ("self", "thread-self", str(os.getpid())):
                continue
            if token.encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.fixture
def two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoNodes]:
    token = secrets.token_hex(32)
    for name, value in {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_timeout_ms": "2000",
        "RAY_health_check_failure_threshold": "3",
        "OMP_NUM_THREADS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    temporary = tempfile.mkdtemp(prefix="r", dir="/tmp")  # sockets have short names
    made = TwoNodes(tmp_path, temporary)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(temporary, ignore_errors=True)
    until(lambda: not with_token(token), 20)


def matrix(spec: Path, home: Path, *more: str) -> subprocess.Popen[bytes]:
    words = ["matrix", str(spec), "--out", str(home / "table"), "--json", *more]
    home.mkdir()
    with (home / "said").open("wb") as said, (home / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "engine", *words],
            cwd=ROOT,
            env={**os.environ, "UNMASK_HOME": str(home)},
            stdout=said,
            stderr=log,
        )


def finished(driver: subprocess.Popen[bytes], home: Path) -> list[dict[str, Any]]:
    assert driver.wait(300) == 0, (home / "log").read_text()
    rows = json.loads((home / "said").read_text())["rows"]  # and nothing else on stdout
    assert rows == json.loads((home / "table" / table.JSON).read_text())
    return list(rows)


def bits(home: Path) -> dict[str, Any]:
    """The files of every run of a workspace by their hashes; each run once."""
    runs = all_runs(home / "runs")
    assert len({run.id for run in runs}) == len(runs)
    for run in runs:
        run.verify()
    return {run.id: run.manifest["files"] for run in runs}


def test_a_killed_node_costs_no_result_and_no_bit(
    two_nodes: TwoNodes, shapes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, home = tmp_path / "spec.toml", tmp_path / "driver"
    spec.write_text(SPEC.format(data=json.dumps(shapes)) + SHORT)
    driver = matrix(spec, home, "--executor", "ray", "--address", two_nodes.address)
    two_nodes.kill_second_at_work(driver)
    rows = finished(driver, home)
    assert [row["state"] for row in rows] == ["done", "done"]
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path / "here"))
    for seed in "01":
        words = ["attack", "--data", shapes, "--model", "resnet18", "--attack", "badnets", "--set", "target=3"]
        training = ["--set", "training.epochs=1", "--set", "training.lr=0.05", "--set", "training.batch=32"]
        assert main([*words, *training, "--set", "model.width=4", "--seed", seed, "--device", "cpu"]) == 0
    assert bits(home) == bits(tmp_path / "here")
    assert not list(two_nodes.homes[0].glob(".ray-*"))


@pytest.mark.slow
def test_two_suspects_two_defenses_two_seeds(two_nodes: TwoNodes, shapes: str, tmp_path: Path) -> None:
    spec, home, local = tmp_path / "spec.toml", tmp_path / "driver", tmp_path / "local"
    spec.write_text(SPEC.format(data=json.dumps(shapes)) + LONG)
    driver = matrix(spec, home, "--executor", "ray", "--address", two_nodes.address)
    two_nodes.kill_second_at_work(driver)
    rows = finished(driver, home)
    assert [row["state"] for row in rows] == ["done"] * 10
    same = finished(matrix(spec, local), local)
    told = json.loads((local / jobs.SUPERVISOR).read_text())  # it would wait for more to do
    process.stop(told["pid"], force=True)
    assert bits(home) == bits(local)
    assert [{**row, "seconds": 0} for row in rows] == [{**row, "seconds": 0} for row in same]
    # The suspects were not on the nodes: they were sent, and stay for the next run that reads them.
    sent = {run.id for run in all_runs(two_nodes.homes[0] / "runs")}
    assert sent == {row["run"] for row in rows if row["kind"] == "attack"}


def test_an_address_where_nobody_is_is_refused(shapes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text(SPEC.format(data=json.dumps(shapes)) + SHORT)
    there = ["--executor", "ray", "--address", "127.0.0.1:1"]
    assert "Ray cluster at 127.0.0.1:1" in refusal(capsys, "matrix", str(spec), *there, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_cluster_without_tokens_is_refused(
    shapes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    spec = tmp_path / "spec.toml"
    spec.write_text(SPEC.format(data=json.dumps(shapes)) + SHORT)
    line = refusal(capsys, "matrix", str(spec), "--executor", "ray", "--out", str(tmp_path / "out"))
    assert "RAY_AUTH_MODE=token" in line
    assert not (tmp_path / "out").exists()
