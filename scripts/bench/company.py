"""How large groups of trials become, and how long workers are idle, where trials are trained as one program.

python scripts/bench/company.py

Two workers under a virtual clock train three batch sizes for 162 epochs, or two rounds of successive halving: an epoch
of n trials takes as long as 0.72 + 0.28 n of a trial alone, as LeNet's does at batch 32, more or less by its batch size
and by chance. Each row is the mean of `--seeds` studies.
"""

import argparse
import heapq
import math
import statistics
from collections.abc import Iterator, Sequence

import numpy as np

from halving.executors import pool
from halving.executors.pool import Batching, Pool, Slot
from halving.executors.work import Began, Message, Ready
from halving.history import Header
from halving.schedulers import ASHA, SuccessiveHalving
from halving.searchers import RandomSearcher
from halving.space import Space
from halving.trial import Finished, Job, Outcome
from halving.tuner import Budget, Tuner

SPACE = {"lr": [0.01 * 1.1**i for i in range(50)], "batch_size": [32, 64, 128]}
SPEED = {32: 1.6, 64: 1.0, 128: 0.8}
WORKERS, EPOCHS, R_MAX = 2, 162, 27


class Clock:
    """The pool's time."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Virtual:
    """Workers that take no time, but the clock's."""

    def __init__(self, clock: Clock, seed: int) -> None:
        self.groups: list[int] = []
        self._arrivals = 0
        self.busy = 0.0
        self._clock, self._rng = clock, np.random.default_rng(seed)
        self._due: list[tuple[float, int, Slot, Message]] = []
        for slot in range(WORKERS):
            self._at(0.0, slot, Ready())

    def listen(self, timeout: float | None) -> Iterator[tuple[Slot, Message]]:
        patience = math.inf if timeout is None else timeout
        self._clock.now = min(self._clock.now + patience, max(self._clock.now, self._due[0][0] if self._due else 0.0))
        while self._due and self._due[0][0] <= self._clock.now:
            _, _, slot, message = heapq.heappop(self._due)
            yield slot, message

    def send(self, slot: Slot, jobs: Sequence[Job]) -> None:
        first, count = jobs[0], len(jobs)
        epoch = (0.72 + 0.28 * count) * SPEED[int(str(first.configuration["batch_size"]))]
        seconds = (first.until - first.since) * epoch * math.exp(0.1 * self._rng.standard_normal())
        self.groups.append(count)
        self.busy += seconds
        self._at(self._clock.now, slot, Began(first.trial, first.until))
        for job in jobs:
            a, c = np.random.default_rng(job.trial).uniform((0.1, 0.3), (0.6, 1.5)).tolist()
            outcome = Outcome(job.trial, job.until, a + (1 - a) * job.until**-c)
            self._at(self._clock.now + seconds, slot, Finished(outcome, seconds / count))

    def ask_to_stop(self, slot: Slot) -> None: ...

    def kill(self, slot: Slot) -> None: ...

    def close(self) -> None: ...

    def _at(self, moment: float, slot: Slot, message: Message) -> None:
        self._arrivals += 1
        heapq.heappush(self._due, (moment, self._arrivals, slot, message))


def study(scheduler: str, batch: int, patience: float, seed: int) -> tuple[float, float, float]:
    """Return the mean group, the share of the time in which workers were idle, and the epochs in the time of one."""
    clock = pool.time = Clock()
    searcher = RandomSearcher(Space.from_config(SPACE), seed)
    decides = ASHA(searcher, r_max=R_MAX) if scheduler == "asha" else SuccessiveHalving(searcher, r_max=R_MAX, rounds=2)
    backend = Virtual(clock, seed)

    def alike(job: Job) -> tuple[object, ...]:
        return job.since, job.until, job.configuration["batch_size"]

    executor = Pool(backend, batching=Batching(batch, patience, alike))
    tuner = Tuner(decides, executor, cost=lambda since, until: until - since, budget=Budget(resource=EPOCHS))
    tuner.record(Header(scheduler, scheduler, "random", seed, R_MAX))
    tuner.run()
    idle = 1 - backend.busy / (WORKERS * clock.now)
    return statistics.mean(backend.groups), idle, tuner.history.spent / clock.now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    seeds = parser.parse_args().seeds
    print("scheduler  batch  patience  groups of  idle  epochs in the time of one")
    for scheduler in ("asha", "sha"):
        for batch, patience in ((1, 0), (8, 0), (8, 2), (8, 8), (24, 0), (24, 2), (24, 8)):
            rows = zip(*(study(scheduler, batch, patience, seed) for seed in range(seeds)), strict=True)
            group, idle, speed = map(statistics.mean, rows)
            print(f"{scheduler:9} {batch:6} {patience:9} {group:10.1f} {idle:5.0%} {speed:6.1f}", flush=True)


if __name__ == "__main__":
    main()
