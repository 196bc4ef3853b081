"""How long a person waits in the explorer, and how much the server sends, in a headless Chromium.

    python -m tests.benchmarks.explorer                 everything, 8 times each; aims stand beside the figures
    python -m tests.benchmarks.explorer --repeat 3 --parts release card attribution bytes

*Release*: from letting the threshold go on Prune until nothing on the page changes any more. *Card*: from Enter in the
grid's find box on Neurons until the card of that unit is complete, for one that this session has seen and for new ones,
with the worker warm. *Attribution*: from the choice of a method until its pictures are there, of the suspect alone and
of all four states; unlearning, once for a suspect, is a line of its own. *Bytes*: what the WebSocket brings when a page
is opened and when its script runs again, and whether a chart or picture there has no alternative text. Stamps are taken
in the page. Times are of this machine with whatever else it is doing. The exit code is 1 if a page sends more than 1 MB
or a chart has no text.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable

import numpy as np
from playwright.sync_api import Page

from engine.compute import Compute
from engine.explain.methods import METHODS
from engine.paths import ROOT
from engine.runs import ask
from tests.app.browser import chromium, opener, server, settle
from tests.benchmarks.load import DEMO, say, scores, spread

PAGES = (
    "", "learn", "open", "attack", "prune", "neurons", "layers", "picture", "compare", "questions", "runs",
)  # fmt: skip
MOST = 1_000_000
#: Until a page has not changed for so long, it may still be about to.
QUIET = 800
PATIENCE = 300_000
#: Notes when a hand did something, and when the page last changed.
WATCH = """() => {
  const main = document.querySelector('[data-testid=stMain]');
  if (window.watched === main) return;
  window.watched = main;
  const done = name => addEventListener(name, () => { window.began = performance.now(); window.changed = 0 }, true);
  ['pointerup', 'keydown'].forEach(done);
  new MutationObserver(() => { window.changed = performance.now() })
    .observe(main, { subtree: true, childList: true, characterData: true, attributes: true });
}"""
QUIET_NOW = f"() => window.changed > window.began && performance.now() - window.changed > {QUIET}"
RUNS = "document.querySelector('[data-testid=stApp]').dataset.testScriptState !== 'notRunning'"
#: The card of unit [0] with both its pictures and both its maps.
CARD = f"""unit => {{
  const card = document.querySelector('.st-key-card');
  const shown = card?.querySelector('.um-unit')?.textContent === unit
    && card.querySelectorAll('.um-pairs:not(.um-states) img').length === 4 && !card.querySelector('.um-blank')
    && card.querySelector('.st-key-responses .js-plotly-plot') && !({RUNS});
  if (shown) window.ended = performance.now();
  return shown;
}}"""
#: As many attributed pictures as wanted, by the method that is chosen.
MAPS = f"""([title, many]) => {{
  const all = [...document.querySelectorAll('.st-key-attributed .um-states img')];
  const shown = all.length === many && all.every(i => i.alt.startsWith(title))
    && !document.querySelector('.st-key-attributed [role=progressbar]') && !({RUNS});
  if (shown) window.ended = performance.now();
  return shown;
}}"""
#: Charts, pictures and canvases that say nothing to who cannot see them.
MUTE = """() => [
  ...[...document.querySelectorAll('[data-testid=stPlotlyChart]')]
    .filter(c => !c.closest('[aria-label]') && !c.querySelector('[aria-label], [alt]')).map(() => 'a chart'),
  ...[...document.images].filter(i => !i.hasAttribute('alt')).map(() => 'a picture'),
  ...[...document.querySelectorAll('[data-testid=stBidiComponentIsolated]')]
    .flatMap(c => [...(c.shadowRoot?.querySelectorAll('canvas') ?? [])])
    .filter(c => !c.closest('[aria-hidden=true]') && !c.ariaLabel).map(() => 'a canvas'),
]"""


def release(page: Page, url: str, repeat: int) -> list[float]:
    page.goto(f"{url}/prune?run={DEMO}&role=oracle")
    page.locator(".neuron-grid .count").first.wait_for()
    settle(page)
    page.wait_for_timeout(2000)
    grid = page.locator(".neuron-grid").evaluate_handle("root => root.neuronGrid")
    page.evaluate(WATCH)
    found = []
    for threshold in np.linspace(0.35, 0.65, repeat + 2):  # the first two fill caches
        spot = (
            "(grid, value) => { const c = grid.el.axis.getBoundingClientRect(), p = grid.plot;"
            " return [c.x + grid.toX(value ?? grid.threshold), c.y + (p.top + p.base) / 2] }"
        )
        page.mouse.move(*grid.evaluate(spot, None))
        page.mouse.down()
        page.mouse.move(*grid.evaluate(spot, float(threshold)), steps=4)
        page.mouse.up()
        page.wait_for_function(QUIET_NOW, timeout=PATIENCE)
        found.append(page.evaluate("() => (window.changed - window.began) / 1000"))
    return found[2:]


def card(page: Page, url: str, repeat: int) -> dict[str, list[float]]:
    """The card of new units, then of the same ones again."""
    page.goto(f"{url}/neurons?run={DEMO}&role=oracle")
    box = page.get_by_label("Find a unit")
    box.wait_for(timeout=PATIENCE)
    ids = page.locator(".neuron-grid").evaluate("root => root.neuronGrid.ids")
    order = np.argsort(-np.nan_to_num(scores(), nan=-1.0))[: repeat + 1]
    page.wait_for_function(CARD, arg=ids[order[0]], timeout=PATIENCE)

    def show(unit: str) -> float:
        page.evaluate(WATCH)
        box.fill(unit)
        box.press("Enter")
        page.wait_for_function(CARD, arg=unit, timeout=PATIENCE, polling="raf")
        took = page.evaluate("() => (window.ended - window.began) / 1000")
        page.wait_for_timeout(400)
        return float(took)

    new = [ids[k] for k in order[1:]]
    return {"card, new unit": [show(unit) for unit in new], "card, seen before": [show(unit) for unit in new]}


def attribution(page: Page, url: str, repeat: int) -> dict[str, list[float]]:
    """Each method on new units and pictures, then all four states."""
    found: dict[str, list[float]] = {}
    order = np.argsort(-np.nan_to_num(scores(), nan=-1.0))
    for turn in range(2 * repeat):
        every = turn % 2 == 1
        page.goto(f"{url}/neurons?run={DEMO}&role=oracle&picture={turn}")
        unit = page.locator(".neuron-grid").evaluate("(root, k) => root.neuronGrid.ids[k]", int(order[turn]))
        page.goto(f"{url}/neurons?run={DEMO}&role=oracle&picture={turn}&neuron={unit}")
        page.wait_for_function(CARD, arg=unit, timeout=PATIENCE)
        if every:
            _choose(page, "Unit: gradient", 2)
            page.evaluate(WATCH)
            page.get_by_role("radio", name="All", exact=True).click()
            page.wait_for_function(MAPS, arg=["Unit: gradient,", 8], timeout=PATIENCE, polling="raf")
            if turn == 1:
                found["unlearning, once"] = [page.evaluate("() => (window.ended - window.began) / 1000")]
        for title in METHODS.values():
            if every and title == "Unit: gradient":
                continue
            took = _choose(page, title, 8 if every else 2)
            found.setdefault(f"{title}, {'four states' if every else 'suspect'}", []).append(took)
    return found


def _choose(page: Page, title: str, many: int) -> float:
    page.evaluate(WATCH)
    page.get_by_role("combobox", name="Which pixels drive it?").click()
    page.get_by_role("option", name=title, exact=True).click()
    page.wait_for_function(MAPS, arg=[f"{title},", many], timeout=PATIENCE, polling="raf")
    return float(page.evaluate("() => (window.ended - window.began) / 1000"))


def weigh(open_page: Callable[..., Page], url: str) -> int:
    """Bytes of each page and what has no text there; how much of it is wrong."""
    wrong = 0
    for name in PAGES:
        page, heard = open_page("about:blank", wait=False), [0]

        def listen(payload: str | bytes, heard: list[int] = heard) -> None:
            heard[0] += len(payload)

        page.on("websocket", lambda socket, listen=listen: socket.on("framereceived", listen))
        page.goto(f"{url}/{name}?run={DEMO}&role=oracle")
        settle(page)
        page.wait_for_timeout(6000)
        first, heard[0] = heard[0], 0
        page.locator("h1").first.click()
        page.keyboard.press("r")  # Streamlit's own key: run the script again
        page.wait_for_timeout(1500)
        settle(page)
        mute = page.evaluate(MUTE)
        charts = page.locator("[data-testid=stPlotlyChart]").count()
        over = " TOO MUCH" if max(first, heard[0]) > MOST else ""
        say(
            f"{name or 'home':<10} opened {first / 1000:7.1f} kB, run again {heard[0] / 1000:7.1f} kB{over}; "
            f"{charts} charts, without text: {', '.join(mute) or 'none'}"
        )
        wrong += bool(over) + len(mute)
        page.context.close()
    return wrong


def told(what: str, seconds: list[float], aim: float | None) -> None:
    missed = aim is not None and float(np.median(seconds)) > aim
    goal = "" if aim is None else f"; aim {1000 * aim:.0f} ms{', MISSED' if missed else ''}"
    say(f"{what:<52} {spread(seconds)}{goal}")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("release", "card", "attribution", "bytes")
    parser.add_argument("--repeat", type=int, default=8)
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    options = parser.parse_args(arguments)
    say(f"# {Compute().describe()}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    wrong = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        os.environ["UNMASK_HOME"] = home
        try:
            with server(ROOT / "app" / "main.py", {"UNMASK_HOME": home}) as url, chromium() as browser:
                pages = opener(browser)
                open_page = next(pages)
                if "release" in options.parts:
                    found = release(open_page("about:blank", wait=False), url, options.repeat)
                    told("release to all panels", found, 0.3)
                if "card" in options.parts:
                    for what, found in card(open_page("about:blank", wait=False), url, options.repeat).items():
                        told(what, found, 0.5 if "seen" in what else 1.5)
                if "attribution" in options.parts:
                    page = open_page("about:blank", wait=False, height=1600)
                    for what, found in attribution(page, url, max(1, options.repeat // 2)).items():
                        told(what, found, None if "once" in what else 3.0)
                if "bytes" in options.parts:
                    wrong += weigh(open_page, url)
                next(pages, None)
        finally:
            ask.stop()
    say(f"# load average {os.getloadavg()[0]:.1f} at the end")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
