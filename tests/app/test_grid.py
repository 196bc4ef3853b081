"""The neuron grid: its bookkeeping in plain Python, everything a person does in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from app import data, readings
from app.grid import Ledger, _curve, _normalise, _pack
from tests.app.browser import ROOT, frames_sent, server, settle

SIZES = {"a": 3, "b": 2}


def ledger(threshold: float | None = 0.5) -> Ledger:
    return Ledger(passed=_normalise(threshold, None, {}, SIZES), sizes=SIZES)


def report(number: int, **changes: Any) -> dict[str, Any]:
    return {"id": f"x-{number}", "origin": "threshold", "threshold": 0.5, "selected": None, "edits": {}} | changes


def give(book: Ledger, **changes: Any) -> None:
    book.merge({"threshold": 0.5, "selected": None, "edits": {}} | changes)


# --- who is right ------------------------------------------------------------------------------------------------


def test_a_report_holds_and_its_echo_is_no_news() -> None:
    book = ledger()
    assert book.receive(report(1, threshold=0.7))
    give(book)  # the page has not taken it over yet
    assert book.current["threshold"] == 0.7
    give(book, threshold=0.7)
    assert book.revision["threshold"] == 0


def test_python_wins_when_it_passes_something_new() -> None:
    book = ledger()
    book.receive(report(1, threshold=0.7))
    give(book, threshold=0.7)
    give(book, threshold=0.5)  # undo
    assert book.current["threshold"] == 0.5
    assert book.revision == {"threshold": 1, "selected": 0, "edits": 0, "group": 0}


def test_a_late_echo_does_not_pull_back_a_hand_that_moved_on() -> None:
    book = ledger()
    book.receive(report(1, threshold=0.7))
    book.receive(report(2, threshold=0.8))
    give(book, threshold=0.7)  # the page is one report behind
    assert book.current["threshold"] == 0.8
    give(book, threshold=0.8)
    assert book.revision["threshold"] == 0
    give(book, threshold=0.7)  # now it means it
    assert (book.current["threshold"], book.revision["threshold"]) == (0.7, 1)


def test_a_constant_never_pulls_back() -> None:
    book = ledger()
    book.receive(report(1, threshold=0.7, selected="b:1", edits={"a:0": "cut"}))
    for _ in range(3):
        give(book)
    event = book.event()
    assert (event.threshold, event.selected, event.edits) == (0.7, "b:1", {"a:0": "cut"})


def test_old_and_malformed_reports_are_ignored() -> None:
    book = ledger()
    assert book.receive(report(1, threshold=0.7))
    assert not book.receive(report(1, threshold=0.9))
    assert not book.receive("x")
    assert not book.receive(report(2, origin="else"))
    assert not book.receive(report(3, threshold="0.9"))
    assert not book.receive(report(4, edits=None))
    assert book.current["threshold"] == 0.7


def test_a_report_about_unknown_units_leaves_them_out() -> None:
    book = ledger()
    edits = {"a:2": "spare", "a:3": "cut", "c:0": "cut", "a:1": "burn"}
    book.receive(report(1, selected="b:2", edits=edits, group=["a:1", "a:9", 3]))
    assert book.current["selected"] is None
    assert book.current["group"] == ("a:1",)
    assert book.current["edits"] == {"a:2": "spare"}


# --- what goes in ------------------------------------------------------------------------------------------------


def test_values_travel_as_float32() -> None:
    layers = [{"name": "a", "size": 2000, "offset": 0}, {"name": "b", "size": 400, "offset": 2000}]
    packed, bands = _pack(np.zeros(2400), layers)
    assert len(packed) == 2400 * 4 * 4 // 3
    assert bands == layers


@pytest.mark.parametrize(
    ("values", "layers", "message"),
    [
        (np.zeros((2, 2)), [{"name": "a", "size": 4, "offset": 0}], r"shape \[U\]"),
        (np.zeros(4), [{"name": "a", "size": 3, "offset": 0}], "3 units, got 4"),
        (np.zeros(4), [{"name": "a", "size": 2, "offset": 0}, {"name": "b", "size": 2, "offset": 3}], "start at 2"),
    ],
)
def test_shapes_must_fit(values: np.ndarray, layers: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _pack(values, layers)


def test_settings_are_normalised_or_refused() -> None:
    assert _normalise(np.float32(0.5), "b:1", {"a:0": "cut"}, SIZES) == {
        "threshold": 0.5,
        "selected": "b:1",
        "edits": {"a:0": "cut"},
        "group": (),
    }
    assert _normalise(None, None, {}, SIZES, ["b:1", "gone:0"])["group"] == ("b:1",)
    assert _normalise(float("inf"), "gone:1", {}, SIZES)["threshold"] is None
    assert _normalise(None, "gone:1", {}, SIZES)["selected"] is None
    with pytest.raises(ValueError, match="NaN"):
        _normalise(float("nan"), None, {}, SIZES)
    for bad in ({"a:0": "burn"}, {"a:7": "cut"}, {"a": "cut"}):
        with pytest.raises(ValueError, match="expected edits"):
            _normalise(None, None, bad, SIZES)


def test_a_figure_that_a_point_lacks_is_no_part_of_the_curve() -> None:
    points = [{"pruned": 0, "acc": 0.9, "asr": 1.0}, {"pruned": 5, "acc": 0.8}]
    assert _curve(points) == {"pruned": [0, 5], "acc": [0.9, 0.8], "asr": None, "ra": None}
    assert "1.0" not in json.dumps(_curve(points))


# --- in the browser ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with server(ROOT / "tests/app/pages/grid_page.py") as address:
        yield address


class Grid:
    """A page with one grid, and the hands to use it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.root = page.locator(".neuron-grid")
        self.total = page.locator(".neuron-grid .total strong")
        self.box = page.locator(".neuron-grid .at input")
        self.cells = page.locator(".neuron-grid .cells")
        self.speech = page.locator(".neuron-grid .speech")
        expect(self.total).to_contain_text("units")
        page.wait_for_timeout(150)  # the fonts: a second layout follows them

    def state(self) -> dict[str, Any]:
        settle(self.page)
        return dict(json.loads(self.page.get_by_test_id("stText").inner_text()))

    def wait_for(self, **expected: Any) -> dict[str, Any]:
        for _ in range(100):
            state = self.state()
            if all(state[name] == value for name, value in expected.items()):
                break
            self.page.wait_for_timeout(50)
        assert {name: state[name] for name in expected} == expected
        assert self.errors == []
        return state

    def tell(self, script: str, *args: Any) -> Any:
        return self.root.evaluate(f"(root, args) => {{ const grid = root.neuronGrid; {script} }}", list(args))

    def cut_by_scores(self, threshold: float) -> int:
        return int(self.tell("return grid.values.filter(v => v >= Math.fround(args[0])).length", threshold))

    def spot(self, unit: str) -> tuple[float, float]:
        """The middle of a cell, on the page."""
        x, y = self.tell(
            "const r = grid.rectOf(grid.ids.indexOf(args[0])), c = grid.el.cells.getBoundingClientRect();"
            "return [c.x + r.x + r.w / 2, c.y + r.y + r.h / 2];",
            unit,
        )
        return x, y

    def pixel(self, unit: str, dx: float = 0.0, dy: float = 0.0) -> list[int]:
        return list(
            self.tell(
                "const r = grid.rectOf(grid.ids.indexOf(args[0])), k = grid.ratio;"
                "return [...grid.el.cells.getContext('2d').getImageData("
                "(r.x + r.w / 2 + args[1]) * k, (r.y + r.h / 2 + args[2]) * k, 1, 1).data];",
                unit,
                dx,
                dy,
            )
        )

    def line(self, threshold: float) -> tuple[float, float]:
        """Where on the page the threshold line stands for this value."""
        x, y = self.tell(
            "const c = grid.el.axis.getBoundingClientRect(), p = grid.plot;"
            "return [c.x + grid.toX(args[0]), c.y + (p.top + p.base) / 2];",
            threshold,
        )
        return x, y


