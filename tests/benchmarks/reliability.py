"""What jobs survive: killed workers, killed supervisors, cancels, reloads of the page and restarts of the app.

    python -m tests.benchmarks.reliability                      200 workers, 50 supervisors, 100 cancels, 100 + 20 pages
    python -m tests.benchmarks.reliability --workers 8 --supervisors 4 --cancels 4 --reloads 5 --restarts 2

Every part uses the real engine on a small training of its own, in a workspace that is thrown away, and prints one line
with n. The exit code is 1 if a job was lost or done twice, a file was torn, a continued run differs from an undisturbed
one, or a cancelled process outlived its fifteen seconds. Times are of this machine with whatever else it is doing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.paths import ROOT
from engine.runs import checkpoints, jobs, process
from engine.runs.checkpoints import Keep
from engine.runs.store import open_run
from tests import tiny

#: Seconds between two checkpoints, so short that a small training has many.
INTERVAL = 0.25
#: Kills of one job; after them it may finish.
KILLS = 4
#: A cancelled process must be gone by then.
LIMIT = 15.0


class Bench:
    """A workspace with a data set, and what went wrong in it."""

    def __init__(self, home: Path, seed: int) -> None:
        self.home, self.random, self.wrong = home, random.Random(seed), 0
        os.environ["UNMASK_HOME"] = str(home)
        os.environ["UNMASK_CHECKPOINT_SECONDS"] = str(INTERVAL)
        home.mkdir(parents=True, exist_ok=True)
        tiny.save_npz(home / "shapes.npz")

    def training(self, epochs: int, seed: int = 0, batch: int = 16) -> jobs.Job:
        settings = ["model.width=4", f"training.epochs={epochs}", f"training.batch={batch}", "training.augment=true"]
        chosen = [word for pair in (*settings, "target=3") for word in ("--set", pair)]
        command = ["attack", "--data", str(self.home / "shapes.npz"), "--model", "resnet18", "--attack", "badnets"]
        return jobs.submit([*command, *chosen, "--seed", str(seed), "--device", "cpu"], label=f"seed {seed}")

    def until(self, what: Callable[[], object], seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        looked = 0.0
        while not what():
            if time.monotonic() > deadline:
                raise TimeoutError(f"expected an end within {seconds:g} s, got none")
            if time.monotonic() - looked > 1:  # as an open page does
                looked = time.monotonic()
                jobs.entries()
            time.sleep(0.005)

    def say(self, line: str, *bad: int) -> None:
        self.wrong += sum(bad)
        print(line, flush=True)


def worker_of(job: jobs.Job) -> dict[str, Any] | None:
    """The living process of a job."""
    told = jobs.worker_of(job.folder)
    return told if told is not None and process.alive(told["pid"], told["began"]) else None


def files_of(job: jobs.Job) -> dict[str, Any]:
    run = open_run(job.folder)
    run.verify()
    return {name: entry["sha256"] for name, entry in run.manifest["files"].items()}


def torn(folder: Path) -> int:
    """Checkpoints that do not read."""
    import safetensors

    bad = 0
    for piece in (folder / checkpoints.FOLDER).glob("*.safetensors"):
        try:
            with safetensors.safe_open(piece, framework="np") as file:
                bad += Keep(folder, file.metadata()["run"]).read(piece.stem) is None
        except safetensors.SafetensorError:
            bad += 1
    return bad


def workers(bench: Bench, n: int) -> None:
    reference = bench.training(6)
    bench.until(lambda: jobs.status(reference.id).ended)
    whole, usual = files_of(reference), jobs.status(reference.id).seconds
    killed = bad_files = lost = different = 0
    finished: list[jobs.Job] = []
    redone: list[float] = []
    began = time.monotonic()
    while killed < n:
        job = bench.training(6)
        for _ in range(min(KILLS, n - killed)):
            bench.until(lambda job=job: jobs.status(job.id).ended or worker_of(job) is not None)
            told = worker_of(job)
            if told is None:
                break
            time.sleep(bench.random.uniform(0, 1.2 * usual))
            if not process.alive(told["pid"], told["began"]):
                continue  # it was done, or is another's by now
            with contextlib.suppress(OSError):
                piece = checkpoints.stamp(job.folder)
                os.kill(told["pid"], signal.SIGKILL)
                killed += 1
                # Computing since the last piece, if there was one of this process.
                if piece > told["stamp"] and piece:
                    redone.append(time.time() - piece / 1e9)
            bad_files += torn(job.folder)
            bench.until(lambda told=told: process.began(told["pid"]) is None)
        bench.until(lambda job=job: jobs.status(job.id).ended)
        stands = jobs.status(job.id)
        if stands.state != "done":
            lost += 1
            print(f"  lost: {stands.error}", flush=True)
            continue
        bench.until(lambda job=job: worker_of(job) is None)
        finished.append(job)
        different += files_of(job) != whole
        left = {path.name for path in job.folder.iterdir()} - {*whole, "manifest.json", "job.json", "log.txt"}
        bad_files += bool(left - {"events.jsonl", "worker.json", "worker.lock"})
    # Whatever was killed after a run was finished, the run is still what it was.
    for job in finished:
        try:
            lost += files_of(job) != whole and jobs.status(job.id).state != "done"
        except ValueError:
            lost += 1
    done = len(finished)
    most = f"median {statistics.median(redone):.2f} s, max {max(redone):.2f} s" if redone else "none had a checkpoint"
    bench.say(
        f"workers killed: n = {killed}; {done} jobs done, {lost} lost, {different} of {done} differ from an "
        f"undisturbed run, {bad_files} torn or left files; to redo: {most} (checkpoint every {INTERVAL:g} s, or 20 "
        f"times as long as writing one takes; n = {len(redone)}); {time.monotonic() - began:.0f} s",
        lost, different, bad_files,
    )  # fmt: skip


def supervisors(bench: Bench, n: int) -> None:
    batch: list[jobs.Job] = []
    killed, began = 0, time.monotonic()
    while killed < n:
        while sum(not jobs.status(job.id).ended for job in batch) < 3:
            batch.append(bench.training(2, seed=len(batch) % 5))
        time.sleep(bench.random.uniform(0.05, 1.5))
        jobs.entries()
        with contextlib.suppress(OSError, ValueError):
            told = json.loads((bench.home / jobs.SUPERVISOR).read_text())
            if process.alive(told["pid"], told["began"]):
                os.kill(told["pid"], signal.SIGKILL)
                killed += 1
    # A run is done with its manifest; its process still says so in the journal.
    bench.until(lambda: all(jobs.status(job.id).ended and worker_of(job) is None for job in batch), 600)
    lost = sum(jobs.status(job.id).state != "done" for job in batch)
    doubled = torn_runs = 0
    for job in batch:
        states = [line["state"] for line in jobs.events(job.folder)[0] if "state" in line]
        # Once begun and once done; a supervisor's death must not even interrupt the worker.
        twice = states.count("running") != 1 or states.count("done") != 1
        doubled += twice
        if twice:
            print(f"  {job.label}: {', '.join(states)}", flush=True)
        try:
            files_of(job)
        except ValueError:
            torn_runs += 1
    bench.say(
        f"supervisors killed: n = {killed}; {len(batch)} jobs, {lost} lost, {doubled} begun or done twice, {torn_runs} "
        f"torn; {time.monotonic() - began:.0f} s",
        lost, doubled, torn_runs,
    )  # fmt: skip


def cancels(bench: Bench, n: int) -> None:
    times: list[float] = []
    late = bad_files = wrong = 0
    for k in range(n):
        job = bench.training(200, seed=k)
        bench.until(lambda job=job: worker_of(job) is not None)
        told = worker_of(job)
        assert told is not None
        time.sleep(bench.random.uniform(0, 5))
        had = checkpoints.stamp(job.folder)
        began = time.monotonic()
        jobs.cancel(job.id)
        bench.until(lambda told=told: not process.alive(told["pid"], told["began"]), 60)
        times.append(time.monotonic() - began)
        late += times[-1] > LIMIT
        bad_files += torn(job.folder) + (checkpoints.stamp(job.folder) < had)
        wrong += jobs.status(job.id).state != "cancelled"
    bench.say(
        f"cancelled: {n - late} of {n} gone within {LIMIT:g} s, median {statistics.median(times):.2f} s, max "
        f"{max(times):.2f} s; {bad_files} checkpoints lost or torn, {wrong} in another state",
        late, bad_files, wrong,
    )  # fmt: skip


def pages(bench: Bench, reloads: int, restarts: int) -> None:
    from tests.app.browser import chromium, server, settle

    main = ROOT / "app" / "main.py"
    job = bench.training(1000, batch=2)
    bench.until(lambda: jobs.status(job.id).state == "running")
    told = worker_of(job)
    shown: list[float] = []
    card = f".st-key-job-queue-{job.id}"
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        with server(main) as url:
            page.goto(f"{url}/runs")
            settle(page)
            for _ in range(reloads):
                began = time.monotonic()
                page.reload()
                page.locator(card).get_by_text("epoch").first.wait_for(timeout=60_000)
                shown.append(time.monotonic() - began)
        for _ in range(restarts):
            with server(main) as url:  # leaving it ends the app with everything in its session
                page.goto(f"{url}/runs")
                page.locator(card).get_by_text("epoch").first.wait_for(timeout=60_000)
    stands, now = jobs.status(job.id), worker_of(job)
    harmed = int(stands.state != "running" or now != told or stands.attempt != 1)
    jobs.cancel(job.id)
    bench.until(lambda: worker_of(job) is None, 60)
    line = f"median {statistics.median(shown):.2f} s, max {max(shown):.2f} s" if shown else "none"
    bench.say(
        f"pages: {reloads} reloads and {restarts} restarts of the app during one job: "
        f"{'it went on undisturbed' if not harmed else f'HARMED, {stands}'}; progress back after a reload: {line}",
        harmed,
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, n in (("workers", 200), ("supervisors", 50), ("cancels", 100), ("reloads", 100), ("restarts", 20)):
        parser.add_argument(f"--{name}", type=int, default=n)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        bench = Bench(Path(folder) / "home", args.seed)
        print(f"# {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}", flush=True)
        try:
            for part, n in ((workers, args.workers), (supervisors, args.supervisors), (cancels, args.cancels)):
                if n:
                    part(bench, n)
            if args.reloads or args.restarts:
                pages(bench, args.reloads, args.restarts)
        finally:
            for job in jobs.jobs():
                with contextlib.suppress(ValueError):
                    jobs.cancel(job.id)
            with contextlib.suppress(OSError, ValueError):
                process.stop(json.loads((bench.home / jobs.SUPERVISOR).read_text())["pid"], force=True)
            for job in jobs.jobs():
                if told := worker_of(job):
                    process.stop(told["pid"], force=True)
    return 1 if bench.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
