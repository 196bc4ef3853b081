"""axe-core finds nothing serious on any page, in the light and the dark theme."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.app.browser import ROOT, settle

pytestmark = pytest.mark.browser
PATHS = ("", *(path.stem for path in sorted((ROOT / "app" / "views").glob("[a-z]*.py")) if path.stem != "home"))


def stumbles(page: Page, looks: int = 3) -> list[str]:
    """What axe-core calls serious or critical, the rule and where, in each of some looks: what is redrawn is faint."""
    found = look(page)
    while found and (looks := looks - 1):
        page.wait_for_timeout(1500)
        settle(page)
        found = look(page)
    return found


def look(page: Page) -> list[str]:
    return [
        f"{found['id']} ({found['help']}): {node['target']}"
        for found in Axe().run(page).response["violations"]
        if found["impact"] in ("serious", "critical")
        for node in found["nodes"]
    ]


@pytest.mark.timeout(200)
@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_no_page_has_a_serious_violation(app: str, new_page: Callable[..., Page], theme: str, tmp_path: Path) -> None:
    found = {}
    for path in PATHS:
        page = new_page(f"{app}/{path}", dark=theme == "dark")
        expect(page.locator("h1").first).to_be_visible(timeout=30_000)
        settle(page)
        if serious := stumbles(page):
            found[path or "home"] = serious
            page.screenshot(path=tmp_path / f"{path or 'home'}.png")
        page.close()
    assert not found


def test_what_it_would_find(app: str, new_page: Callable[..., Page]) -> None:
    page = new_page(app)
    page.evaluate("() => document.querySelector('h1').insertAdjacentHTML('afterend', '<img src=\"x.png\">')")
    assert any("image-alt" in stumble for stumble in stumbles(page))
