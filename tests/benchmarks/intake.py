"""Opening hostile files: the whole corpus, one process each, and 20,000 mutants in confined processes.

    python -m tests.benchmarks.intake                   corpus and mutants
    python -m tests.benchmarks.intake --mutants 2000    fewer mutants
    python -m tests.benchmarks.intake --large           also a genuine file of 45 MB, three times

Executions are counted by a canary that every command in the corpus would create; imports, opened files and calls by the
lock of the reading process, which ends it with a code of its own. Times are wall-clock seconds, start of the process
included; memory is what the kernel counted, and cannot exceed the limit that the process set itself.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from engine.intake.limits import READER_MEMORY
from engine.intake.reader import read
from engine.paths import ROOT
from tests import intake_corpus

_MUTANTS = """
import sys, time
from tests.intake_pool import mutants, read_all
started = time.perf_counter()
found = read_all(mutants(int(sys.argv[1]), seed=int(sys.argv[2])))
print(f"{sum(found.verdicts.values())} mutants in {time.perf_counter() - started:.0f} s: {dict(found.verdicts)}")
print(f"  processes ended: {len(found.crashes)}  slowest: {found.seconds:.2f} s  peak: {found.peak / 2**20:.0f} MB")
for number, code in found.crashes[:10]:
    print(f"  mutant {number} ended its process with code {code}")
"""


def corpus() -> None:
    intake_corpus.CANARY.unlink(missing_ok=True)
    verdicts: Counter[str] = Counter()
    times: list[tuple[float, float, str]] = []
    ended, wrong = [], []
    with tempfile.TemporaryDirectory() as folder:
        for label, (data, expected) in intake_corpus.cases().items():
            path = Path(folder) / "file.pt"
            path.write_bytes(data)
            before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            found = read(path, Path(folder) / "tensors.safetensors")
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            times.append((time.perf_counter() - started, cpu, label))
            verdicts[found.verdict] += 1
            if "whose reading" in str(found.report["reason"]):
                ended.append(label)
            if found.verdict != expected:
                wrong.append(label)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    slowest = max(times)
    print(f"{len(times)} hand-made files, one process each: {dict(verdicts)}")
    print(f"  executions: {int(intake_corpus.CANARY.exists())}  processes ended: {len(ended)}  wrong: {len(wrong)}")
    print(
        f"  slowest: {slowest[0]:.2f} s ({slowest[2]}), most processor time {max(t[1] for t in times):.2f} s  "
        f"peak: {peak:.0f} MB (limit {READER_MEMORY / 2**20:.0f} MB)"
    )
    for label in [*ended, *wrong][:10]:
        print(f"  {label}")


def large() -> None:
    """45 MB of weights, as torch writes them, into safetensors."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.pt"
        code = "import sys, torch; torch.save({f'w{i}': torch.randn(1024, 1125) for i in range(10)}, sys.argv[1])"
        subprocess.run([sys.executable, "-c", code, str(path)], check=True)
        times = []
        for _ in range(3):
            started = time.perf_counter()
            found = read(path, Path(folder) / "tensors.safetensors")
            times.append(time.perf_counter() - started)
        print(f"{path.stat().st_size / 1e6:.0f} MB, {found.verdict}: {', '.join(f'{t:.2f}' for t in times)} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--large", action="store_true")
    args = parser.parse_args()
    print(f"# load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    corpus()
    # Apart, so that the memory of a process with torch in it is not counted as a reader's.
    command = [sys.executable, "-c", _MUTANTS, str(args.mutants), str(args.seed)]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    if args.large:
        large()


if __name__ == "__main__":
    main()
