"""A run that was interrupted anywhere and continued has the same bits as one that was never disturbed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import cli
from engine.compute import Compute, generator
from engine.data.base import DataSet
from engine.metrics import TestSet
from engine.paths import ROOT
from engine.pruning.sweep import counts_for, sweep
from engine.pruning.thresholds import cross_fit
from engine.runs import checkpoints, files, jobs, store, worker
from engine.runs.checkpoints import Keep
from engine.runs.store import JOURNAL, finished, new_run, open_run
from engine.scores import SCORES
from engine.scores.base import Evidence
from engine.train import Training, train
from tests import tiny
from tests.interrupted import Killed, interrupted

SPEC = {"kind": "x"}


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece is due at every step."""
    monkeypatch.setenv("UNMASK_CHECKPOINT_SECONDS", "0")


# --- training, scores, curves ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [[0], [3], [4, 0, 6], [14]])
def test_training_goes_on_with_the_same_bits(
    always: None, tiny_data: DataSet, tmp_path: Path, after: list[int]
) -> None:
    # 130 images in batches of 30: five steps an epoch, the last one short; interruptions within and between epochs.
    spec, compute = Training(epochs=3, lr=0.05, batch=30, augment=True), Compute("cpu", exact=True)
    images = tiny_data.train[:130]

    def work(keep: Keep) -> tuple[dict[str, torch.Tensor], Any]:
        model = tiny.tiny_model()
        history = train(model, images, spec, generator(0, "order"), compute, keep=keep)
        return model.state_dict(), history

    whole, history = work(checkpoints.NOTHING)
    again, same = interrupted(work, tmp_path, after)
    assert same == history
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    moved, _ = work(Keep(tmp_path, "run"))  # a finished training is not done again
    assert all(torch.equal(whole[key], moved[key]) for key in whole)


def test_a_piece_of_another_run_or_a_torn_one_is_not_used(always: None, tiny_data: DataSet, tmp_path: Path) -> None:
    keep = Keep(tmp_path, "run")
    keep.write("train", {"a": torch.ones(2, 3).numpy(), "n": torch.tensor(4).numpy()}, {"done": 1.5})
    arrays, state = keep.read("train") or ({}, None)
    assert (arrays["a"].shape, arrays["n"].shape, state) == ((2, 3), (), {"done": 1.5})
    assert Keep(tmp_path, "other").read("train") is None
    path = tmp_path / checkpoints.FOLDER / "train.safetensors"
    whole = path.read_bytes()
    for torn in (b"", whole[:4], whole[:40], whole[:-1], b"\xff" * 64):
        path.write_bytes(torn)
        assert keep.read("train") is None
    assert keep.read("nothing") is None


@pytest.mark.parametrize("after", [[0], [1, 2], [6, 3]])
def test_a_score_and_its_curve_go_on_with_the_same_bits(
    always: None, planted: tiny.Planted, compute: Compute, tmp_path: Path, after: list[int]
) -> None:
    score = SCORES["activation"].build()
    test = TestSet.of(planted.data.test, planted.attack).head(50)

    def work(keep: Keep) -> tuple[torch.Tensor, Any, Any, Any]:
        evidence = Evidence(planted.data.pool[:40], 0, compute, keep=keep)
        scores, held_out = cross_fit(score, planted.model, evidence, folds=4, mode="scale", give_up=0.5)
        values = scores.values.numpy()
        rows = sweep(planted.model, values, counts_for(values, 6), test, "scale", compute, keep=keep)
        return scores.values, scores.log, held_out.rows(), rows

    whole, again = work(checkpoints.NOTHING), interrupted(work, tmp_path, after)
    assert whole[0].numpy().tobytes() == again[0].numpy().tobytes()  # some are NaN
    assert whole[1:] == again[1:]


@pytest.mark.parametrize("settings", [{"recover_acc": 0.9}, {"ground": "label", "lead_lr": 1e-3}], ids=str)
@pytest.mark.parametrize("after", [[1], [4, 3], [0, 9]])
def test_rnp_goes_on_inside_a_score_with_the_same_bits(
    always: None, planted: tiny.Planted, compute: Compute, tmp_path: Path, after: list[int], settings: dict[str, Any]
) -> None:
    score = SCORES["rnp"].build(tiny.RNP_SETTINGS, **settings)

    def work(keep: Keep) -> tuple[torch.Tensor, Any, dict[str, torch.Tensor] | None]:
        evidence = Evidence(planted.data.pool[:60], 0, compute, keep=keep)
        scores, _ = cross_fit(score, planted.model, evidence, folds=2, mode="scale", give_up=0.5)
        return scores.values, scores.log, scores.unlearned

    whole, again = work(checkpoints.NOTHING), interrupted(work, tmp_path, after)
    assert whole[0].numpy().tobytes() == again[0].numpy().tobytes()
    assert whole[1] == again[1]
    assert whole[2] is not None
    assert again[2] is not None
    assert all(torch.equal(whole[2][key], again[2][key]) for key in whole[2])


# --- whole commands --------------------------------------------------------------------------------------------------


def attack(shapes: str) -> list[str]:
    chosen = ["model.width=4", "training.epochs=2", "training.batch=64", "training.augment=true", "target=3"]
    settings = [word for pair in chosen for word in ("--set", pair)]
    return ["attack", "--data", shapes, "--model", "resnet18", "--attack", "badnets", "--device", "cpu", *settings]


