"""Jobs: started detached, followed through their folder, cancelled, and tidied up when they die."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.paths import ROOT
from engine.runs import jobs, process
from engine.runs.jobs import Journal, cancel, events, status, submit

# What stands in for the engine: it obeys the same contract for --out, journal and exit.
FAKE = """
import os, signal, sys, time
from pathlib import Path
from engine.runs.journal import Journal
what, folder = sys.argv[1], Path(sys.argv[sys.argv.index("--out") + 1])
assert sys.argv[-1] == "--json" and sorted(p.name for p in folder.iterdir()) in (["job.json", "log.txt"], ["log.txt"])
journal = Journal(folder)
journal.progress("working, pass 1", 0.25)
(folder / ".part-1").mkdir()
(folder / ".part-1" / "half").write_text("x")
if what == "ok":
    (folder / "manifest.json").write_text("{}")
    journal.done()
elif what == "refuse":
    print("expected something else, got this", file=sys.stderr)
    journal.failed("expected something else,\\n got this")
    sys.exit(2)
elif what == "crash":
    print("Traceback: out of luck", file=sys.stderr)
    os._exit(1)
else:
    if what == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.fork()
    (folder / "ready").touch()
    time.sleep(60)
"""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace in which ``python -m engine`` is the stand-in."""
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path / "home"))
    (tmp_path / "standin.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    spawn = process.spawn
    monkeypatch.setattr(process, "spawn", lambda module, log: spawn(["standin", *module[1:]], log))
    return tmp_path / "home"


def wait(job: jobs.Job, *states: str, seconds: float = 20) -> jobs.Status:
    deadline = time.monotonic() + seconds
    while (now := status(job.id)).state not in states:
        assert time.monotonic() < deadline, now
        time.sleep(0.05)
    return now


def test_a_job_runs_and_leaves_its_folder(engine: Path) -> None:
    job = submit(["ok"], label="a try")
    assert job.folder == engine.resolve() / "runs" / job.id
    assert status(job.id).state in ("starting", "running", "done")
    end = wait(job, "done", "failed")
    assert (end.state, end.share, end.error, end.ended) == ("done", 1.0, None, True)
    assert end == status(job.folder)
    lines, offset = events(job.folder, 0)
    assert lines[0]["what"] == "working, pass 1"
    assert lines[0]["share"] == 0.25
    assert lines[-1]["state"] == "done"
    assert events(job.folder, offset) == ([], offset)


def test_jobs_are_listed_newest_first(engine: Path) -> None:
    first, second = submit(["ok"], label="first"), submit(["ok"], label="second")
    (engine / "runs" / "other").mkdir()
    (engine / "runs" / "other" / "job.json").write_text("[]")
    assert jobs.jobs() == [second, first]
    for job in (first, second):
        wait(job, "done")


def test_a_refusal_gives_its_line(engine: Path) -> None:
    end = wait(submit(["refuse"], label=""), "failed")
    assert end.error == "expected something else, got this"


def test_a_crash_is_a_failure_with_its_last_words_and_nothing_half_written(engine: Path) -> None:
    job = submit(["crash"], label="")
    end = wait(job, "failed")
    assert end.error == "Traceback: out of luck"
    assert sorted(p.name for p in job.folder.iterdir()) == ["events.jsonl", "job.json", "log.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="process groups are a Unix notion")
@pytest.mark.parametrize("what", ["long", "stubborn"])
def test_cancel_ends_the_whole_group_and_keeps_the_journal(engine: Path, monkeypatch, what: str) -> None:
    monkeypatch.setattr(jobs, "GRACE", 1.0)
    job = submit([what], label="")
    start = time.monotonic()
    while not (job.folder / "ready").exists():
        assert time.monotonic() - start < 20
        time.sleep(0.05)
    pid = json.loads((job.folder / "job.json").read_text())["pid"]
    before = time.monotonic()
    cancel(job.id)
    assert time.monotonic() - before < 0.5
    assert status(job.id).state == "cancelled"
    cancel(job.id)
    deadline = time.monotonic() + 10
    while subprocess.run(["ps", "-o", "stat=", "-g", str(pid)], capture_output=True, text=True).stdout.strip("Zs+\n "):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    while (job.folder / ".part-1").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert sorted(p.name for p in job.folder.iterdir()) == ["events.jsonl", "job.json", "log.txt"]
    assert status(job.id).state == "cancelled"


def test_a_job_whose_number_was_given_to_another_process_is_dead(engine: Path) -> None:
    folder = engine / "runs" / "old"
    folder.mkdir(parents=True)
    record = {"id": "old", "label": "", "argv": [], "submitted": time.time() - 9, "cancelled": None}
    (folder / "job.json").write_text(json.dumps({**record, "pid": os.getpid(), "began": "before the flood"}))
    (folder / "log.txt").write_text("first\nlast words\n\n")
    end = status("old")
    assert (end.state, end.error) == ("failed", "last words")
    cancel("old")  # an ended job stays as it is
    assert status("old").state == "failed"


def test_a_job_that_never_started_fails(engine: Path) -> None:
    folder = engine / "runs" / "lost"
    folder.mkdir(parents=True)
    record = {"id": "lost", "label": "", "argv": [], "cancelled": None, "pid": None, "began": None}
    (folder / "job.json").write_text(json.dumps({**record, "submitted": time.time()}))
    assert status("lost").state == "starting"
    (folder / "job.json").write_text(json.dumps({**record, "submitted": time.time() - 60}))
    assert status("lost").state == "failed"


@pytest.mark.parametrize(("content", "message"), [(None, "which has no job.json"), ("{}", "record of a job")])
def test_what_is_no_job_is_refused_in_one_line(engine: Path, content: str | None, message: str) -> None:
    folder = engine / "runs" / "x"
    folder.mkdir(parents=True)
    if content is not None:
        (folder / "job.json").write_text(content)
    for question in (status, cancel):
        with pytest.raises(ValueError, match=message) as caught:
            question("x")
        assert "\n" not in str(caught.value)


def test_the_journal_is_limited_to_five_lines_a_second(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run")
    for k in range(1000):
        journal.progress(f"step {k}", k / 100)
    journal.done()
    lines, _ = events(tmp_path / "run")
    assert 2 <= len(lines) <= 10
    assert all(0 <= line["share"] <= 1 for line in lines[:-1])
    assert lines[-1]["state"] == "done"


def test_half_a_line_is_left_for_later(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(b'{"what": "a"}\nnot json\n{"wh')
    lines, offset = events(tmp_path)
    assert lines == [{"what": "a"}]
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'at": "b"}\n')
    assert events(tmp_path, offset)[0] == [{"what": "b"}]
    assert events(tmp_path / "nowhere") == ([], 0)
