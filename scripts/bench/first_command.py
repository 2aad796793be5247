"""What a newcomer waits for: `python train.py scheduler=sha eta=3`, on a quiet machine and beside busy loops.

`python scripts/bench/first_command.py --repeats 3` runs the command in turn as it is by default, with threads that
spin long while they wait (libgomp's own default), with threads that sleep at once, and with one thread, each without
and with one busy loop per core. It prints the seconds from the key press to the plan, to the first trial's end, to the
winner and to the end of the process, their medians, and how they relate to those of the default on the quiet machine.
Overrides after the options change the study.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from halving.environment import cores

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
STUDY = ("scheduler=sha", "eta=3", "hydra.run.dir=run")
STAGES = ("plan", "first trial", "winner", "end")
# GOMP_SPINCOUNT is libgomp's own default, where nothing is set.
WAYS = {
    "default": ({}, ()),
    "spinning": ({"GOMP_SPINCOUNT": "300000"}, ()),
    "sleeping": ({"OMP_WAIT_POLICY": "PASSIVE"}, ()),
    "1 thread": ({}, ("executor.threads=1",)),
}
_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")


@contextmanager
def busy(loops: int) -> Iterator[None]:
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for loop in running:
            loop.kill()
            loop.wait()


def run(way: str, overrides: Sequence[str]) -> list[float]:
    """Return the seconds after which each stage was reached."""
    more, own = WAYS[way]
    environment = {key: value for key, value in os.environ.items() if key not in _VARIABLES} | more
    command = [sys.executable, "-u", str(TRAIN), *STUDY, *overrides, *own]
    reached: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as directory:
        began = time.perf_counter()
        with subprocess.Popen(command, cwd=directory, env=environment, text=True, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for line in process.stdout:
                stage = "first trial" if line.startswith("trial ") and " wins " not in line else "plan"
                reached.setdefault("winner" if " wins " in line else stage, time.perf_counter() - began)
        if process.returncode:
            sys.exit(f"error: {' '.join(command)} ended with status {process.returncode}")
        reached["end"] = time.perf_counter() - began
    return [reached[stage] for stage in STAGES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("overrides", nargs="*", help="of the study, as train.py takes them")
    arguments = parser.parse_args()
    cells = [(way, loops) for loops in (0, cores()) for way in WAYS]
    found: dict[tuple[str, int], list[list[float]]] = {cell: [] for cell in cells}
    for _ in range(arguments.repeats):
        for way, loops in cells:
            with busy(loops):
                found[way, loops].append(run(way, arguments.overrides))
    medians = {cell: [statistics.median(each) for each in zip(*runs, strict=True)] for cell, runs in found.items()}
    print(
        f"{'threads':10} {'busy loops':>10} " + "".join(f"{stage:>14}" for stage in STAGES) + "   of the quiet default"
    )
    for (way, loops), seconds in medians.items():
        ratios = [run[-1] / quiet[-1] for run, quiet in zip(found[way, loops], found["default", 0], strict=True)]
        shown = "".join(f"{value:12.1f} s" for value in seconds)
        print(
            f"{way:10} {loops:10} {shown}   {statistics.median(ratios):.2f}  ({', '.join(f'{r:.2f}' for r in ratios)})"
        )


if __name__ == "__main__":
    main()
