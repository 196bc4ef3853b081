"""The whole way in a real browser: Home, Prune, another threshold, a commitment, three downloads."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, WebSocket, expect

from engine.runs import ask
from tests.app import fake
from tests.app.browser import ROOT, server, settle
from tests.app.test_views import FORBIDDEN

pytestmark = pytest.mark.browser
NewPage = Callable[..., Page]
MAIN = ROOT / "app" / "main.py"


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The dashboard with fake demos whose ASR and RA are unmistakable."""
    root = tmp_path_factory.mktemp("loud")
    figures = fake.Figures(0.93, 0.737373, 0.262626, constant=True)
    env = fake.build(root, {"badnets": figures, "blend": figures})
    with server(MAIN, env) as url:
        yield url
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNMASK_HOME", env["UNMASK_HOME"])
        ask.stop()


def params(page: Page) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in page.url.partition("?")[2].split("&") if pair)


@pytest.mark.timeout(400)
def test_from_home_to_the_repaired_model(app: str, new_page: NewPage, tmp_path: Path) -> None:
    page = new_page(app)
    broken: list[str] = []
    page.on("pageerror", lambda error: broken.append(str(error)))
    expect(page.locator(".um-card img")).to_have_count(3)

    # Home: the trigger changes the answer, the cut changes it back.
    expect(page.locator(".um-card.wrong")).to_have_count(1)
    page.get_by_text("Cut the backdoor's neurons").click()
    settle(page)
    expect(page.locator(".um-card.wrong")).to_have_count(0)

    # Prune: a typed threshold, answered at once by the curve.
    page.get_by_role("link", name="Open Prune", exact=True).click()
    page.wait_for_url(re.compile("/prune"))
    box = page.locator(".neuron-grid .at input")
    expect(box).to_be_visible(timeout=20_000)
    settle(page)
    before = page.locator(".um-strip").inner_text()
    assert "ASR" in before
    box.fill("0.35")
    box.press("Enter")
    expect(page.locator(".um-strip")).not_to_have_text(before)
    page.wait_for_url(re.compile(r"thr=0\.35"))
    assert "thr" in params(page)

    # Undo by keyboard, while the grid has the focus.
    expect(page.get_by_role("button", name="Undo")).to_be_enabled()
    page.keyboard.press("Alt+z")
    page.wait_for_function("() => !location.search.includes('thr=0.35')")
    expect(page.get_by_role("button", name="Redo")).to_be_enabled()
    page.keyboard.press("Alt+y")
    page.wait_for_url(re.compile(r"thr=0\.35"))

    # The exact answer replaces the estimate; the page says meanwhile that it is working.
    page.get_by_role("button", name="Check exactly").click()
    expect(page.get_by_test_id("stProgress").first).to_be_visible()
    expect(page.locator(".um-chip.exact")).to_have_count(3, timeout=180_000)

    # As a defender: hidden, committed, revealed.
    page.get_by_role("radio", name="Defender").click()
    expect(page.locator(".um-cell.locked")).to_have_count(2)
    page.get_by_role("button", name="Commit and reveal").click()
    expect(page.locator(".um-cell.locked")).to_have_count(0)
    model = page.get_by_role("button", name="Repaired model")
    expect(model).to_be_visible(timeout=180_000)
    settle(page)
    with page.expect_download() as download:
        model.click()
    download.value.save_as(tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as packed:
        assert packed.testzip() is None
        assert any(name.endswith(".safetensors") for name in packed.namelist())
    with page.expect_download() as download:
        page.get_by_role("button", name="Record (JSON)").click()
    download.value.save_as(tmp_path / "record.json")
    with page.expect_download(timeout=120_000) as download:
        page.get_by_role("button", name="Report (HTML)").click()
    download.value.save_as(tmp_path / "report.html")
    report = (tmp_path / "report.html").read_text()
    assert "took attack success from" in report
    assert report.count("data:image/png;base64,") >= 8  # pictures with and without the trigger
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["role"] == "defender"
    assert record["threshold"] == pytest.approx(0.35)
    assert len(record["cut"]) == record["result"]["pruned"]
    assert record["result"]["asr_after"] is not None
    assert broken == []


def test_undo_in_the_middle_of_a_run_is_the_persons_only_step(loud: str, new_page: NewPage) -> None:
    page = new_page(f"{loud}/prune?run=demo:badnets")
    box = page.locator(".neuron-grid .at input")
    expect(box).to_be_visible(timeout=20_000)
    for typed in (f"0.{n}" for n in range(31, 39)):
        settle(page)
        box.fill(typed)
        box.press("Enter")
        # As soon as the address changes, while the script still runs and the browser holds the last run's widgets.
        page.wait_for_url(re.compile(re.escape(f"thr={typed}")))
        expect(page.get_by_role("button", name="Undo")).to_be_enabled()
        page.keyboard.press("Alt+z")
        page.wait_for_function("() => !location.search.includes('thr=')")
        expect(page.get_by_role("button", name="Undo")).to_be_disabled()


def test_a_defenders_browser_never_receives_what_is_hidden(loud: str, new_page: NewPage) -> None:
    page = new_page(f"{loud}/?run=demo:badnets&role=oracle")
    heard: list[bytes] = []

    def listen(socket: WebSocket) -> None:
        socket.on("framereceived", lambda frame: heard.append(frame if isinstance(frame, bytes) else frame.encode()))

    page.on("websocket", listen)
    for view in ("", "prune", "neurons", "layers"):
        page.goto(f"{loud}/{view}?run=demo:badnets&role=defender&score=tac&pin=demo:blend~tac")
        settle(page)
        page.wait_for_timeout(1500)
        said = page.content() + b"".join(heard).decode("utf-8", "ignore") + page.url
        assert len(heard) > 0
        for number in FORBIDDEN:
            assert number not in said, (view, number)
    # The same ears do hear it once it may be heard.
    heard.clear()
    page.goto(f"{loud}/prune?run=demo:badnets&role=oracle")
    settle(page)
    assert "73.7" in b"".join(heard).decode("utf-8", "ignore")


@pytest.mark.parametrize("view", ["", "prune", "neurons"])
def test_a_link_opens_what_it_names_and_moving_on_keeps_it(loud: str, new_page: NewPage, view: str) -> None:
    page = new_page(f"{loud}/{view}?run=demo:blend&neuron=bn1:7&role=oracle&thr=0.75&edits=bn1:3!")
    wanted = {"run": "demo:blend", "neuron": "bn1:7", "role": "oracle", "thr": "0.75", "edits": "bn1:3!"}

    def now() -> dict[str, str]:
        return {k: v.replace("%3A", ":").replace("%21", "!") for k, v in params(page).items()}

    assert now() == wanted
    page.get_by_test_id("stSidebarNav").get_by_role("link", name="Neurons" if view != "neurons" else "Prune").click()
    expect(page.locator(".neuron-grid").first).to_be_visible(timeout=20_000)
    page.wait_for_url(re.compile("neuron="))
    settle(page)
    assert now() == wanted


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 800])
def test_no_page_is_wider_than_its_window(loud: str, new_page: NewPage, dark: bool, width: int) -> None:
    page = new_page(loud, dark=dark, width=width)
    for view in ("", "learn", "open", "attack", "prune", "neurons", "layers", "runs"):
        page.goto(f"{loud}/{view}?run=demo:badnets")
        settle(page)
        over = page.evaluate(
            "() => { const m = document.querySelector('[data-testid=stMain]'); return m.scrollWidth - m.clientWidth }"
        )
        assert over <= 1, view
        assert page.locator("[data-testid=stException]").count() == 0


