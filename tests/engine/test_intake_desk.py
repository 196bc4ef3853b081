"""The desk where pages hand in files: what is accepted lies under its hash, of all else nothing stays."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import threading
import time
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

from engine.intake import desk
from engine.intake.desk import Look
from engine.intake.limits import Refused
from engine.runs import jobs

PLAIN = {"verdict": "plain", "reason": None}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path))
    monkeypatch.setattr(desk, "_clerk", lambda *_: PLAIN)
    monkeypatch.setattr(desk, "_looks", OrderedDict())
    monkeypatch.setattr(jobs, "wake", lambda: None)
    return tmp_path


def settled(ticket: str, seconds: float = 20) -> Look:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        look = desk.look(ticket)
        assert look is not None
        if look.state != "working":
            return look
        time.sleep(0.01)
    raise AssertionError("expected the look to end")


def files(home: Path) -> list[str]:
    return sorted(str(p.relative_to(home)) for p in home.rglob("*") if p.is_file())


def handed(ticket: str, kind: desk.Kind, source: Any) -> Look:
    desk.hand_in(ticket, kind, source)
    return settled(ticket)


def arrays() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x_train.npy", b"")
    return buffer.getvalue()


def test_what_is_accepted_lies_under_its_hash(home: Path) -> None:
    sha = hashlib.sha256(b"weights").hexdigest()
    for ticket in ("a", "b"):  # the same file twice is one file
        look = handed(ticket, "checkpoint", io.BytesIO(b"weights"))
        assert (look.state, look.value, look.sha256) == ("done", PLAIN, sha)
        assert look.path == home.resolve() / "uploads" / sha / "checkpoint"
        assert look.path.read_bytes() == b"weights"
    npz = handed("c", "data", io.BytesIO(arrays()))
    assert npz.path is not None
    assert npz.path.name == "data.npz"
    png = desk.keep_trigger(b"png")
    assert png.read_bytes() == b"png"
    assert len(files(home)) == 3
    assert not list((home / "uploads").glob(".part-*"))


def test_what_was_put_away_is_gone_unless_somebody_needs_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for ticket in ("mine", "theirs"):
        look = handed(ticket, "checkpoint", io.BytesIO(b"weights"))
    assert look.path is not None
    desk.forget("mine")
    assert look.path.exists()  # another page shows it
    desk.forget("theirs")
    assert not look.path.exists()
    assert list((home / "uploads").iterdir()) == []
    handed("again", "checkpoint", io.BytesIO(b"weights"))
    jobs.submit(["import", str(look.path), "--data", "d"], label="Open it")
    desk.forget("again")
    assert look.path.exists()
    # A file that is put away while it is looked at does not come back.
    started, go_on = threading.Event(), threading.Event()

    def slow(*_: object) -> dict[str, Any]:
        started.set()
        assert go_on.wait(20)
        return PLAIN

    monkeypatch.setattr(desk, "_clerk", slow)
    before = files(home / "uploads")
    desk.hand_in("slow", "checkpoint", io.BytesIO(b"others"))
    assert started.wait(20)
    desk.forget("slow")
    go_on.set()
    for thread in threading.enumerate():
        if thread.name == "intake":
            thread.join(20)
    assert files(home / "uploads") == before
    (home / "inbox").mkdir()
    (home / "inbox" / "model.pt").write_bytes(b"x")
    handed("inbox", "checkpoint", desk.inbox()["model.pt"])
    desk.forget("inbox")
    assert (home / "inbox" / "model.pt").exists()


@pytest.mark.parametrize("kind", ["checkpoint", "data", "trigger", "picture"])
def test_what_is_too_large_is_refused_in_one_line(kind: desk.Kind, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(desk.LIMITS, kind, 5)
    look = handed(f"large {kind}", kind, io.BytesIO(b"123456"))
    assert look.state == "refused"
    assert "of at most 5 bytes" in look.error
    assert "\n" not in look.error
    assert files(home) == []


def test_a_refused_checkpoint_is_described_and_not_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = {"verdict": "hostile", "reason": "expected data, got os.system"}
    monkeypatch.setattr(desk, "_clerk", lambda *_: report)
    look = handed("hostile", "checkpoint", io.BytesIO(b"evil"))
    assert (look.state, look.error, look.value) == ("refused", report["reason"], report)
    assert not list((home / "uploads").iterdir())


def test_a_clerk_that_fails_is_one_line_and_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (Refused("expected one thing,\n got another"), OSError(28, "No space left"), RuntimeError("boom")):

        def fails(*_: object, error: Exception = error) -> dict[str, Any]:
            raise error

        monkeypatch.setattr(desk, "_clerk", fails)
        look = handed("fails", "data", io.BytesIO(b"PK"))
        assert look.state == "refused"
        assert look.error
        assert "\n" not in look.error
        assert not list((home / "uploads").iterdir())


def test_a_process_that_dies_is_no_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Refused, match="ended with code 1"):
        desk._clerk("checkpoint", tmp_path)


def test_what_a_killed_app_left_is_removed_by_the_next_upload(home: Path) -> None:
    old, new = home / "uploads" / ".part-old", home / "uploads" / ".part-new"
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "upload").write_bytes(b"half")
    os.utime(old, (0, 0))
    handed("next", "checkpoint", io.BytesIO(b"next"))
    assert not old.exists()
    assert new.exists()


def test_the_inbox_offers_plain_files_and_no_links(home: Path) -> None:
    assert desk.inbox() == {}
    inbox = home / "inbox"
    (inbox / "badnet" / "deep").mkdir(parents=True)
    for name in ("model.pt", ".hidden", "badnet/attack_result.pt", "badnet/deep/far.pt", "two\nlines.pt"):
        (inbox / name).write_bytes(b"x")
    (home / "secret").write_bytes(b"x")
    (inbox / "link.pt").symlink_to(home / "secret")
    (inbox / "folder").symlink_to(home)
    os.mkfifo(inbox / "pipe")
    assert list(desk.inbox()) == ["badnet/attack_result.pt", "model.pt"]
    # A file of the inbox is looked at where it lies.
    look = handed("inbox", "checkpoint", desk.inbox()["model.pt"])
    assert look.path == inbox.resolve() / "model.pt"
    assert not (home / "uploads").exists()
