"""A study of 200 trials on a Ray cluster, given a run directory and an address; epochs say on which node they were."""

import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from halving.checkpoints.store import Store
from halving.executors import Executor
from halving.executors.ray import Ray
from halving.history import Header, Resumed
from halving.journal import Journal
from halving.schedulers import ASHA
from halving.searchers import RandomSearcher
from halving.space import Space
from halving.training.own import Running, Trainings
from halving.tuner import Tuner


def drawing(trial: Running) -> Iterator[dict[str, float]]:
    """Train by drawing from a generator that is kept."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
        there.connect(("10.77.0.1", 9))
        node = float(there.getsockname()[0].rpartition(".")[2])
    slowly = Path(os.environ["SLOWLY"])  # there until enough has happened
    generator = np.random.default_rng(trial.seed)
    trial.keep(generator=generator)
    while True:
        time.sleep(0.2 if slowly.exists() else 0.0)
        yield {"error": float(generator.random()), "node": node}


def tuner(run_dir: Path, journal: Journal | None, executor: Executor) -> Tuner:
    """Return what runs the study, or replays it."""
    scheduler = ASHA(RandomSearcher(Space.from_config({"x": list(range(1000))})), r_max=27, max_trials=200)
    return Tuner(scheduler, executor, cost=lambda since, until: until - since, journal=journal, root=run_dir)


def main(run_dir: Path, address: str) -> None:
    journal = Journal(run_dir)
    events = tuple(journal.events)
    executor = Ray(Trainings(drawing, Store(run_dir), 0, "error", 27), address, retries=0)
    try:
        study = tuner(run_dir, journal, executor)
        study.replay(events)
        study.record(Resumed() if events else Header("on ray", "asha", "random", 0, 27))
        study.run()
    finally:
        executor.shutdown(graceful=False)
        journal.close()


if __name__ == "__main__":
    from faults import on_ray  # so that its training has a name elsewhere, too

    on_ray.main(Path(sys.argv[1]), sys.argv[2])