def test_a_whole_lesson(app: str, new_page: NewPage, tmp_path: Path) -> None:
    page = new_page(f"{app}/learn?lesson=accuracy")
    page.wait_for_url(re.compile("role=defender"))
    page.get_by_text("Accuracy does not tell.").click()
    page.get_by_role("button", name="Predict", exact=True).click()
    expect(page.get_by_text("Your answer: Accuracy does not tell.")).to_be_visible()

    # The real page in the lesson's state, and back with the prediction kept.
    page.get_by_role("link", name="Open the page").click()
    page.wait_for_url(re.compile(r"/prune\?.*lesson=accuracy"))
    expect(page.locator(".um-cell.locked")).to_have_count(2)
    term = page.locator(".um-strip .um-term").first
    assert term.evaluate("e => getComputedStyle(e, '::after').content") == "none"
    term.focus()
    assert "Clean accuracy" in term.evaluate("e => getComputedStyle(e, '::after').content")
    page.get_by_role("link", name="Back to the lesson").click()
    page.get_by_role("button", name="Look as the oracle").click()
    page.get_by_role("button", name="Show me").click()
    expect(page.locator(".um-takeaway")).to_be_visible()
    expect(page.get_by_text("1 of 7 lessons done")).to_be_visible()
    settle(page)
    page.reload()
    expect(page.get_by_text("1 of 7 lessons done")).to_be_visible()
    expect(page.get_by_text("Your answer: Accuracy does not tell.")).to_be_visible()
    settle(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="My answers (CSV)").click()
    download.value.save_as(tmp_path / "answers.csv")
    head, row = (tmp_path / "answers.csv").read_text().splitlines()
    assert head == "lesson,question,answer,right,time"
    assert row.startswith("accuracy,Clean accuracy hides it,Accuracy does not tell.,yes,")
