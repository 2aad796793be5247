"""Two worker processes of one thread against one process of two threads, on the bracket of 27 trials over digits.

`python scripts/bench/parallel.py --repeats 3` runs both in turn and prints the seconds of each study, from its first
assignment to its winner, and of each whole process with its imports; then the median of the pairs' ratios. Overrides
after the options change the study: `python scripts/bench/parallel.py model=mlp data=fashion_mnist`.

The ceiling is what two workers could reach if they started at once: of the bracket's 81 epochs 54 follow one another
with two workers (14 + 10 + 12 + 18), and an epoch with two threads takes less than one with one thread. Other studies
of one bracket, all of whose rungs are synchronous, have theirs.
"""

import argparse
import csv
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
STUDY = ("scheduler=sha", "eta=3", "tracker=none", "hydra.run.dir=run")
SERIAL = ("executor=serial", "executor.threads=2")
PROCESS = ("executor=process", "executor.workers=2", "executor.threads=1")


@dataclass(frozen=True)
class Spent:
    """Seconds of a study, of its whole process and of an epoch's training; its epochs over those in a row with two."""

    study: float
    whole: float
    epoch: float
    parallel: float


def run(executor: tuple[str, ...], overrides: Sequence[str]) -> Spent:
    with tempfile.TemporaryDirectory() as directory:
        began = time.perf_counter()
        environment = os.environ | {"OMP_NUM_THREADS": executor[-1].partition("=")[2]}
        command = [sys.executable, str(TRAIN), *STUDY, *overrides, *executor]
        subprocess.run(command, cwd=directory, env=environment, check=True, stdout=subprocess.DEVNULL)
        whole = time.perf_counter() - began
        run_dir = Path(directory) / "run"
        summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
        with (run_dir / "curves.csv").open(encoding="utf-8", newline="") as file:
            epoch = statistics.median(float(row["seconds"]) for row in csv.DictReader(file))
        with (run_dir / "results.csv").open(encoding="utf-8", newline="") as file:
            rungs = sorted(Counter(int(row["resource"]) for row in csv.DictReader(file)).items())
        steps = [(trials, until - since) for (since, _), (until, trials) in pairwise([(0, 0), *rungs])]
        in_a_row = sum(math.ceil(trials / 2) * step for trials, step in steps)
        return Spent(summary["wall_seconds"], whole, epoch, sum(trials * step for trials, step in steps) / in_a_row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("overrides", nargs="*", help="of the study, as train.py takes them")
    arguments = parser.parse_args()
    print("  serial, 2 threads: study, whole, epoch   2 workers, 1 thread: study, whole, epoch   ratios      ceiling")
    found: list[tuple[float, float, float]] = []
    for _ in range(arguments.repeats):
        serial, process = run(SERIAL, arguments.overrides), run(PROCESS, arguments.overrides)
        ceiling = process.parallel * serial.epoch / process.epoch
        found.append((serial.study / process.study, serial.whole / process.whole, ceiling))
        print(
            "".join(f"{s.study:24.1f} s {s.whole:5.1f} s {1000 * s.epoch:4.0f} ms" for s in (serial, process))
            + f"   {found[-1][0]:.2f} {found[-1][1]:.2f} {ceiling:10.2f}"
        )
    study, whole, ceiling = (statistics.median(each) for each in zip(*found, strict=True))
    print(f"median: the study {study:.2f}, all {whole:.2f} times as fast; at most {ceiling:.2f}")


if __name__ == "__main__":
    main()
