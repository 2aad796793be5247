"""Prints the ids of two workers that sleep, and waits to be killed."""

import sys

from faults.objectives import Hanging, Plain

from halving.executors import Process
from halving.trial import Job

if __name__ == "__main__":
    executor = Process(Plain(0.05) if sys.argv[1] == "busy" else Hanging(), workers=2)
    for trial in (1, 1):
        executor.submit(Job(trial, {}, 0, 100_000))
    print(*[worker.process.pid for worker in executor._workers], flush=True)
    for _ in range(3) if sys.argv[1] == "busy" else ():
        list(executor.wait())
    print("running", flush=True)
    while True:
        list(executor.wait())
