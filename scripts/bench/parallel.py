"""Two worker processes of one thread against one process of two threads, on the bracket of 27 trials over digits.

`python scripts/bench/parallel.py --repeats 3` runs both in turn and prints the seconds of each study, from its first
assignment to its winner, and of each whole process with its imports; then the median of the pairs' ratios.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
STUDY = ("scheduler=sha", "eta=3", "tracker=none", "hydra.run.dir=run")
SERIAL = ("executor=serial", "executor.threads=2")
PROCESS = ("executor=process", "executor.workers=2", "executor.threads=1")


def seconds(executor: tuple[str, ...]) -> tuple[float, float]:
    """Return the seconds of one study, and of its whole process."""
    with tempfile.TemporaryDirectory() as directory:
        began = time.perf_counter()
        environment = os.environ | {"OMP_NUM_THREADS": executor[-1].partition("=")[2]}
        command = [sys.executable, str(TRAIN), *STUDY, *executor]
        subprocess.run(command, cwd=directory, env=environment, check=True, stdout=subprocess.DEVNULL)
        whole = time.perf_counter() - began
        summary = json.loads((Path(directory) / "run/summary.json").read_text(encoding="utf-8"))
        return summary["wall_seconds"], whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats: int = parser.parse_args().repeats
    print("serial, 2 threads: study, whole   2 workers, 1 thread: study, whole   ratios")
    studies: list[float] = []
    wholes: list[float] = []
    for _ in range(repeats):
        (serial, serial_whole), (process, process_whole) = seconds(SERIAL), seconds(PROCESS)
        studies.append(serial / process)
        wholes.append(serial_whole / process_whole)
        print(
            f"{serial:23.1f} s {serial_whole:5.1f} s {process:27.1f} s {process_whole:5.1f} s"
            f"   {studies[-1]:.2f} {wholes[-1]:.2f}"
        )
    print(f"median: the study {statistics.median(studies):.2f}, all {statistics.median(wholes):.2f} times as fast")


if __name__ == "__main__":
    main()
