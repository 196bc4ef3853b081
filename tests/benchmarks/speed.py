"""How long a person waits: the defend command, the first page, and a control that needs no computation.

    python -m tests.benchmarks.speed            all three
    python -m tests.benchmarks.speed --pages    only the pages (needs a Chromium)

Times are wall-clock seconds of this machine with whatever else it is doing; the load average is printed beside them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from engine.compute import Compute
from engine.paths import ROOT


def defend() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "engine", "defend", "demo:badnets", "--defense", "rnp", "--json"]
        started = time.perf_counter()
        subprocess.run([*command, "--out", str(Path(folder) / "run")], cwd=ROOT, check=True, capture_output=True)
        print(f"defend demo:badnets --defense rnp: {time.perf_counter() - started:.1f} s, start-up included", flush=True)


def pages() -> None:
    from playwright.sync_api import sync_playwright

    from tests.app.browser import launch_options, server

    with server(ROOT / "app" / "main.py") as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(**launch_options())
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        started = time.perf_counter()
        page.goto(url)
        page.get_by_role("heading", level=1).first.wait_for()
        print(f"first page: {time.perf_counter() - started:.2f} s after the server is up", flush=True)
        button = page.get_by_role("button", name="Next")
        button.wait_for()
        times = []
        for _ in range(12):
            before = page.locator("[data-testid=stImage] img, .unmask-picture img").first.get_attribute("src")
            started = time.perf_counter()
            button.click()
            page.wait_for_function(
                "before => document.querySelector('[data-testid=stImage] img, .unmask-picture img')?.src !== before",
                arg=before,
            )
            times.append(time.perf_counter() - started)
        times = times[2:]
        print(f"next picture on Home: median {1000 * statistics.median(times):.0f} ms, max {1000 * max(times):.0f} ms, n = {len(times)}")
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", action="store_true")
    args = parser.parse_args()
    print(f"# {Compute().describe()}, load average {os.getloadavg()[0]:.1f}")
    pages()
    if not args.pages:
        defend()


if __name__ == "__main__":
    main()
