"""Jobs: queued, started one at a time by a supervisor, followed through their folder, killed, cancelled and resumed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.paths import ROOT
from engine.runs import files, jobs, process, queue, supervisor, worker
from engine.runs.jobs import Journal, cancel, delete, events, reindex, resume, status, submit
from tests.engine import standin

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and process groups are a Unix notion")


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A workspace in which ``python -m engine`` is the stand-in, with a supervisor of its own."""
    home = tmp_path / "home"
    monkeypatch.setenv("UNMASK_HOME", str(home))
    monkeypatch.setattr(process, "spawn", standin.spawn)
    yield home
    with contextlib.suppress(OSError, ValueError):
        for path in [home / jobs.SUPERVISOR, *home.glob("runs/*/worker.json")]:
            told = json.loads(path.read_text())
            if process.alive(told["pid"], told["began"]):
                process.stop(told["pid"], force=True)


@pytest.fixture
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace in which nothing is started."""
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(jobs, "wake", lambda: None)
    return tmp_path / "home"


def until(what: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        jobs.entries()  # as a page does, which also replaces a supervisor that was killed
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait(job: jobs.Job, *states: str) -> jobs.Status:
    until(lambda: status(job.id).state in states)
    return status(job.id)


def settled(job: jobs.Job) -> Callable[[], bool]:
    """Whether the supervisor has seen the end of a job."""
    return lambda: next(e.state for e in jobs.entries() if e.name == job.id) not in ("queued", "running")


def began(home: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return (home / "runs" / "began").read_text().splitlines()
    return []


def the_supervisor(home: Path) -> int:
    found: list[int] = []

    def there() -> bool:
        with contextlib.suppress(OSError, ValueError):
            told = json.loads((home / jobs.SUPERVISOR).read_text())
            found[:] = [told["pid"]] if process.alive(told["pid"], told["began"]) else []
        return bool(found)

    until(there)
    return found[0]


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    until(lambda: process.began(pid) is None)


# --- the life of a job -----------------------------------------------------------------------------------------------


def test_a_job_runs_and_leaves_its_folder(engine: Path) -> None:
    job = submit(["ok"], label="a try")
    assert job.folder == engine.resolve() / "runs" / job.id
    assert status(job.id).state in ("queued", "starting", "running", "done")
    end = wait(job, "done", "failed")
    assert (end.state, end.share, end.error, end.ended) == ("done", 1.0, None, True)
    assert end.figures == {"step": 3, "loss": 0.5, "asr": 0.75}
    lines, offset = events(job.folder, 0)
    assert [line.get("state", line.get("what")) for line in lines] == ["queued", "running", "working, pass 1", "done"]
    assert events(job.folder, offset) == ([], offset)
    until(settled(job))
    assert status(job.folder) == end


def test_jobs_are_listed_newest_first_and_run_one_at_a_time_oldest_first(engine: Path, tmp_path: Path) -> None:
    first = submit([f"until={tmp_path / 'go'}"], label="first")
    second, third = submit(["ok"], label="second"), submit(["ok"], label="third")
    (engine / "runs" / "other").mkdir()
    (engine / "runs" / "other" / "job.json").write_text("[]")
    assert jobs.jobs() == [third, second, first]
    wait(first, "running")
    time.sleep(0.3)
    assert [status(job.id).state for job in (second, third)] == ["queued", "queued"]
    (tmp_path / "go").touch()
    wait(third, "done")
    assert [line.split()[0] for line in began(engine)] == [first.id, second.id, third.id]


def test_a_refusal_and_a_crash_are_failures_with_their_words_and_nothing_half_written(engine: Path) -> None:
    refused, crashed = submit(["refuse"], label=""), submit(["crash"], label="")
    assert wait(refused, "failed").error == "expected something else, got this"
    assert wait(crashed, "failed").error == "Traceback: out of luck"
    for job in (refused, crashed):
        until(settled(job))
        assert {p.name for p in job.folder.iterdir()} == {
            "events.jsonl", "job.json", "log.txt", "worker.json", "worker.lock",
        }  # fmt: skip
        assert [e.state for e in jobs.entries() if e.name == job.id] == ["failed"]


@pytest.mark.parametrize("what", ["long", "stubborn"])
def test_cancel_ends_the_whole_group_and_keeps_the_journal(engine: Path, what: str) -> None:
    job = submit([what], label="")
    until((job.folder / "ready").exists)
    told = jobs.worker_of(job.folder)
    assert told is not None
    before = time.monotonic()
    cancel(job.id)
    assert time.monotonic() - before < 3  # far less than the grace that a stubborn worker gets
    assert status(job.id).state == "cancelled"
    cancel(job.id)

    def gone() -> bool:
        group = subprocess.run(["ps", "-o", "stat=", "-g", str(told["pid"])], capture_output=True, text=True)
        return not group.stdout.strip("Zs+\n ")

    until(gone, seconds=15)
    until(settled(job))
    assert not (job.folder / ".part-1").exists()
    assert (job.folder / "events.jsonl").exists()
    assert status(job.id).state == "cancelled"


def test_a_job_cancelled_in_the_queue_never_starts(engine: Path, tmp_path: Path) -> None:
    first, second = submit([f"until={tmp_path / 'go'}"], label=""), submit(["ok"], label="")
    wait(first, "running")
    cancel(second.id)
    (tmp_path / "go").touch()
    wait(first, "done")
    until(settled(second))
    assert [line.split()[0] for line in began(engine)] == [first.id]
    # It can be taken up again.
    resume(second.id)
    assert wait(second, "done").attempt == 1


# --- what is killed --------------------------------------------------------------------------------------------------


def test_a_killed_worker_is_started_again(engine: Path, tmp_path: Path) -> None:
    job = submit([f"until={tmp_path / 'go'}"], label="")
    for attempt in (1, 2):
        until(lambda attempt=attempt: len(began(engine)) == attempt)
        told = jobs.worker_of(job.folder)
        assert told is not None
        kill(told["pid"])
    (tmp_path / "go").touch()
    assert wait(job, "done", "failed").attempt == 3
    states = [line["state"] for line in events(job.folder)[0] if "state" in line]
    assert states == ["queued", "running", "interrupted", "running", "interrupted", "running", "done"]


def test_a_killed_supervisor_is_replaced_and_its_worker_goes_on(engine: Path, tmp_path: Path) -> None:
    first, second = submit([f"until={tmp_path / 'go'}"], label=""), submit(["ok"], label="")
    wait(first, "running")
    told = jobs.worker_of(first.folder)
    for _ in range(2):
        kill(the_supervisor(engine))
    assert the_supervisor(engine)
    (tmp_path / "go").touch()
    wait(second, "done")
    assert jobs.worker_of(first.folder) == told
    assert [line.split()[0] for line in began(engine)] == [first.id, second.id]


def test_a_job_that_two_supervisors_started_is_done_once(quiet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "spawn", standin.spawn)
    job = submit(["ok"], label="")
    children = [
        standin.spawn(["engine", "ok", "--out", str(job.folder), "--json"], job.folder / "log.txt", {"UNMASK_SLOT": ""})
        for _ in range(3)
    ]
    assert sorted(child.wait(30) for child in children) == [0, 3, 3]
    assert len(began(quiet)) == 1


def test_a_job_survives_the_process_that_submitted_it(engine: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time; from engine.runs import jobs, process; from tests.engine import standin\n"
        "process.spawn = standin.spawn\n"
        "print(jobs.submit([sys.argv[1]], label='from the app').id, flush=True); time.sleep(60)"
    )
    app = subprocess.Popen(
        [sys.executable, "-c", code, f"until={tmp_path / 'go'}"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert app.stdout is not None
    name = app.stdout.readline().strip()
    until(lambda: status(name).state == "running")
    os.killpg(app.pid, signal.SIGKILL)
    app.wait()
    time.sleep(0.2)
    assert status(name).state == "running"
    (tmp_path / "go").touch()
    until(lambda: status(name).state == "done")
    assert len(began(engine)) == 1


def test_a_worker_that_is_killed_again_and_again_without_getting_on_fails(
    quiet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(["x"], label="")
    tries = 0

    def dies(module: list[str], log: Path, more: object = None) -> subprocess.Popen[bytes]:
        nonlocal tries
        tries += 1
        child = subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
        process._children[child.pid] = child
        told = {"pid": child.pid, "began": "", "attempt": tries, "started": 0, "spent": 0, "stuck": tries, "stamp": 0}
        (job.folder / "worker.json").write_text(json.dumps({**told, "slot": "cpu"}))
        return child

    monkeypatch.setattr(process, "spawn", dies)
    boss = supervisor.Supervisor()
    deadline = time.monotonic() + 60
    while boss.step():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert tries == supervisor.STUCK
    end = status(job.id)
    assert end.state == "failed"
    assert f"killed {supervisor.STUCK} times in a row" in str(end.error)


def test_a_worker_whose_number_was_given_to_another_process_is_dead(quiet: Path) -> None:
    job = submit(["x"], label="")
    told = {"attempt": 1, "started": time.time(), "spent": 0.0, "stuck": 1, "stamp": 0, "slot": "cpu"}
    (job.folder / "worker.json").write_text(json.dumps({**told, "pid": os.getpid(), "began": "before the flood"}))
    assert status(job.id).state == "queued"
    (job.folder / "worker.json").write_text(
        json.dumps({**told, "pid": os.getpid(), "began": process.began(os.getpid())})
    )
    assert status(job.id).state == "starting"
    with pytest.raises(ValueError, match="still under way"):
        delete(job.id)


# --- the index -------------------------------------------------------------------------------------------------------


def test_the_index_is_made_anew_from_the_folders(quiet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, over = submit(["sweep", "demo:x"], label="waits"), submit(["attack"], label="over")
    Journal(over.folder).failed("no")
    shutil.copytree(
        ROOT / "assets" / "demos" / "badnets", quiet / "runs" / "found", ignore=lambda *_: {"study", "gallery"}
    )
    before = {e.name: e for e in jobs.entries()}
    assert {name: e.state for name, e in before.items()} == {waiting.id: "queued", over.id: "queued", "found": "done"}
    assert reindex() == {"runs": 1, "jobs": 2}
    after = {e.name: e for e in jobs.entries()}
    assert after == {**before, over.id: after[over.id]}
    assert after[over.id].state == "failed"  # the folder is right, the index was not
    assert (after[waiting.id].kind, after[waiting.id].suspect) == ("sweep", "demo:x")
    assert after["found"].kind == "attack"
    for harm in (lambda path: path.unlink(), lambda path: path.write_bytes(b"no database" * 500)):
        harm(quiet / queue.FILE)
        for more in ("-wal", "-shm"):
            (quiet / f"{queue.FILE}{more}").unlink(missing_ok=True)
        assert {e.name: e for e in jobs.entries()} == after
    shutil.rmtree(over.folder)
    assert {e.name for e in jobs.entries()} == {waiting.id, "found"}


def test_a_job_that_the_index_missed_is_done_all_the_same(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without:
        without.setattr(jobs, "note", lambda folder, new=False: None)
        job = submit(["ok"], label="")
    assert wait(job, "done").state == "done"


def test_delete_removes_an_ended_run_and_nothing_outside_the_workspace(engine: Path, tmp_path: Path) -> None:
    job = submit(["refuse"], label="")
    wait(job, "failed")
    until(settled(job))
    until(lambda: process.began(jobs.worker_of(job.folder)["pid"]) is None)
    delete(job.id)
    assert not job.folder.exists()
    assert jobs.jobs() == []
    assert not list(engine.glob(".trash*"))
    (tmp_path / "mine").mkdir()
    for name in (str(tmp_path / "mine"), "nobody", "..", "."):
        with pytest.raises(ValueError, match="expected a run of the workspace"):
            delete(name)
    assert (tmp_path / "mine").is_dir()
    assert (engine / "runs").is_dir()


def test_only_what_stopped_can_be_resumed(engine: Path, tmp_path: Path) -> None:
    job = submit([f"until={tmp_path / 'go'}"], label="")
    with pytest.raises(ValueError, match="paused, failed or cancelled"):
        resume(job.id)
    (tmp_path / "go").touch()
    wait(job, "done")
    with pytest.raises(ValueError, match="which is done"):
        resume(job.id)


# --- a full disk -----------------------------------------------------------------------------------------------------


def test_without_room_a_job_is_paused_before_it_starts(quiet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = submit(["ok"], label="")
    monkeypatch.setattr(supervisor, "free_bytes", lambda folder: 5 << 20)
    monkeypatch.setattr(process, "spawn", lambda *_: pytest.fail("started"))
    boss = supervisor.Supervisor()
    boss.step()
    stands = status(job.id)
    assert (stands.state, stands.ended) == ("paused", False)
    assert "the disk has 5 MB free" in str(stands.error)
    assert [e.state for e in jobs.entries()] == ["paused"]
    resume(job.id)
    assert status(job.id).state == "queued"


def test_the_last_word_of_a_job_is_written_with_the_room_that_was_kept(
    quiet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(["ok"], label="")
    files.lay_ballast()
    ballast = quiet / files.BALLAST
    assert ballast.stat().st_size == files.BALLAST_BYTES
    write = os.write

    def full(file: int, data: bytes) -> int:
        return write(file, data[:5]) if ballast.exists() else write(file, data)

    monkeypatch.setattr(os, "write", full)
    Journal(job.folder).state("paused", "the disk is full")
    assert not ballast.exists()
    assert (status(job.id).state, status(job.id).error) == ("paused", "the disk is full")


def test_a_paused_job_is_taken_up_again_also_while_its_worker_is_about_to_go(engine: Path) -> None:
    job = submit(["pauses"], label="")
    assert wait(job, "paused").error == "the disk is full"
    resume(job.id)
    assert wait(job, "done", "failed").attempt == 2
    states = [line["state"] for line in events(job.folder)[0] if "state" in line]
    assert states == ["queued", "running", "paused", "queued", "running", "done"]


def test_a_job_resumed_before_its_end_was_seen_stays_queued(quiet: Path) -> None:
    job = submit(["ok"], label="")
    since = time.time()
    for state in ("running", "paused"):
        Journal(job.folder).state(state)
    time.sleep(0.01)
    resume(job.id)
    supervisor.Supervisor()._settle(job.id, worker.PAUSED, since)
    assert status(job.id).state == "queued"
    assert [entry.state for entry in jobs.entries()] == ["queued"]


# --- journals and odd folders ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "message"), [(None, "which has no job.json"), ("{}", "record of a job")])
def test_what_is_no_job_is_refused_in_one_line(quiet: Path, content: str | None, message: str) -> None:
    folder = quiet / "runs" / "x"
    folder.mkdir(parents=True)
    if content is not None:
        (folder / "job.json").write_text(content)
    for question in (status, cancel, resume):
        with pytest.raises(ValueError, match=message) as caught:
            question("x")
        assert "\n" not in str(caught.value)


def test_devices_are_slots_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    every = supervisor.slots()
    assert every == ["cuda:2", "cuda:5", "cpu"]
    assert supervisor._fitting(supervisor._device(("defend", "x")), every) == ["cuda:2", "cuda:5"]
    assert supervisor._fitting(supervisor._device(("defend", "--device", "cuda:1")), every) == ["cuda:5"]
    assert supervisor._fitting(supervisor._device(("defend", "--device=cpu")), every) == ["cpu"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert supervisor._fitting("auto", supervisor.slots()) == ["cpu"]


def test_a_training_by_several_processes_waits_for_as_many_gpus(quiet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    started: list[tuple[str, str]] = []
    one = supervisor.Supervisor()

    def start(self: supervisor.Supervisor, entry: queue.Entry, slot: str) -> None:
        started.append((entry.label, slot))
        self.workers[entry.name] = supervisor._Worker(1, "", slot, False, 0)

    monkeypatch.setattr(supervisor.Supervisor, "_start", start)
    monkeypatch.setattr(supervisor.Supervisor, "_look", lambda self, name, worker: None)
    jobs.submit(["defend", "x"], label="single")
    jobs.submit(["attack", "--set", "training.nproc=3"], label="three")
    jobs.submit(["attack", "--set=training.nproc=9", "--device", "cpu"], label="cpu")
    jobs.submit(["defend", "x"], label="later")
    one.step()
    assert started == [("single", "cuda:2"), ("cpu", "cpu")]
    del one.workers[next(name for name, worker in one.workers.items() if worker.slot == "cuda:2")]
    queue.remove(next(entry.name for entry in queue.entries() if entry.label == "single"))
    one.step()
    assert started[2:] == [("three", "cuda:2,cuda:5,cuda:7")]


def test_the_journal_is_limited_to_five_lines_a_second(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run")
    for k in range(1000):
        journal.progress(f"step {k}", k / 100, loss=float("nan"), acc=None, step=k)
    journal.done()
    lines, _ = events(tmp_path / "run")
    assert 2 <= len(lines) <= 10
    assert all(0 <= line["share"] <= 1 and not {"loss", "acc"} & set(line) for line in lines[:-1])
    assert lines[-1]["state"] == "done"


def test_the_time_to_go_follows_the_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, now = Journal(tmp_path), [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for seconds, share in ((0, 0.5), (10, 0.6), (10, 0.75), (5, 0.1), (5, 0.2)):
        now[0] += seconds
        journal.progress("x", share)
    assert [line.get("eta") for line in events(tmp_path)[0]] == [None, 40.0, 20.0, None, 40.0]


def test_half_a_line_is_left_for_later_and_takes_no_other_with_it(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(b'{"what": "a"}\nnot json\n{"wh')
    lines, offset = events(tmp_path)
    assert lines == [{"what": "a"}]
    Journal(tmp_path).done()
    assert [line["state"] for line in events(tmp_path, offset)[0]] == ["done"]
    assert events(tmp_path / "nowhere") == ([], 0)


def test_where_the_index_cannot_be_opened_the_folders_are_read(quiet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = submit(["sweep", "demo:x"], label="first"), submit(["attack"], label="second")
    before = jobs.entries()
    monkeypatch.setattr(queue, "FILE", "no/such/folder.sqlite")
    monkeypatch.setattr(queue, "usable", lambda: queue.entries() == [])
    assert jobs.entries() == before
    cancel(first.id)
    assert [entry.state for entry in jobs.entries()] == ["queued", "cancelled"]
    delete(first.id)
    assert [entry.name for entry in jobs.entries()] == [second.id]
