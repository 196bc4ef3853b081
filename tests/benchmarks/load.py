"""A class of visitors at once: how long a page takes to follow a change, and how long an answer takes to be there.

    python -m tests.benchmarks.load                                 50 sessions that look, 60 that ask what-ifs
    python -m tests.benchmarks.load --sessions 4 --askers 4 --rounds 2 --think 0.5

The visitors are :mod:`tests.benchmarks.visitor`; no browser is needed. The dashboard and its worker run as they are
shipped, in a workspace that is thrown away, on this machine together with the visitors. Each part prints one line with
n. The exit code is 1 if an answer was lost or a page showed an error. Times are of this machine with whatever else it
is doing, so run it on an idle one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import secrets
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from engine import demos
from engine.paths import ROOT
from engine.pruning import cut
from engine.runs import ask
from tests.app.browser import server
from tests.benchmarks.visitor import PATIENCE, Lost, Visitor

DEMO = "demo:badnets"
#: Test pictures behind an exact answer.
ALL = 10_000


@dataclass
class Seen:
    """What all visitors of one part measured, in seconds."""

    opened: list[float] = field(default_factory=list)
    reruns: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    exact: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def threshold(chance: random.Random, scores: np.ndarray) -> float:
    """One that cuts between 1 and 10 % of the units, with as many digits as an address keeps."""
    return float(f"{np.quantile(scores[np.isfinite(scores)], 1 - chance.uniform(0.01, 0.1)):.6f}")


def scores() -> np.ndarray:
    return demos.studies(DEMO)["rnp"].arrays("scores")["values"]


async def drag(visitor: Visitor, chance: random.Random, values: np.ndarray) -> float:
    """Let go of the grid's line somewhere else."""
    return await cut_at(visitor, threshold(chance, values))


async def cut_at(visitor: Visitor, value: float) -> float:
    report = {"id": secrets.token_hex(8), "origin": "threshold", "selected": None, "edits": {}, "threshold": value}
    return await visitor.report(f"grid {DEMO} rnp", report=report)


def measured(visitor: Visitor, pruned: int) -> int:
    """The test pictures behind the figures that the worker gave for a cut of ``pruned`` units; 0 if there are none."""
    strip = re.search(r'<div class="um-strip".*', visitor.words())
    if strip is None or f">{pruned:,}<span" not in strip[0]:
        return 0
    found = re.search(r'title="measured on ([\d,]+) images"', strip[0])
    return int(found[1].replace(",", "")) if found else 0


async def look(url: str, seen: Seen, rounds: int, think: float, seed: int) -> None:
    """Every other visitor turns pictures on Home, the rest drag the threshold on Prune."""
    chance, values = random.Random(seed), scores()
    home = seed % 2 == 0
    await asyncio.sleep(chance.uniform(0, think))
    async with Visitor(url, "" if home else "prune", f"run={DEMO}") as visitor:
        seen.opened.append(await visitor.open())
        for _ in range(rounds):
            await asyncio.sleep(chance.uniform(0.5, 1.5) * think)
            seen.reruns.append(await (visitor.click("next") if home else drag(visitor, chance, values)))
        seen.errors += visitor.errors


async def wonder(
    url: str, seen: Seen, rounds: int, think: float, seed: int, exact: bool = True, patience: float = PATIENCE
) -> None:
    """Drag the threshold with *Every cut* on, and wait until the worker's figures of this very cut are there."""
    chance, values = random.Random(seed), scores()
    points = {point["pruned"] for point in demos.studies(DEMO)["rnp"].result["points"]}
    await asyncio.sleep(chance.uniform(0, think))
    async with Visitor(url, "prune", f"run={DEMO}") as visitor:
        seen.opened.append(await visitor.open())
        await visitor.toggle("check-always", True)
        for _ in range(rounds):
            await asyncio.sleep(chance.uniform(0.5, 1.5) * think)
            while True:  # what the curve measured itself would need no answer
                value = threshold(chance, values)
                pruned = int(cut.cut_at(values, value).sum())
                if pruned not in points:
                    break
            began = time.monotonic()
            await cut_at(visitor, value)
            await visitor.until(lambda pruned=pruned: measured(visitor, pruned) > 0, patience)
            seen.first.append(time.monotonic() - began)
            if exact:
                await visitor.until(lambda pruned=pruned: measured(visitor, pruned) == ALL, patience)
                seen.exact.append(time.monotonic() - began)
        seen.errors += visitor.errors


async def crowd(what: Callable[..., Awaitable[None]], n: int, url: str, rounds: int, think: float) -> Seen:
    seen = Seen()

    async def one(seed: int) -> None:
        try:
            await what(url, seen, rounds, think, seed)
        except (Lost, ValueError, OSError) as trouble:
            seen.lost.append(f"session {seed}: {trouble}")

    await asyncio.gather(*(one(seed) for seed in range(n)))
    return seen


def spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "none"
    p50, p95, p99 = np.percentile(seconds, [50, 95, 99])
    return f"p50 {1000 * p50:.0f} ms, p95 {1000 * p95:.0f} ms, p99 {1000 * p99:.0f} ms (n = {len(seconds)})"


def say(line: str) -> None:
    print(line, flush=True)


def run(
    url: str, sessions: int, askers: int, rounds: int, think: float, patience: float = PATIENCE, exact: bool = True
) -> int:
    """Both parts; returns how much went wrong."""
    wrong = 0
    if sessions:
        seen = asyncio.run(crowd(look, sessions, url, rounds, think))
        say(f"{sessions} sessions that look, {think:g} s apart: reruns {spread(seen.reruns)}; ")
        say(f"  first page {spread(seen.opened)}; {len(seen.lost)} lost, {len(seen.errors)} errors")
        wrong += report(seen)
    if askers:
        # The worker loads torch and the suspect once.
        warm = asyncio.run(crowd(partial(wonder, exact=False, patience=patience), 1, url, 1, 0))
        say(f"the worker's very first figures: {spread(warm.first)}")
        seen = asyncio.run(crowd(partial(wonder, exact=exact, patience=patience), askers, url, rounds, think))
        say(f"{askers} sessions that ask what-ifs, {think:g} s apart: first figures {spread(seen.first)}; ")
        say(f"  exact {spread(seen.exact)}; first page {spread(seen.opened)}")
        lost = askers * rounds - len(seen.exact if exact else seen.first)
        say(f"  {lost} of {askers * rounds} answers lost, {len(seen.errors)} errors")
        wrong += report(warm) + report(seen) + lost
    return wrong


def report(seen: Seen) -> int:
    for line in [*seen.lost, *seen.errors][:10]:
        say(f"    {line}")
    return len(seen.lost) + len(seen.errors)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--askers", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=8, help="changes of each session")
    parser.add_argument("--think", type=float, default=5.0, help="mean seconds between an answer and the next change")
    parser.add_argument("--first-only", action="store_true", help="do not wait for exact answers")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds after which an answer is lost")
    args = parser.parse_args()
    say(f"# {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        os.environ["UNMASK_HOME"] = home
        try:
            with server(ROOT / "app" / "main.py", {"UNMASK_HOME": home}) as url:
                wrong = run(
                    url, args.sessions, args.askers, args.rounds, args.think, args.patience, not args.first_only
                )
        finally:
            ask.stop()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
