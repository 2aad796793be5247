"""Prints the ids of two workers that sleep or have a brood, whose path is given, and waits to be killed."""

import sys
from multiprocessing import active_children
from pathlib import Path

from faults.objectives import Brood, Hanging, Plain

from halving.executors import Process
from halving.trial import Job

if __name__ == "__main__":
    objective = {"busy": Plain(0.05), "hanging": Hanging(), "brood": Brood(Path(sys.argv[-1]))}[sys.argv[1]]
    executor = Process(objective, workers=2)
    for trial in (1, 1):
        executor.submit(Job(trial, {}, 0, 100_000))
    print(*[worker.pid for worker in active_children()], flush=True)
    for _ in range(0 if sys.argv[1] == "hanging" else 3):
        list(executor.wait())
    print("running", flush=True)
    while True:
        list(executor.wait())
