"""A matrix of runs: what it refuses, what it expands to, its table, and that nothing is computed twice or lost."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from engine.cli import main
from engine.matrix import table
from engine.matrix.plan import MatrixSpec, read_spec
from engine.matrix.run import run_matrix
from engine.paths import ASSETS, workspace
from engine.runs import jobs
from engine.runs.delivery import commit, pack
from engine.runs.executors import Local, Outcome, Task
from engine.runs.store import MANIFEST, all_runs, open_run
from engine.train import silent
from tests.command_line import refusal, run
from tests.engine.test_jobs import engine, until  # noqa: F401  (a fixture)

BASE = """
data = {data}
model = {{ name = "resnet18", width = 4 }}
training = {{ epochs = 1, lr = 0.05, batch = 32 }}
"""
SMALL = """
defense_seeds = [0, 1]
samples = [40]
attacks = [{ name = "badnets", settings = { target = 3 } }, { name = "none" }]

[[defenses]]
name = "tac"
trigger = "true"
policy = { name = "fraction", fraction = 0.1 }
"""


class InProcess:
    """Runs every task at once. After ``stop`` tasks, the process that runs the matrix is gone."""

    def __init__(self, stop: int = 1000, fail: str = "nothing") -> None:
        self.argv: list[tuple[str, ...]] = []
        self._stop, self._fail = stop, fail
        self._ended: list[Outcome] = []

    def submit(self, task: Task) -> None:
        if len(self.argv) >= self._stop:
            raise KeyboardInterrupt
        self.argv.append(task.argv)
        if self._fail in task.argv:
            self._ended.append(Outcome(task.run, None, "out of luck"))
            return
        folder = workspace() / "runs" / f"job-{task.run}"  # as jobs do, not called by its id
        with contextlib.redirect_stdout(None):
            code = main([*task.argv, "--out", str(folder), "--json"])
        self._ended.append(Outcome(task.run, folder if code == 0 else None, None if code == 0 else "refused"))

    def ended(self) -> list[Outcome]:
        ended, self._ended = self._ended, []
        return ended

    def now(self) -> str:
        return ""

    def close(self) -> None:
        pass


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def written(path: Path, shapes: str, more: str, base: str = BASE) -> Path:
    path.write_text(base.format(data=json.dumps(shapes)) + more)
    return path


@pytest.fixture
def small(tmp_path: Path, shapes: str) -> MatrixSpec:
    return read_spec(written(tmp_path / "small.toml", shapes, SMALL))


# --- what it means ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("x = ", "to be TOML"),
        ("", "expected attacks or suspects, got neither"),
        ('attacks = [{ name = "badnet" }]', "did you mean 'badnets'"),
        ('attacks = [{ name = "badnets", settings = { size = 99999 } }]', "expected"),
        ('attacks = [{ name = "badnets", settings = { size = [1] } }]', "size is none of them"),
        ('attacks = [{ name = "badnets", settings = { target = 4 } }]', "expected"),
        ('attacks = [{ name = "badnets" }, { name = "badnets", settings = { size = 2 } }]', "expected a label"),
        ('attacks = [{ name = "none", settings = { size = 2 } }]', "without an attack"),
        ('attacks = [{ name = "none" }]\nattack_seeds = []', "attack_seeds"),
        ('attacks = [{ name = "none" }]\nattack_seeds = [1, 1]', "nothing comes twice"),
        ('attacks = [{ name = "none" }]\ndefense_seeds = [-1]', "defense_seeds.0"),
        ('attacks = [{ name = "none" }]\nsamples = [0]', "samples.0"),
        ('attacks = [{ name = "none" }]\ndefenses = [{ name = "rpn" }]', "did you mean 'rnp'"),
        ('attacks = [{ name = "none" }]\ndefenses = [{ name = "rnp", preset = "big" }]', "expected preset"),
        ('attacks = [{ name = "none" }]\ndefenses = [{ name = "tac", settings = { x = 1 } }]', "unknown setting 'x'"),
        ('attacks = [{ name = "none" }]\ndefenses = [{ name = "tac", policy = { name = "fixed" } }]', "a threshold"),
        ('attacks = [{ name = "none" }]\nresources = { threads = 0 }', "resources.threads"),
        ('attacks = [{ name = "none" }]\nresources = { gpus = -0.5 }', "resources.gpus"),
        ('attacks = [{ name = "none" }]\nspeed = 1', "unknown setting 'speed'"),
        ('suspects = ["demo:nobody"]', "'nobody'"),
        ('suspects = ["run:nobody"]', "'run:nobody'"),
        ('suspects = ["nowhere"]', "'nowhere'"),
    ],
)
def test_bad_matrices_are_refused_with_one_line_and_nothing_written(
    more: str, words: str, shapes: str, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = written(tmp_path / "m.toml", shapes, more)
    assert words in refusal(capsys, "matrix", str(spec), "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert not home.exists()


def test_other_refusals(shapes: str, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, out = written(tmp_path / "m.toml", shapes, SMALL), tmp_path / "out"
    assert "nowhere.toml" in refusal(capsys, "matrix", "nowhere.toml", "--out", str(out))
    assert "--address" in refusal(capsys, "matrix", str(spec), "--address", "a:1", "--out", str(out))
    assert "--out" in refusal(capsys, "matrix", str(spec))
    many = "attack_seeds = [" + ", ".join(map(str, range(10_001))) + ']\nattacks = [{ name = "none" }]'
    assert "10,001" in refusal(capsys, "matrix", str(written(tmp_path / "n.toml", shapes, many)), "--out", str(out))
    gone = written(tmp_path / "o.toml", str(tmp_path / "gone.npz"), SMALL)
    assert "gone.npz" in refusal(capsys, "matrix", str(gone), "--out", str(out))
    out.mkdir()
    (out / "mine").touch()
    assert "expected" in refusal(capsys, "matrix", str(spec), "--out", str(out))
    assert [entry.name for entry in out.iterdir()] == ["mine"]


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    shapes: str, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = """
    attack_seeds = [3, 4]
    defense_seeds = [0, 1, 2]
    samples = [10, 20]
    suspects = ["demo:badnets"]
    attacks = [{ name = "badnets", label = "small", settings = { target = 3, size = 2 } }]
    defenses = [{ name = "rnp" }, { name = "tac", trigger = "true" }]
    """
    spec = written(tmp_path / "m.toml", shapes, more)
    said = run(capsys, "matrix", str(spec), "--dry-run", "--out", str(tmp_path / "out"))
    assert (said["runs"], said["pending"]) == (2 + 3 * 2 * 2 * 3, 38)
    rows = said["rows"]
    assert [(row["suspect"], row["attack_seed"]) for row in rows[:2]] == [("small, seed 3", 3), ("small, seed 4", 4)]
    asked = {(row["suspect"], row["defense"], row["samples"], row["defense_seed"]) for row in rows[2:]}
    suspects = ("small, seed 3", "small, seed 4", "demo:badnets")
    assert asked == {(s, d, n, k) for s in suspects for d in ("rnp", "tac") for n in (10, 20) for k in (0, 1, 2)}
    # What a defense makes of a suspect is known by its id as soon as the suspect is.
    known = [row["run"] for row in rows if row["kind"] == "attack" or row["suspect"] == "demo:badnets"]
    assert None not in known
    assert len(set(known)) == len(known)
    assert {row["preset"] for row in rows if row["suspect"] == "demo:badnets" and row["defense"] == "rnp"} == {"small"}
    assert not home.exists()
    assert not (tmp_path / "out").exists()


def test_the_shipped_example_means_what_its_comment_says(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = ASSETS / "matrix.toml"
    said = run(capsys, "matrix", str(example), "--dry-run", "--out", str(tmp_path / "out"))
    assert f"= {said['runs']} runs" in example.read_text()


# --- what is done ----------------------------------------------------------------------------------------------------


def both(folder: Path) -> list[dict[str, Any]]:
    """The rows of a table, the same in both files."""
    rows = json.loads((folder / table.JSON).read_text())
    assert pyarrow.parquet.read_table(folder / table.PARQUET).to_pylist() == rows
    return list(rows)


def test_a_matrix_interrupted_anywhere_goes_on_and_computes_nothing_twice(
    small: MatrixSpec, tmp_path: Path, home: Path
) -> None:
    out, seen = tmp_path / "out", 0
    for stop in (1, 2, 3):
        dying = InProcess(stop=1)
        with pytest.raises(KeyboardInterrupt):
            run_matrix(small, dying, out, silent, pause=0)
        seen += len(dying.argv)
        assert len([row for row in both(out) if row["state"] == "done"]) <= stop
    last = InProcess()
    rows = run_matrix(small, last, out, silent, pause=0)
    # Two suspects and two defenses; the clean model has no trigger that two more could use.
    assert rows == both(out)
    assert seen + len(last.argv) == 6
    assert [row["state"] for row in rows] == ["done"] * 4 + ["failed"] * 2
    assert {row["reason"] for row in rows} == {None, "refused"}
    assert sorted(run.id for run in all_runs()) == sorted(row["run"] for row in rows[:4])
    first, clean, graded = rows[0], rows[1], rows[2]
    assert first["acc_before_low"] < first["acc_before"] < first["acc_before_high"]
    assert (clean["asr_before"], clean["asr_before_low"], first["acc_after"], first["der"]) == (None,) * 4
    assert (graded["oracle"], graded["pruned"], graded["units"]) == (True, 30, 300)
    assert graded["acc_before"] == first["acc_before"]
    assert graded["der_low"] <= graded["der"] <= graded["der_high"]
    assert (graded["suspect"], graded["attack_seed"], graded["samples"], graded["preset"]) == (
        "badnets, seed 0", 0, 40, "published",
    )  # fmt: skip
    again = InProcess()
    assert run_matrix(small, again, tmp_path / "other", silent, pause=0) == rows
    assert len(again.argv) == 2  # what was refused is tried again
    other = small.model_copy(update={"samples": [20]})
    with pytest.raises(ValueError, match="same specification"):
        run_matrix(other, again, out, silent, pause=0)


def test_defenses_of_a_suspect_that_failed_say_so_and_stop_nothing(
    small: MatrixSpec, tmp_path: Path, home: Path
) -> None:
    executor = InProcess(fail="badnets")
    clean = small.model_copy(update={"defenses": [small.defenses[0].model_copy(update={"trigger": "none"})]})
    rows = run_matrix(clean, executor, tmp_path / "out", silent, pause=0)
    assert [row["state"] for row in rows] == ["failed", "done", "failed", "failed", "failed", "failed"]
    assert [row["reason"] for row in rows[:4]] == ["out of luck", None] + ["its suspect failed: out of luck"] * 2
    assert len(executor.argv) == 4


def test_a_run_folder_from_elsewhere_is_a_suspect_by_its_id(
    small: MatrixSpec, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = small.model_copy(update={"defenses": [], "attacks": small.attacks[:1]})
    rows = run_matrix(alone, InProcess(), tmp_path / "one", silent, pause=0)
    elsewhere, suspect = tmp_path / "elsewhere", rows[0]["run"]
    shutil.move(home / "runs" / f"job-{suspect}", elsewhere)
    defenses = small.defenses
    given = MatrixSpec.build(suspects=[str(elsewhere)], defenses=defenses, samples=[40])
    rows = run_matrix(given, InProcess(), tmp_path / "two", silent, pause=0)
    assert [(row["suspect"], row["attack"], row["state"]) for row in rows] == [(str(elsewhere), "badnets", "done")]
    named = MatrixSpec.build(suspects=[f"run:{suspect}"], defenses=defenses, samples=[40])
    executor = InProcess()
    assert run_matrix(named, executor, tmp_path / "three", silent, pause=0)[0]["run"] == rows[0]["run"]
    assert executor.argv == []
    assert run(capsys, "verify", f"run:{suspect}")["run"] == suspect
    # The pages know suspects by their folders.
    listed = {entry.run: entry.suspect for entry in jobs.entries()}
    assert listed[rows[0]["run"]] == str(home.resolve() / "runs" / suspect)


# --- deliveries ------------------------------------------------------------------------------------------------------


def test_a_delivery_is_committed_once_and_only_whole(
    small: MatrixSpec, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = small.model_copy(update={"defenses": [], "attacks": small.attacks[:1]})
    wanted = run_matrix(alone, InProcess(), tmp_path / "out", silent, pause=0)[0]["run"]
    parcel = pack(open_run(home / "runs" / f"job-{wanted}"))
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path / "new"))
    for bad in (
        {**parcel, "result.json": parcel["result.json"] + b" "},
        {**parcel, "../escape": b""},
        {name: data for name, data in parcel.items() if name != "answers.safetensors"},
        {name: data for name, data in parcel.items() if name != MANIFEST},
        {},
    ):
        with pytest.raises(ValueError, match="expected"):
            commit(bad, wanted)
    with pytest.raises(ValueError, match="expected run 0123456789abcdef"):
        commit(parcel, "0123456789abcdef")
    assert not list((tmp_path / "new").rglob("*.*"))
    first = commit(parcel, wanted)
    assert first.folder == (tmp_path / "new" / "runs" / wanted).resolve()
    when = (first.folder / MANIFEST).stat().st_mtime_ns
    assert commit({}, wanted).id == wanted
    assert (first.folder / MANIFEST).stat().st_mtime_ns == when
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["runs"]
    shutil.rmtree(first.folder)
    first.folder.mkdir()
    (first.folder / "half").touch()
    with pytest.raises(ValueError, match="an unfinished run in it"):
        commit(parcel, wanted)


# --- the local queue -------------------------------------------------------------------------------------------------


def task(name: str, *argv: str) -> Task:
    return Task(name, argv, name, ())


def test_the_local_executor_follows_the_queue_and_finds_its_jobs_again(engine: Path, tmp_path: Path) -> None:  # noqa: F811
    executor = Local()
    executor.submit(task("a", f"until={tmp_path / 'go'}"))
    executor.submit(task("b", "refuse"))
    assert executor.ended() == []
    until(lambda: executor.now() == "working, pass 1")
    again = Local()  # the first one's process is gone
    again.submit(task("a", f"until={tmp_path / 'go'}"))
    again.submit(task("b", "refuse"))
    again.submit(task("c", "long"))
    assert [job.argv[0] for job in jobs.jobs()] == ["long", "refuse", f"until={tmp_path / 'go'}"]
    (tmp_path / "go").touch()
    found: dict[str, Outcome] = {}

    def ended(*runs: str) -> bool:
        found.update({outcome.run: outcome for outcome in again.ended()})
        return set(runs) <= found.keys()

    until(lambda: ended("a", "b"))
    assert found["a"].folder == jobs.jobs()[2].folder
    assert (found["b"].folder, found["b"].error) == (None, "expected something else, got this")
    long = jobs.jobs()[0]
    until((long.folder / "ready").exists)
    jobs.cancel(long.id)
    until(lambda: ended("c"))
    assert found["c"].error == "cancelled"
    third = Local()  # what failed is queued again, not a second time
    third.submit(task("b", "refuse"))
    assert len(jobs.jobs()) == 3
    until(lambda: bool(third.ended()))