@pytest.fixture
def open_grid(new_page: Callable[..., Page], url: str) -> Callable[..., Grid]:
    return lambda query="", **options: Grid(new_page(f"{url}/{query}", **options))


@pytest.mark.browser
def test_dragging_repaints_here_and_reports_once(new_page: Callable[..., Page], url: str) -> None:
    page = new_page("about:blank", wait=False)
    sent = frames_sent(page)
    page.goto(f"{url}/?curve=1")
    grid = Grid(page)
    assert sent, "the ears hear"
    page.wait_for_timeout(400)
    sent.clear()
    runs = grid.state()["runs"]
    grid.page.on("request", lambda request: sent.append(request.url))
    hot = next(
        unit for unit in grid.tell("return grid.ids.filter((_, i) => grid.values[i] > 0.6 && grid.values[i] < 0.7)")
    )
    before = grid.pixel(hot)
    mouse = grid.page.mouse
    mouse.move(*grid.line(0.5))
    mouse.down()
    seen, predicted = set(), set()
    for threshold in np.linspace(0.5, 0.75, 12):
        mouse.move(*grid.line(float(threshold)))
        grid.page.wait_for_timeout(30)
        seen.add(grid.total.inner_text())
        predicted.add(grid.page.locator(".neuron-grid .predicted").inner_text())
    assert len(seen) > 5, "the total follows the line"
    assert len(predicted) > 5, "and so does what the curve says"
    counts = grid.page.locator(".neuron-grid .count").all_inner_texts()
    total = sum(int(count.split(" / ")[0]) for count in counts)
    threshold = float(grid.box.input_value())
    assert threshold == pytest.approx(0.75, abs=0.005)
    assert total == grid.cut_by_scores(threshold)
    expect(grid.total).to_have_text(f"{total} of 2,400 units cut")
    assert grid.pixel(hot) != before, "a cell that came back shows its colour again"
    assert grid.state()["runs"] == runs
    assert sent == []
    mouse.up()
    state = grid.wait_for(runs=runs + 1, threshold=threshold, log=["threshold"])
    assert state["origin"] == "threshold"
    grid.page.wait_for_timeout(300)
    assert grid.state()["runs"] == runs + 1
    asr = max(0.0, 1 - grid.cut_by_scores(threshold) / 200)
    expect(grid.page.locator(".neuron-grid .predicted .asr")).to_have_text(f"ASR \u2248 {100 * asr:.1f}\u202f%")


