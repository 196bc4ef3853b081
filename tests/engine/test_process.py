"""What the dashboard does on systems that lack Linux's calls, as far as that can be tried on Linux."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from engine import cli
from engine.intake import reader
from engine.runs import process

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tries other systems' ways on Linux")
EATS = "import time; x = bytearray(300 << 20); time.sleep(60)"
SLEEPS = "import time; time.sleep(0.3)"


@pytest.mark.parametrize(("system", "ps"), [("win32", True), ("darwin", False)])
def test_foreign_files_are_refused_where_nothing_can_limit_a_process(
    system: str, ps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "model.pt"
    file.write_bytes(b"PK")
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if ps else None)
    monkeypatch.setattr(process, "run_confined", lambda *_, **__: pytest.fail("a foreign file was read"))
    monkeypatch.setattr(process.sys, "platform", system)
    with pytest.raises(ValueError, match="expected a system on which a process's memory can be limited"):
        reader.read(file)
    assert not process.can_confine()
    monkeypatch.setattr(process, "on_stop", lambda what: None)
    assert cli.main(["inspect", str(file)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: expected a system")
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == [file]


def test_a_watchdog_ends_what_takes_too_much_memory_where_the_kernel_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process.sys, "platform", "darwin")
    assert process.can_confine()
    began = time.monotonic()
    with TemporaryFile() as nothing:

        def run(code: str) -> int | None:
            command = [sys.executable, "-c", code]
            return process.run_confined(command, stdin=nothing, files=(), memory=200 << 20, seconds=30)

        assert run(EATS) is None
        assert run(SLEEPS) == 0
    assert time.monotonic() - began < 25  # neither waited for its time to run out


def test_without_proc_a_process_is_known_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen([sys.executable, "-c", SLEEPS])
    monkeypatch.setattr(process.Path, "exists", lambda self: False)
    assert process.alive(os.getpid(), "")
    assert process.began(child.pid) == ""
    child.wait()
    assert process.began(child.pid) is None


@pytest.mark.parametrize(
    ("chosen", "given"),
    [({}, "4000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_threads_of_what_is_started_spin_shortly_unless_somebody_chose_otherwise(
    chosen: dict[str, str], given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "says.py").write_text("import os\nprint(os.environ.get('GOMP_SPINCOUNT'))\n")
    child = process.spawn(["says"], tmp_path / "log.txt", {"PYTHONPATH": str(tmp_path)})
    assert child.wait(30) == 0
    assert (tmp_path / "log.txt").read_text().strip() == given
