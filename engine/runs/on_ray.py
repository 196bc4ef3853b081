"""Runs on a Ray cluster. Ray is optional and is imported when this executor is made; needs no torch.

A Ray task starts the same worker command as the local queue, in a process of its own, and hands the finished folder
back as bytes, which are checked against their hashes and committed once by run id. Every node needs this program in
the same version with its packages, and token authentication. Runs that a task reads are sent to nodes whose workspace
lacks them. A task whose worker or node is lost is given to another; if both deliver, the second is dropped.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import socket
from pathlib import Path
from typing import Any

from engine.paths import ROOT, workspace
from engine.runs import process
from engine.runs.delivery import Parcel, commit, pack
from engine.runs.executors import Outcome, Resources, Task
from engine.runs.store import find_run, open_run

MODE = "RAY_AUTH_MODE"
#: Folders of runs under way in the workspace of a node: this, the process id, and the run id.
PART = ".ray-"


class Interrupted(Exception):
    """The process of a run was ended from outside; the run may be tried again."""


class OnRay:
    """A connection to a cluster; the tasks end with it.

    Args:
        resources: what each run needs.
        address: ``HOST:PORT`` of the cluster, one of whose nodes this machine must be; without it one is started here.

    Raises:
        ValueError: in one line: no Ray, no cluster there, or a token that it does not take.
    """

    def __init__(self, resources: Resources, address: str | None = None) -> None:
        if os.environ.setdefault(MODE, "token").lower() == "disabled":
            raise ValueError(f"expected {MODE}=token, got disabled: anybody who reached the cluster could run programs")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise ValueError(
                "expected the package ray for the executor ray, got none: pip install ray==2.60.0"
            ) from None
        _reach(address)
        try:
            here: dict[str, Any] = {} if address else {"include_dashboard": False}
            ray.init(address or "local", log_to_driver=False, logging_level="ERROR", **here)
        except (ray.exceptions.RayError, RuntimeError, OSError, ValueError) as error:
            said = " ".join(str(error).split())[:300]
            place = address or "this machine"
            raise ValueError(f"expected a Ray cluster at {place} that takes our token, got: {said}") from None
        self._ray, self._resources = ray, resources
        self._tasks: dict[Any, Task] = {}
        self._sent: dict[str, Any] = {}

    def submit(self, task: Task) -> None:
        for run in task.needs:
            if run not in self._sent:
                found = find_run(run)
                assert found is not None
                self._sent[run] = self._ray.put(pack(found))
        use = self._resources
        more = {"memory": int(use.memory_gb * 1e9)} if use.memory_gb else {}
        remote = self._ray.remote(work).options(
            name=task.label,
            num_cpus=use.threads * task.processes,
            num_gpus=use.gpus,
            max_retries=use.retries,
            retry_exceptions=[Interrupted],
            **more,
        )
        # In a list, Ray hands over the reference: only a node that lacks the run fetches its bytes.
        needs = {run: [self._sent[run]] for run in task.needs}
        self._tasks[remote.remote(task.argv, task.run, use.threads, needs, code_digest())] = task

    def ended(self) -> list[Outcome]:
        if not self._tasks:
            return []
        ready, _ = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0.2)
        found = []
        for reference in ready:
            task = self._tasks.pop(reference)
            try:
                came = self._ray.get(reference)
                if isinstance(came, str):
                    found.append(Outcome(task.run, None, came))
                else:
                    found.append(Outcome(task.run, commit(came, task.run).folder))
            except (self._ray.exceptions.RayError, ValueError) as error:
                lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                found.append(Outcome(task.run, None, (lines or [type(error).__name__])[-1][:400]))
        return found

    def now(self) -> str:
        use, living = self._resources, [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        most = max((task.processes for task in self._tasks.values()), default=1)
        wanted = {"CPU": use.threads * most, "GPU": use.gpus}
        if not any(all(node.get(key, 0) >= n for key, n in wanted.items()) for node in living):
            return f"waiting for a node with {wanted['CPU']} processors and {use.gpus:g} GPUs, which the cluster lacks"
        return f"{len(self._tasks)} with Ray, {len(living)} node{'s' if len(living) != 1 else ''}"

    def close(self) -> None:
        self._ray.shutdown()


def _reach(address: str | None) -> None:
    """Look whether somebody listens there; Ray itself would try for minutes."""
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise ValueError(f"expected a Ray cluster at {address}, got: {error}") from None


@functools.cache
def code_digest() -> str:
    """Hash of the engine's sources: results of another version are not mixed in."""
    found = hashlib.sha256()
    for path in sorted((ROOT / "engine").rglob("*.py")):
        found.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def work(argv: tuple[str, ...], run: str, threads: int, needs: dict[str, list[Any]], code: str) -> Parcel | str:
    """The Ray task: compute one run on this node; its files, or the line that says why there are none.

    Raises:
        Interrupted: if its process was ended from outside.
    """
    import ray

    node = platform.node()
    if os.environ.get(MODE, "disabled").lower() == "disabled":
        return f"expected token authentication on node {node}, got none: set {MODE}=token before ray start"
    if code_digest() != code:
        return f"expected the same version of Unmask on every node, got another on {node} in {ROOT}"
    for need, (reference,) in needs.items():
        if find_run(need) is None:
            commit(ray.get(reference), need)
    home = workspace().resolve()
    home.mkdir(parents=True, exist_ok=True)
    _sweep(home)
    folder = home / f"{PART}{os.getpid()}-{run}"
    log, out = folder / "log.txt", folder / "run"
    folder.mkdir()
    child: process.Child | None = None
    try:
        more = {"OMP_NUM_THREADS": str(threads), process.PARENT: process.named()}
        child = process.spawn(["engine", *argv, "--out", str(out), "--json"], log, more)
        if (ended := child.wait()) < 0:
            raise Interrupted(f"the process was ended by signal {-ended} on {node}; memory may be short")
        if ended == 0:
            return pack(open_run(out))
        return process.last_line(log).removeprefix("error: ") or f"the process ended with code {ended} on {node}"
    finally:
        if child is not None:
            process.stop(child.pid, force=True)
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(home: Path) -> None:
    """Remove what tasks left whose process was killed."""
    for left in home.glob(f"{PART}*-*"):
        pid = left.name.removeprefix(PART).partition("-")[0]
        if pid.isdecimal() and process.began(int(pid)) is None:
            shutil.rmtree(left, ignore_errors=True)