@pytest.mark.browser
def test_the_curve_is_interpolated_as_the_page_does_it(open_grid: Callable[..., Grid]) -> None:
    grid = open_grid("?curve=1")
    points = [{"pruned": n, "acc": 0.93 - n / 10_000, "asr": max(0.0, 1.0 - n / 200)} for n in (0, 50, 100, 200, 400)]
    for count in (0, 1, 50, 75, 199, 400):
        here = dict(grid.tell("return grid.predicted(args[0])", count))
        there = readings.interpolate(points, count)
        assert here["acc"] == pytest.approx(there["acc"])
        assert here["asr"] == pytest.approx(there["asr"])
        assert "ra" not in here
    plain = open_grid()
    expect(plain.page.locator(".neuron-grid .predicted")).to_be_hidden()


@pytest.mark.browser
def test_a_box_chooses_several_enter_cuts_them_shift_enter_spares_them(open_grid: Callable[..., Grid]) -> None:
    grid = open_grid()
    x0, y0 = grid.spot("layer4.1.bn2:0")
    x1, y1 = grid.spot("layer4.1.bn2:70")
    mouse, keys = grid.page.mouse, grid.page.keyboard
    mouse.move(x0, y0)
    mouse.down()
    for share in (0.2, 0.6, 1):
        mouse.move(x0 + (x1 - x0) * share, y0 + (y1 - y0) * share)
    assert grid.state()["log"] == []
    mouse.up()
    columns = grid.tell("return grid.columns")
    chosen = [k for k in range(256) if k // columns <= 70 // columns and k % columns <= 70 % columns]
    group = [f"layer4.1.bn2:{k}" for k in chosen]
    state = grid.wait_for(group=group, log=["group"])
    best = grid.tell("return grid.ids[grid.most([...grid.group])]")
    assert state["selected"] == best
    grid.cells.focus()
    keys.press("Enter")
    grid.wait_for(edits=dict.fromkeys(group, "cut"), log=["group", "edit"])
    keys.press("Shift+Enter")
    grid.wait_for(edits=dict.fromkeys(group, "spare"))
    expect(grid.speech).to_have_text(f"{len(group)} units spared by hand")
    keys.press("Delete")
    grid.wait_for(edits={})
    keys.press("Escape")
    grid.wait_for(group=[], selected=best)


@pytest.mark.browser
def test_shift_with_arrows_chooses_several(open_grid: Callable[..., Grid]) -> None:
    grid = open_grid("?neuron=bn1:3")
    grid.cells.focus()
    for _ in range(2):
        grid.page.keyboard.press("Shift+ArrowRight")
    grid.wait_for(group=["bn1:3", "bn1:4", "bn1:5"], log=["group"])
    expect(grid.speech).to_contain_text("3 units chosen")
    grid.page.keyboard.press("ArrowRight")
    grid.wait_for(group=[], selected="bn1:3")


@pytest.mark.browser
def test_a_click_on_the_line_alone_reports_nothing_and_a_mark_snaps(open_grid: Callable[..., Grid]) -> None:
    grid = open_grid()
    x, y = grid.line(0.5)
    grid.page.mouse.click(x + 3, y)
    grid.page.wait_for_timeout(300)
    assert grid.state()["log"] == []
    x, y = grid.line(0.8)
    grid.page.mouse.click(x + 2, y)
    grid.wait_for(threshold=0.8, log=["threshold"])


@pytest.mark.browser
def test_a_click_selects_and_a_second_lets_go(open_grid: Callable[..., Grid]) -> None:
    grid = open_grid()
    grid.page.mouse.move(*grid.spot("layer4.0.bn2:100"))
    tip = grid.page.locator(".neuron-grid .tip")
    expect(tip).to_be_visible()
    expect(tip).to_contain_text("layer4.0.bn2:100")
    assert grid.state()["runs"] == 1, "hovering is nobody's business"
    grid.page.mouse.click(*grid.spot("layer4.0.bn2:100"))
    grid.wait_for(selected="layer4.0.bn2:100", log=["select"])
    grid.page.mouse.click(*grid.spot("layer4.0.bn2:100"))
    grid.wait_for(selected=None, log=["select", "select"])


@pytest.mark.browser
def test_arrows_move_space_selects_enter_and_x_edit(open_grid: Callable[..., Grid]) -> None:
    grid = open_grid()
    grid.box.focus()
    keys = grid.page.keyboard
    keys.press("Tab")
    expect(grid.cells).to_be_focused()
    expect(grid.speech).to_contain_text("bn1:0")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        keys.press(key)
    expect(grid.speech).to_contain_text("layer1.0.bn1:2, 1 \u2212 RNP mask")
    expect(grid.speech).to_contain_text(", kept")
    assert grid.state()["runs"] == 1
    keys.press(" ")
    grid.wait_for(selected="layer1.0.bn1:2", log=["select"])
    keys.press("Enter")
    grid.wait_for(edits={"layer1.0.bn1:2": "cut"}, log=["select", "edit"])
    expect(grid.speech).to_contain_text("cut by hand")
    expect(grid.page.locator(".neuron-grid .detail")).to_have_text("1 by hand")
    expect(grid.cells).to_be_focused()
    keys.press("x")
    grid.wait_for(edits={})
    hot = grid.tell("return grid.ids[grid.values.findIndex(v => v > 0.6)]")
    grid.page.keyboard.down("Shift")
    grid.page.mouse.click(*grid.spot(hot))
    grid.page.keyboard.up("Shift")
    grid.wait_for(edits={hot: "spare"})
    expect(grid.total).to_have_text(f"{grid.cut_by_scores(0.5) - 1} of 2,400 units cut")
    keys.press("Escape")
    grid.wait_for(selected=None)


@pytest.mark.browser
def test_every_cell_is_within_reach_of_the_arrows(open_grid: Callable[..., Grid]) -> None:
    grid = open_grid()
    grid.cells.focus()
    grid.page.keyboard.press("PageDown")
    for _ in range(60):
        grid.page.keyboard.press("ArrowDown")
    expect(grid.speech).to_contain_text("layer4.1.bn2:192")
    grid.page.keyboard.press("End")
    expect(grid.speech).to_contain_text("layer4.1.bn2:255")
    for _ in range(60):
        grid.page.keyboard.press("ArrowUp")
    expect(grid.speech).to_contain_text("bn1:31")


@pytest.mark.browser
def test_number_box(open_grid: Callable[..., Grid]) -> None:
    grid = open_grid()
    grid.box.fill("0.25")
    expect(grid.total).to_have_text(f"{grid.cut_by_scores(0.25)} of 2,400 units cut")
    assert grid.state()["runs"] == 1
    grid.box.press("Enter")
    grid.wait_for(threshold=0.25, log=["threshold"])
    for _ in range(3):
        grid.box.press("ArrowUp")
    grid.wait_for(threshold=0.253, log=["threshold"] * 2)  # three presses, one report
    grid.box.fill("0.3")
    grid.cells.focus()
    grid.wait_for(threshold=0.3, log=["threshold"] * 3)
    grid.box.fill("")
    grid.box.press("Enter")
    grid.wait_for(threshold=None)
    expect(grid.total).to_have_text("0 of 2,400 units cut")


@pytest.mark.browser
@pytest.mark.parametrize("query", ["", "?uncontrolled"])
def test_python_sets_the_threshold(open_grid: Callable[..., Grid], query: str) -> None:
    grid = open_grid(query)
    grid.box.fill("0.25")
    grid.box.press("Enter")
    grid.wait_for(threshold=0.25)
    grid.page.get_by_role("button", name="Set 0.9").click()
    grid.wait_for(threshold=0.9)
    expect(grid.box).to_have_value("0.900")
    expect(grid.total).to_have_text(f"{grid.cut_by_scores(0.9)} of 2,400 units cut")
    runs = grid.state()["runs"]
    grid.page.wait_for_timeout(300)
    assert grid.state()["runs"] == runs, "taking Python's value reports nothing"
    grid.box.fill("0.4")
    grid.box.press("Enter")
    state = grid.wait_for(threshold=0.4)
    assert state["origin"] == "threshold"


@pytest.mark.browser
def test_a_link_opens_threshold_edits_and_selection(open_grid: Callable[..., Grid]) -> None:
    grid = open_grid('?thr=0.7&neuron=layer4.1.bn2:87&edits={"bn1:3":"cut"}')
    grid.wait_for(threshold=0.7, selected="layer4.1.bn2:87", edits={"bn1:3": "cut"}, log=[])
    expect(grid.total).to_have_text(f"{grid.cut_by_scores(0.7) + 1} of 2,400 units cut")


@pytest.mark.browser
def test_units_without_a_score_are_never_cut(open_grid: Callable[..., Grid]) -> None:
    grid = open_grid("?nan=1&thr=-1")
    expect(grid.total).to_have_text("2,384 of 2,400 units cut")
    expect(grid.page.locator(".neuron-grid .legend .none")).to_be_visible()
    assert grid.pixel("bn1:0")[3] == 0, "an empty cell"
    grid.cells.focus()
    grid.page.keyboard.press("Home")
    grid.page.keyboard.press("x")
    expect(grid.speech).to_contain_text("bn1:0, no score, not eligible, never cut")
    assert grid.state()["log"] == []


@pytest.mark.browser
def test_cut_cells_lose_their_hue(open_grid: Callable[..., Grid]) -> None:
    grid = open_grid()
    hot = grid.tell("return grid.ids[grid.values.findIndex(v => v > 0.9)]")
    spots = [(dx, dy) for dx in (-3, 0, 3) for dy in (-2, 0, 2)]
    painted = {tuple(grid.pixel(hot, *spot)) for spot in spots}
    assert len(painted) > 1, "hatched"
    assert all(max(p[:3]) - min(p[:3]) < 24 for p in painted), "desaturated"
    grid.page.get_by_role("button", name="Set 0.9").click()
    grid.wait_for(threshold=0.9)
    kept = grid.tell("return grid.ids[grid.values.findIndex(v => v > 0.8 && v < 0.89)]")
    red, _, blue, _ = grid.pixel(kept)
    assert red - blue > 60, "a kept suspicious cell is yellow"


@pytest.mark.browser
def test_dark_theme_repaints_in_place(open_grid: Callable[..., Grid]) -> None:
    grid = open_grid()
    light = grid.tell("return [grid.ink, grid.paper]")
    grid.page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    grid.page.wait_for_function(
        "paper => document.querySelector('[data-testid=stBidiComponentIsolated]').shadowRoot"
        ".querySelector('.neuron-grid').neuronGrid.paper !== paper",
        arg=light[1],
    )
    assert grid.tell("return grid.paper") == "rgb(18 22 28)"
    dark = open_grid(dark=True)
    assert dark.tell("return [grid.ink, grid.paper]") == grid.tell("return [grid.ink, grid.paper]")


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scale"), [(480, 1), (1280, 2), (1920, 1.5)])
def test_any_width_and_any_screen(open_grid: Callable[..., Grid], width: int, scale: float) -> None:
    grid = open_grid(width=width, scale=scale)
    cell, canvas, shown, across = grid.tell(
        "const c = grid.el.cells; return [Math.min(grid.cellWidth, grid.cellHeight), c.width, c.clientWidth,"
        " grid.root.scrollWidth <= grid.root.clientWidth];"
    )
    assert cell >= 8
    assert canvas == pytest.approx(shown * scale, abs=1)
    assert across, "nothing sticks out sideways"
    assert grid.root.evaluate("root => root.offsetHeight") == 700


@pytest.mark.browser
def test_histogram_and_threshold_can_be_left_out(open_grid: Callable[..., Grid]) -> None:
    grid = open_grid("?histogram=0&threshold=0")
    expect(grid.box).to_be_hidden()
    grid.page.mouse.click(*grid.line(0.2))
    grid.page.wait_for_timeout(300)
    assert grid.wait_for(threshold=0.5)["log"] == []


@pytest.mark.browser
def test_the_find_box_looks_here_and_enter_alone_tells_the_server(new_page: Callable[..., Page], url: str) -> None:
    page = new_page("about:blank", wait=False)
    sent = frames_sent(page)
    page.goto(url)
    grid = Grid(page)
    page.wait_for_timeout(400)
    grid.cells.focus()
    sent.clear()
    page.keyboard.press("/")
    box = page.get_by_label("Find a unit")
    expect(box).to_be_focused()
    page.keyboard.type("layer4.1:8")
    expect(page.locator(".neuron-grid .tip")).to_contain_text("layer4.1.bn2:8")
    expect(grid.speech).to_contain_text("layer4.1.bn2:8, ")
    page.keyboard.type("7")
    expect(grid.speech).to_contain_text("layer4.1.bn2:87, ")
    assert sent == [], "looking is nobody's business"
    page.keyboard.press("Enter")
    grid.wait_for(selected="layer4.1.bn2:87", log=["select"])
    expect(grid.speech).to_contain_text("layer4.1.bn2:87, ")
    page.keyboard.press("Enter")  # the same again does not let go of it
    page.wait_for_timeout(300)
    assert grid.wait_for(selected="layer4.1.bn2:87")["log"] == ["select"]

    box.fill("layer9:<b>1")
    refusal = page.locator(".neuron-grid .refusal")
    expect(refusal).to_be_hidden()
    box.press("Enter")
    expect(refusal).to_have_text("No unit layer9:<b>1: try layer4.1.bn2:255, or a number from 0 to 2,399.")
    expect(grid.speech).to_contain_text("No unit layer9")
    box.press("Escape")
    expect(refusal).to_be_hidden()
    expect(box).to_have_value("")
    box.press("Escape")
    expect(grid.cells).to_be_focused()
    assert grid.wait_for(selected="layer4.1.bn2:87")["log"] == ["select"]


@pytest.mark.browser
def test_the_find_box_knows_what_the_pages_know(open_grid: Callable[..., Grid]) -> None:
    grid = open_grid()
    layers = grid.tell("return grid.data.layers")
    for typed in ("layer4.1.bn2:87", "layer4.1:87", "l4.1 87", "L3.0.bn1 5", "2,399", "bn1:7"):
        assert grid.tell("return grid.ids[grid.match(args[0])]", typed) == data.find_unit(layers, typed)
    for typed in ("layer4.1.bn2:256", "layer9:1", "bn1:-1", "2400", ""):
        assert grid.tell("return grid.match(args[0])", typed) == -1
    # The beginning of an id is enough.
    begun = {"layer3": "layer3.0.bn1:0", "layer4.1.bn2:": "layer4.1.bn2:0", "l2.1": "layer2.1.bn1:0"}
    for typed, unit in begun.items():
        assert grid.tell("return grid.ids[grid.match(args[0])]", typed) == unit
