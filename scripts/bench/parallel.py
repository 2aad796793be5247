"""Two worker processes of one thread against one process of two threads, on the bracket of 27 trials over digits.

`python scripts/bench/parallel.py --repeats 3` runs both in turn and prints the seconds of each study, from its first
assignment to its winner, and of each whole process with its imports; then the median of the pairs' ratios. Overrides
after the options change the study: `python scripts/bench/parallel.py model=mlp data=fashion_mnist`.

The ceiling is what two workers could reach if they started at once: of the bracket's 81 epochs 54 follow one another
with two workers (14 + 10 + 12 + 18), and an epoch with two threads takes less than one with one thread.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

EPOCHS, IN_A_ROW = 81, 14 + 10 + 12 + 18
TRAIN = Path(__file__).resolve().parents[2] / "train.py"
STUDY = ("scheduler=sha", "eta=3", "tracker=none", "hydra.run.dir=run")
SERIAL = ("executor=serial", "executor.threads=2")
PROCESS = ("executor=process", "executor.workers=2", "executor.threads=1")


def seconds(executor: tuple[str, ...], overrides: Sequence[str]) -> tuple[float, float, float]:
    """Return the seconds of one study, of its whole process, and of an epoch's training by the median."""
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
        return summary["wall_seconds"], whole, epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("overrides", nargs="*", help="of the study, as train.py takes them")
    arguments = parser.parse_args()
    print("  serial, 2 threads: study, whole, epoch   2 workers, 1 thread: study, whole, epoch   ratios      ceiling")
    found: list[tuple[float, float, float]] = []
    for _ in range(arguments.repeats):
        serial, process = seconds(SERIAL, arguments.overrides), seconds(PROCESS, arguments.overrides)
        study, whole, epoch = (one / two for one, two in zip(serial, process, strict=True))
        found.append((study, whole, epoch * EPOCHS / IN_A_ROW))
        print(
            "".join(f"{s:24.1f} s {w:5.1f} s {1000 * e:4.0f} ms" for s, w, e in (serial, process))
            + f"   {study:.2f} {whole:.2f} {found[-1][2]:10.2f}"
        )
    study, whole, ceiling = (statistics.median(each) for each in zip(*found, strict=True))
    print(f"median: the study {study:.2f}, all {whole:.2f} times as fast; at most {ceiling:.2f}")


if __name__ == "__main__":
    main()
