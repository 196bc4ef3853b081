"""Fixtures for tests that drive the real pages in a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.app import browser as driver


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with driver.chromium() as browser:
        yield browser


@pytest.fixture
def new_page(chromium: Browser) -> Iterator[Callable[..., Page]]:
    """``new_page(url, dark=False, width=1280, height=900, scale=1)`` opens a page and waits for the script."""
    yield from driver.opener(chromium)