def outcome(folder: Path) -> dict[str, Any]:
    run = open_run(folder)
    assert run.verify()
    return dict(run.manifest["files"])


def test_a_worker_killed_at_random_points_ends_with_the_same_files(shapes: str, tmp_path: Path) -> None:
    env = {**os.environ, "UNMASK_CHECKPOINT_SECONDS": "0.01", "UNMASK_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def start(out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "engine", *attack(shapes), "--out", str(out), "--json"]
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert start(tmp_path / "whole").wait(120) == 0
    out, steps = tmp_path / "killed", []
    for delay in (0.0, 0.15):
        child = start(out)
        before = checkpoints.stamp(out)
        while checkpoints.stamp(out) == before and child.poll() is None:
            time.sleep(0.002)
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        if child.wait() == -signal.SIGKILL:
            assert not (out / "manifest.json").exists()
            pieces = list((out / "checkpoint").glob("*.safetensors"))
            assert all(Keep(out, read_run(piece)).read(piece.stem) is not None for piece in pieces)
            steps.append(len(pieces))
    assert max(steps) > 0
    assert start(out).wait(120) == 0
    assert outcome(out) == outcome(tmp_path / "whole")
    assert {path.name for path in out.iterdir()} == {*outcome(out), "manifest.json"}


def test_a_run_killed_while_its_files_were_moved_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write() -> None:
        with new_run(SPEC, {}, tmp_path) as draft:
            draft.json("extra.json", [1])
            draft.result = {"acc": 1.0}

    replace, moved = os.replace, [0]

    def dies(old: Any, new: Any) -> None:
        moved[0] += store.PART in str(old) and not str(old).endswith(".part")
        if moved[0] == 2:
            os.kill(os.getpid(), 0)
            raise Killed
        replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dies)
        patch.setattr(store.shutil, "rmtree", lambda *_, **__: None)  # a killed process clears nothing away
        with pytest.raises(Killed):
            write()
    assert (tmp_path / store.COMMIT).exists()
    assert not (tmp_path / "manifest.json").exists()
    # What is left belongs to a process that is gone.
    (tmp_path / f"{store.PART}{os.getpid()}").rename(tmp_path / f"{store.PART}999999999")
    assert finished(SPEC, {}, tmp_path) is None
    write()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["extra.json", "manifest.json", "result.json", "spec.json"]
    assert open_run(tmp_path).verify()


# --- a full disk, a polite end ---------------------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes: str) -> jobs.Job:
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(jobs, "wake", lambda: None)
    return jobs.submit(attack(shapes), label="")


def run(job: jobs.Job) -> int:
    """Do a job in this process, with its lock as a process of its own would have it."""
    held: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        hold = worker.process.hold
        patch.setattr(worker.process, "hold", lambda path: held.append(hold(path) or 0) or held[-1])
        try:
            return cli.main([*job.argv, "--out", str(job.folder), "--json"])
        finally:
            for lock in held:
                os.close(lock)
            # The process that worked on it is gone.
            if (told := jobs.worker_of(job.folder)) is not None:
                (job.folder / jobs.WORKER).write_text(json.dumps({**told, "began": "before"}))


@pytest.mark.parametrize("room", [1, 4, 12, 18])
def test_a_full_disk_pauses_the_job_and_nothing_is_torn(
    always: None, job: jobs.Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, room: int
) -> None:
    sync, synced = os.fsync, [0]

    def full(file: int) -> None:
        synced[0] += 1
        if synced[0] > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(file)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        code = run(job)
    stands = jobs.status(job.id)
    assert (code, stands.state) == (worker.PAUSED, "paused")
    assert "the disk is full" in str(stands.error)
    assert {p.name for p in job.folder.iterdir()} <= set(JOURNAL)
    for piece in (job.folder / "checkpoint").glob("*"):
        assert Keep(job.folder, read_run(piece)).read(piece.stem) is not None
    assert run(job) == worker.OTHER  # nobody takes it up before it is resumed
    jobs.resume(job.id)
    assert run(job) == 0
    assert jobs.status(job.id).state == "done"
    assert outcome(job.folder) == reference(job, tmp_path)


def read_run(piece: Path) -> str:
    import safetensors

    with safetensors.safe_open(piece, framework="np") as file:
        return str(file.metadata()["run"])


def reference(job: jobs.Job, tmp_path: Path) -> dict[str, Any]:
    assert cli.main([*job.argv, "--out", str(tmp_path / "whole"), "--json"]) == 0
    return outcome(tmp_path / "whole")


def test_a_worker_that_is_asked_to_end_writes_a_last_piece(
    job: jobs.Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    due, asked = Keep.due, [0]

    def counted(self: Keep) -> bool:
        asked[0] += 1
        if asked[0] == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        assert due.fget is not None
        return bool(due.fget(self))

    monkeypatch.setattr(checkpoints, "_stop_asked", False)  # what it was comes back at the end
    with monkeypatch.context() as patch:
        patch.setattr(Keep, "due", property(counted))
        with pytest.raises(SystemExit) as ended:
            run(job)
    checkpoints._stop_asked = False
    assert ended.value.code == 143
    assert (job.folder / "checkpoint" / "train.safetensors").exists()
    assert not (job.folder / "manifest.json").exists()
    assert run(job) == 0
    assert outcome(job.folder) == reference(job, tmp_path)
