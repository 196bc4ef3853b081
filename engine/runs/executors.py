"""Where the runs of a matrix are computed: an executor takes tasks and tells which of them ended. Needs no torch.

A task is a command of the program without ``--out``; the executor chooses where the run folder is made and hands it
back. :class:`Local` uses the queue of the workspace, :class:`engine.runs.on_ray.OnRay` a Ray cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from engine.runs import jobs
from engine.spec import Spec, param


class Resources(Spec):
    """What one run needs."""

    threads: int = param(1, label="Threads", help="Processor threads of each process.", ge=1, le=1024, step=1)
    gpus: float = param(
        0.0, label="GPUs", help="0: on the CPU. On Ray a fraction shares one; locally a run has one to itself.", ge=0
    )
    memory_gb: float | None = param(None, label="Memory", help="Gigabytes to reserve on Ray.", gt=0)
    retries: int = param(3, label="Retries", help="So many lost workers may cost a run on Ray.", ge=0, le=100, step=1)


@dataclass(frozen=True)
class Task:
    """``run`` is the id of the run that the command must make, ``needs`` the ids of the runs that it reads."""

    run: str
    argv: tuple[str, ...]
    label: str
    needs: tuple[str, ...]
    processes: int = 1


@dataclass(frozen=True)
class Outcome:
    """A task that ended: with a run folder of the workspace, or with the one line that says why not."""

    run: str
    folder: Path | None
    error: str | None = None


class Executor(Protocol):
    """Takes tasks, at most one for each run."""

    def submit(self, task: Task) -> None:
        """Have it computed. A task that is under way already is followed, not started twice."""

    def ended(self) -> list[Outcome]:
        """The tasks that ended since the last call; returns at once or within a second."""

    def now(self) -> str:
        """What is being done, in a few words."""

    def close(self) -> None:
        """Let go. Whether tasks go on is the executor's affair; nothing that was handed back is lost."""


class Local:
    """The workspace's own queue and workers. Jobs go on when the executor is gone, and are found again."""

    def __init__(self) -> None:
        self._folders: dict[str, Path] = {}
        entries = jobs.entries()
        # The newest job of a command counts.
        self._known = {entry.argv: entry for entry in reversed(entries) if entry.argv is not None}

    def submit(self, task: Task) -> None:
        known = self._known.get(task.argv)
        if known is not None and known.state in ("queued", "running"):
            self._folders[task.run] = known.folder
            return
        if known is not None and known.state in ("paused", "failed", "cancelled"):
            try:
                jobs.resume(known.folder)
                self._folders[task.run] = known.folder
                return
            except ValueError:
                pass  # still ending, or deleted: a new one then
        self._folders[task.run] = jobs.submit(list(task.argv), label=task.label).folder

    def ended(self) -> list[Outcome]:
        states = {entry.folder: entry.state for entry in jobs.entries()}
        found = []
        for run, folder in self._folders.items():
            state = states.get(folder)
            if state == "done":
                found.append(Outcome(run, folder))
            elif state is None:
                found.append(Outcome(run, None, "its job was deleted"))
            elif state in ("failed", "cancelled", "paused"):
                found.append(Outcome(run, None, jobs.status(folder).error or state))
        for outcome in found:
            del self._folders[outcome.run]
        return found

    def now(self) -> str:
        for folder in self._folders.values():
            if (stands := jobs.status(folder)).state == "running":
                return stands.what
        return "waiting for the queue"

    def close(self) -> None:
        pass


def executor(name: Literal["local", "ray"], resources: Resources, address: str | None = None) -> Executor:
    """The executor of a name; ``address`` is that of a Ray cluster, without which one is started on this machine.

    Raises:
        ValueError: where Ray is not installed, or the cluster is not there or does not let us in.
    """
    if name == "local":
        return Local()
    from engine.runs.on_ray import OnRay

    return OnRay(resources, address)
