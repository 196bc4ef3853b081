"""The Attack lab in a real browser: settings and pictures, a drawn trigger, a training from the button to Prune."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, TimeoutError, expect

from engine.runs import ask
from tests.app.browser import ROOT, server, settle

pytestmark = pytest.mark.browser
NewPage = Callable[..., Page]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The dashboard in an empty workspace, with the address and the workspace."""
    home = tmp_path_factory.mktemp("home")
    with server(ROOT / "app" / "main.py", {"UNMASK_HOME": str(home), "OMP_NUM_THREADS": "1"}) as url:
        yield url, home
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNMASK_HOME", str(home))
        ask.stop()


def figure(page: Page, name: str, column: int = 0) -> str:
    return page.locator(".um-strip").nth(column).locator(".um-cell", has_text=name).locator(".um-value").inner_text()


def typed(page: Page, label: str, value: str) -> None:
    box = page.get_by_label(label, exact=True).first
    box.fill(value)
    box.press("Enter")


def choose(page: Page, label: str, option: str) -> None:
    """Choose in a menu. A page that is drawn anew closes an open one, so it may take a second try."""
    found = page.get_by_role("option", name=re.compile(option))
    for _ in range(5):
        settle(page)
        page.get_by_role("combobox", name=label, exact=True).first.click()
        try:
            found.click(timeout=4_000)
            return
        except TimeoutError:
            page.keyboard.press("Escape")
    raise AssertionError(f"expected {option} in the menu {label}")


@pytest.mark.timeout(400)
def test_a_setting_changes_the_pictures_and_a_training_ends_in_prune(
    app: tuple[str, Path], shapes: str, new_page: NewPage
) -> None:
    url, home = app
    page = new_page(f"{url}/attack")
    broken: list[str] = []
    page.on("pageerror", lambda error: broken.append(str(error)))
    pictures = page.locator(".um-film-frames img")
    expect(pictures.first).to_be_visible(timeout=60_000)
    assert page.get_by_role("link", name="Attack lab").is_visible()

    # A larger patch is seen at once, in the pictures, the figures and the address.
    before, psnr = pictures.nth(1).get_attribute("src"), figure(page, "PSNR")
    typed(page, "Patch size", "9")
    expect(page.locator(".um-strip").first).not_to_contain_text(psnr.split()[0])
    expect(pictures.nth(1)).not_to_have_attribute("src", before or "")
    page.wait_for_url(re.compile("set=size%3D9"))
    expect(page.get_by_text("Differs from the preset small: Patch size 9 (not 3)")).to_be_visible()

    # A patch larger than the picture is refused before anything starts; the preset is one click away.
    typed(page, "Patch size", "40")
    expect(page.get_by_text("Expected size + margin of at most 28 pixels, got 41")).to_be_visible()
    expect(page.get_by_role("button", name="Train", exact=True)).to_be_disabled()
    page.get_by_role("button", name="Back to the preset").click()
    expect(page.get_by_role("button", name="Train", exact=True)).to_be_enabled()

    # A small training on pictures of one's own, watched until it opens in Prune.
    choose(page, "Target class", "Bag")
    expect(page.locator(".um-film-frames figcaption").first).to_contain_text("\u2192 Bag")
    settle(page)
    choose(page, "Data", "My own pictures")
    page.locator("input[type=file]").first.set_input_files(shapes)
    expect(page.get_by_text("Expected target between 0 and 3, got 8")).to_be_visible(timeout=90_000)
    settle(page)
    choose(page, "Target class", "diagonal")
    expect(page.locator(".um-film-frames figcaption").first).to_contain_text("row \u2192 diagonal")
    settle(page)
    typed(page, "Epochs", "1")
    page.wait_for_url(re.compile("epochs=1"))
    settle(page)
    typed(page, "Width", "4")
    page.wait_for_url(re.compile("width=4"))
    train = page.get_by_role("button", name="Train", exact=True)
    expect(train).to_be_enabled()
    settle(page)
    train.click()
    page.wait_for_url(re.compile("job="))
    link = page.get_by_role("link", name="Open it in Prune")
    expect(link).to_be_visible(timeout=180_000)
    expect(page.get_by_text(re.compile(r"Done: ACC .* ASR .* on the test pictures"))).to_be_visible()
    expect(page.locator(".js-plotly-plot")).to_have_count(2)
    assert page.locator("[data-testid=stException]").count() == 0
    (run,) = (home / "runs").glob("*/spec.json")
    spec = json.loads(run.read_text())
    assert spec["attack"]["name"] == "badnets"
    assert spec["attack"]["params"]["target"] == 2
    assert (spec["model"]["width"], spec["training"]["epochs"]) == (4, 1)
    link.click()
    page.wait_for_url(re.compile(r"/prune\?.*run="))
    expect(page.get_by_role("button", name="Score this model")).to_be_visible()
    assert page.get_by_role("radio", name="Defender").is_checked()
    assert "attack" not in page.url.partition("?")[2].replace("attack%2F", "")
    assert broken == []


def test_a_link_restores_two_columns_and_a_drawn_trigger_reaches_the_preview(
    app: tuple[str, Path], new_page: NewPage
) -> None:
    url, _ = app
    page = new_page(f"{url}/attack?attack=sig&preset=strong&attack2=blend&set2=alpha=0.4", width=1600)
    expect(page.locator(".um-film")).to_have_count(2, timeout=60_000)
    expect(page.locator(".um-strip")).to_have_count(2)
    assert figure(page, "PSNR") != figure(page, "PSNR", 1)
    expect(page.get_by_text("Differs from the preset small: Opacity 0.4 (not 0.2)")).to_be_visible()
    page.get_by_text("Compare two").click()
    expect(page.locator(".um-film")).to_have_count(1)
    page.wait_for_function("() => !location.search.includes('attack2')")

    page.goto(f"{url}/attack?attack=custom")
    canvas = page.locator("canvas[role=application]")
    expect(canvas).to_be_visible(timeout=60_000)
    expect(page.get_by_text("Draw a trigger on the grid, or upload one.")).to_be_visible()
    # By keyboard: right, down, paint; then by pointer.
    canvas.focus()
    for key in ("ArrowRight", "ArrowDown", " "):
        page.keyboard.press(key)
    expect(page.locator(".um-film")).to_have_count(1, timeout=20_000)
    settle(page)
    box = canvas.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.5, steps=12)
    page.mouse.up()
    page.wait_for_url(re.compile("set=picture%3DiVBOR"))
    expect(page.get_by_role("button", name="Train", exact=True)).to_be_enabled()
    alone = page.locator(".um-strip").first.inner_text()
    page.reload()
    expect(page.locator(".um-strip").first).to_have_text(re.compile(re.escape(alone.split()[1])), timeout=60_000)
    expect(page.locator(".um-film")).to_have_count(1)
