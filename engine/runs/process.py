"""Processes that outlive the one that starts them: jobs and the warm worker; and confined ones for foreign files.

Every call of the operating system that differs between systems is made here: process groups, signals, locks, limits
and process identity. A test sees to that.

A process is known by its number and the time it began, because numbers are used again. Where the system has no
``/proc`` (macOS, Windows), the number alone must do.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from engine.paths import ROOT, workspace

#: The environment variable that names the process without which this one has no purpose: see :func:`named`.
PARENT = "UNMASK_PARENT"
#: How long threads of what is started here spin while they wait for each other (GNU OpenMP): a few microseconds. A
#: browser needs the cores, too, and where another process has one of them, threads that spin for long take many times
#: as long for everything; threads that never do lose up to a fifth on idle cores.
_SPIN = {"GOMP_SPINCOUNT": "4000"}
Child = subprocess.Popen[bytes]
_children: dict[int, Child] = {}
_ended: dict[int, Child] = {}


def spawn(module: list[str], log: Path, more: Mapping[str, str] | None = None) -> Child:
    """Start ``python -m MODULE …`` detached: own process group, no input, everything it says appended to ``log``.

    ``more`` goes on top of this process's environment variables. Whoever has chosen how threads wait is not overruled.
    """
    spin = {} if "OMP_WAIT_POLICY" in os.environ else _SPIN
    env = {**spin, **os.environ, "UNMASK_HOME": str(workspace().resolve()), **(more or {})}
    with log.open("ab") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
    _children[child.pid] = child  # kept so that its end is collected, and is not taken for life
    return child


def listen(command: list[str], more: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a command in this process's group, so that whoever ends the group ends it; its stdout is a pipe of text."""
    env = {**os.environ, **(more or {})}
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=env)


def answer(module: list[str], seconds: float, more: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Run ``python -m MODULE …`` to its end; returns its exit code, stdout and stderr.

    Raises:
        TimeoutError: if it took longer than ``seconds``; it is ended.
    """
    env = {**os.environ, **(more or {})}
    command = [sys.executable, "-m", *module]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"expected an answer within {seconds:g} s, got none") from None
    return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


def began(pid: int) -> str | None:
    """When a process began, in the system's own terms: ``""`` where the system does not say, ``None`` if it is gone."""
    child = _children.get(pid)
    if child is not None and child.poll() is not None:
        _ended[pid] = _children.pop(pid)
        while len(_ended) > 64:
            del _ended[next(iter(_ended))]
    if sys.platform == "win32":
        return _alive_on_windows(pid)
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""


def _alive_on_windows(pid: int) -> str | None:
    # Signal 0 would end the process there. 0x100000 is SYNCHRONIZE, 258 is WAIT_TIMEOUT: still running.
    import ctypes

    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined,unused-ignore]
    handle = kernel.OpenProcess(0x100000, False, pid)
    if not handle:
        return None
    try:
        return "" if kernel.WaitForSingleObject(handle, 0) == 258 else None
    finally:
        kernel.CloseHandle(handle)


def exit_code(pid: int) -> int | None:
    """How a process ended that this one started: its code, or minus the number of the signal; None if not known."""
    child = _children.get(pid) or _ended.get(pid)
    return None if child is None else child.poll()


def alive(pid: int, began_at: str) -> bool:
    return began(pid) == began_at


def stop(pid: int, *, force: bool = False) -> None:
    """Ask a process and its children to end, or end them (``force``). A process that is gone is no error."""
    with contextlib.suppress(OSError):
        if sys.platform == "win32":
            os.kill(pid, signal.SIGTERM)
        else:
            os.killpg(pid, signal.SIGKILL if force else signal.SIGTERM)


def on_stop(what: Callable[[], object]) -> None:
    """Call ``what`` when this process is asked to end, instead of ending it."""
    signal.signal(signal.SIGTERM, lambda *_: what())


@contextlib.contextmanager
def private() -> Iterator[None]:
    """Files made inside can be read by their owner only, where the system knows owners."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def named() -> str:
    """This process by number and beginning, as :data:`PARENT` names it to the processes that it starts."""
    return f"{os.getpid()} {began(os.getpid())}"


def follow_parent() -> None:
    """End this process and its group when the one that :data:`PARENT` names is gone.

    A killed process cannot take its children with it, and these have sessions of their own.
    """
    pid, _, since = os.environ.pop(PARENT, "").partition(" ")
    if not pid.isdecimal():
        return

    def watch() -> None:
        while alive(int(pid), since):
            time.sleep(0.3)
        stop(os.getpid(), force=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def hold(path: Path) -> int | None:
    """Take a lock that this process holds until it ends, however it ends; None if another process has it.

    The lock is on the open file, which a process started with :func:`spawn` does not inherit. Close the returned
    descriptor to let go.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    return file


def gpus() -> list[str]:
    """The NVIDIA devices that ``CUDA_VISIBLE_DEVICES`` leaves visible, as that variable names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() and name.strip() != "-1"]
    try:
        return [str(k) for k, _ in enumerate(sorted(Path("/proc/driver/nvidia/gpus").iterdir()))]
    except OSError:
        return []


def last_line(log: Path, limit: int = 400) -> str:
    """The last line that says something in a log, at most ``limit`` characters; "" if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.strip()[:limit] for line in reversed(lines) if line.strip()), "")


def can_confine() -> bool:
    """Whether a process's memory can be limited here: by the kernel (Linux), or by watching it with ``ps`` (macOS)."""
    return sys.platform.startswith("linux") or sys.platform != "win32" and shutil.which("ps") is not None


def confine(*, memory: int, seconds: int, file_bytes: int) -> None:
    """Limit the calling process for good: address space, processor time and file size in bytes and seconds.

    It can start no process, dump no core, and on Linux it gets no network and no new privileges where the kernel
    grants that to everybody.
    """
    import resource

    limits = {"CPU": seconds, "FSIZE": file_bytes, "CORE": 0, "NPROC": 0, "NOFILE": 16}
    if sys.platform.startswith("linux"):
        limits["AS"] = memory
        with contextlib.suppress(OSError, AttributeError):
            import ctypes

            libc = ctypes.CDLL(None)
            libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
            libc.unshare(0x10000000 | 0x40000000)  # CLONE_NEWUSER | CLONE_NEWNET
    for name, value in limits.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def run_confined(
    command: list[str], *, stdin: IO[bytes], files: tuple[int, ...], memory: int, seconds: float
) -> int | None:
    """Run a command that confines itself; end it after ``seconds`` or, without the kernel's help, beyond ``memory``.

    It inherits ``stdin`` and the descriptors ``files``, says nothing, and sees no environment but the locale's.

    Returns:
        Its exit code (negative: the signal that ended it), or None if it had to be ended.
    """
    kernel = sys.platform.startswith("linux")
    child = subprocess.Popen(
        command,
        cwd="/",
        env={"LC_ALL": "C.UTF-8", "PATH": os.defpath},
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=files,
        start_new_session=True,
    )
    until = time.monotonic() + seconds
    try:
        while (left := until - time.monotonic()) > 0:
            try:
                return child.wait(left if kernel else min(left, 0.05))
            except subprocess.TimeoutExpired:
                if not kernel and _resident(child.pid) > memory:
                    break
        return None
    finally:
        if child.poll() is None:
            stop(child.pid, force=True)
            child.wait()


def _resident(pid: int) -> int:
    said = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return int(said) * 1024 if said.strip().isdecimal() else 0
