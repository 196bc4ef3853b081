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

NEXT = "Next"
#: Everything that is shown as a picture, as one string: it changes when the next one is on the page.
PICTURES = "() => [...document.images].map(image => image.src).join()"


def defend() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "engine", "defend", "demo:badnets", "--defense", "rnp", "--json"]
        started = time.perf_counter()
        subprocess.run([*command, "--out", str(Path(folder) / "run")], cwd=ROOT, check=True, capture_output=True)
        print(
            f"defend demo:badnets --defense rnp: {time.perf_counter() - started:.1f} s, start-up included", flush=True
        )


def pages() -> None:
    from tests.app.browser import chromium, server, settle

    with server(ROOT / "app" / "main.py") as url, chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        started = time.perf_counter()
        page.goto(url)
        page.get_by_role("button", name=NEXT).wait_for()
        print(f"first page: {time.perf_counter() - started:.2f} s after the server is up", flush=True)
        settle(page)
        times = []
        for _ in range(12):
            before = page.evaluate(PICTURES)
            started = time.perf_counter()
            page.get_by_role("button", name=NEXT).click()
            page.wait_for_function(f"before => ({PICTURES})() !== before", arg=before)
            times.append(1000 * (time.perf_counter() - started))
        # The first clicks of a session fill caches.
        times = times[2:]
        middle, worst = statistics.median(times), max(times)
        print(f"next picture on Home: median {middle:.0f} ms, max {worst:.0f} ms, n = {len(times)}")


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
