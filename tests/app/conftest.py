"""Fixtures for tests of pages: an empty workspace, and a browser for those that need the real page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from engine import demos
from engine.runs import ask, jobs
from tests.app import browser as driver


@pytest.fixture
def workspace(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace without runs, in which nothing is started, beside the demos that the test's file has ``shipped``."""
    monkeypatch.setattr(demos, "DEMOS", shipped / "demos")
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path))
    monkeypatch.setattr(jobs, "wake", lambda: None)
    return tmp_path


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The dashboard with the demos that are shipped, in an empty workspace."""
    assert "badnets" in demos.names()
    home = tmp_path_factory.mktemp("home")
    with driver.server(driver.ROOT / "app" / "main.py", {"UNMASK_HOME": str(home)}) as url:
        yield url
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNMASK_HOME", str(home))
        ask.stop()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with driver.chromium() as browser:
        yield browser


@pytest.fixture
def new_page(chromium: Browser) -> Iterator[Callable[..., Page]]:
    """``new_page(url, dark=False, width=1280, height=900, scale=1)`` opens a page and waits for the script."""
    yield from driver.opener(chromium)
