"""How long a person waits: the defend command, the first page, a control that needs no computation, and what-ifs.

    python -m tests.benchmarks.speed             all of them
    python -m tests.benchmarks.speed --pages     only the pages (needs a Chromium)
    python -m tests.benchmarks.speed --what-if   only cuts that the worker is asked about

Times are wall-clock seconds of this machine with whatever else it is doing; the load average is printed beside them.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from engine.compute import Compute
from engine.paths import ROOT
from engine.runs import ask

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


# --- what-ifs --------------------------------------------------------------------------------------------------------

DEMO = "demo:badnets"
#: Cuts that are asked about, and the units of each.
CUTS, UNITS = 3, 40


def answered(question: dict[str, Any]) -> tuple[float, float, int]:
    """Seconds until the first figures, until the exact ones, and of how many pictures the first were.

    Raises:
        RuntimeError: for a question that fails.
    """
    started, first, n = time.perf_counter(), 0.0, 0
    ask.ask(question, "speed")
    while True:
        answer = ask.poll("speed", question["kind"])
        if answer is not None and answer.error:
            raise RuntimeError(answer.error)
        if answer is not None and answer.value is not None and not first:
            first = time.perf_counter() - started
            counted = answer.value.get("acc") or {}
            n = counted.get("n") or sum(map(sum, answer.value["clean"]["after"]))
        if answer is not None and answer.final:
            return first, time.perf_counter() - started, n
        time.sleep(0.02)


def what_if() -> None:
    """Cuts of random units: anywhere, and in the second half of the network, whose first half is known by then."""
    chance = random.Random(0)
    total = ask_units()

    def cut(low: int) -> list[int]:
        return sorted(chance.sample(range(low, total), UNITS))

    def spread(seconds: list[float]) -> str:
        return f"median {statistics.median(seconds):.2f} s, max {max(seconds):.2f} s"

    with tempfile.TemporaryDirectory() as home:
        os.environ["UNMASK_HOME"] = home
        try:
            started = time.perf_counter()
            ask.ask({"kind": "choices"}, "speed")
            while (answer := ask.poll("speed", "choices")) is None or not answer.final:
                time.sleep(0.01)
            print(f"the worker starts and loads the engine: {time.perf_counter() - started:.1f} s", flush=True)
            first, exact, n = answered({"kind": "check", "suspect": DEMO, "cut": cut(0), "mode": "scale"})
            print(f"{DEMO}, cold: first figures of {n} pictures after {first:.2f} s, exact after {exact:.2f} s")
            for kind in ("check", "confusion"):
                for where, low in (("anywhere", 0), ("second half", total // 2)):
                    question = {"kind": kind, "suspect": DEMO, "mode": "scale"}
                    if low:  # a first one finds out what the first half says
                        answered({**question, "cut": cut(low)})
                    rows = [answered({**question, "cut": cut(low)}) for _ in range(CUTS)]
                    print(
                        f"{DEMO}, warm, {kind}, {UNITS} units {where}: first figures of {rows[0][2]} pictures "
                        f"{spread([row[0] for row in rows])}; exact {spread([row[1] for row in rows])}; n = {CUTS}",
                        flush=True,
                    )
        finally:
            ask.stop()


def ask_units() -> int:
    """How many units the demo has."""
    from engine.demos import open_suspect

    return int(open_suspect(DEMO).result["units"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", action="store_true")
    parser.add_argument("--what-if", action="store_true")
    args = parser.parse_args()
    print(f"# {Compute().describe()}, load average {os.getloadavg()[0]:.1f}")
    every = not (args.pages or args.what_if)
    if every or args.what_if:
        what_if()
    if every or args.pages:
        pages()
    if every:
        defend()


if __name__ == "__main__":
    main()
