"""Run folders: finished or absent, never in between."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.runs.store import PART, finished, new_run, open_run

SPEC = {"kind": "attack", "seed": 0}


def write(folder: Path, fail: bool = False) -> None:
    with new_run(SPEC, {}, folder) as draft:
        draft.json("extra.json", [1])
        draft.result = {"acc": 1.0}
        if fail:
            raise KeyboardInterrupt


def test_a_run_is_read_back(tmp_path: Path) -> None:
    assert finished(SPEC, {}, tmp_path / "run") is None
    write(tmp_path / "run")
    run = finished(SPEC, {}, tmp_path / "run")
    assert run is not None
    assert run.result == {"acc": 1.0}
    assert set(run.verify()) == {"spec.json", "result.json", "extra.json"}
    with pytest.raises(ValueError, match="another run"):
        finished({**SPEC, "seed": 1}, {}, tmp_path / "run")


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "run", fail=True)
    assert not (tmp_path / "run").exists()


def test_the_journal_of_a_job_stays(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text("")
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, fail=True)
    assert [path.name for path in tmp_path.iterdir()] == ["events.jsonl"]


def test_what_a_killed_process_left_does_not_block_the_next(tmp_path: Path) -> None:
    dead, living = tmp_path / f"{PART}999999999", tmp_path / f"{PART}{os.getppid()}"
    for folder in (dead, living):
        folder.mkdir()
        (folder / "half.json").write_text("{")
    assert finished(SPEC, {}, tmp_path) is None
    write(tmp_path)
    assert not dead.exists()
    assert living.exists()
    assert open_run(tmp_path).verify()


def test_other_files_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="got other files"):
        finished(SPEC, {}, tmp_path)
