"""A study on workers anywhere, given a run directory, a scheduler, an executor and its settings; or what is left of it.

python tests/faults/anywhere.py RUN_DIR sha halving.executors.slurm:Slurm '{"workers": 2}'

Epochs say on which node they were, and take a while as long as there is a file that the environment names.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
from faults.objectives import Drawn

from halving.checkpoints.store import Store
from halving.executors import Executor, Serial
from halving.executors.base import Objective
from halving.history import Header, History, Resumed
from halving.journal import Journal
from halving.schedulers import ASHA, Scheduler, SuccessiveHalving
from halving.searchers import RandomSearcher, Searcher
from halving.space import Space
from halving.training.own import Running, Trainings
from halving.tuner import Tuner

SCHEDULERS: dict[str, Callable[[Searcher], Scheduler]] = {
    "asha": lambda searcher: ASHA(searcher, r_max=27, max_trials=200),
    "short": lambda searcher: ASHA(searcher, r_max=27, max_trials=100),
    "sha": lambda searcher: SuccessiveHalving(searcher, r_max=9, n=4),
}


def drawing(trial: Running) -> Iterator[dict[str, float]]:
    """Train by drawing from a generator that is kept."""
    node = 0.0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there, suppress(OSError):
        there.connect(("10.77.0.1", 9))
        node = float(there.getsockname()[0].rpartition(".")[2])
    slowly = Path(os.environ.get("SLOWLY", "/nowhere"))  # there until enough has happened
    generator = np.random.default_rng(trial.seed)
    trial.keep(generator=generator)
    while True:
        time.sleep(0.2 if slowly.exists() else 0.0)
        yield {"error": float(generator.random()), "node": node}


def objective(run_dir: Path, scheduler: str) -> Objective:
    """Return what is evaluated: under sha no training, so that no worker has to load what checkpoints take."""
    return Drawn(run_dir) if scheduler == "sha" else Trainings(drawing, Store(run_dir), 0, "error", 27)


def tuner(run_dir: Path, scheduler: str, journal: Journal | None, executor: Executor) -> Tuner:
    """Return what runs the study, or replays it."""
    allocator = SCHEDULERS[scheduler](RandomSearcher(Space.from_config({"x": list(range(1000))})))
    return Tuner(allocator, executor, cost=lambda since, until: until - since, journal=journal, root=run_dir)


def decided(history: History) -> list[tuple[int, int, float, str]]:
    """Return what a study came to, whatever the order."""
    return sorted((trial.trial, each.until, each.error, each.verdict_reason) for trial, each in history.finished)


def alone(run_dir: Path, scheduler: str) -> list[tuple[int, int, float, str]]:
    """Return what the study comes to in this process."""
    study = tuner(run_dir, scheduler, None, Serial(objective(run_dir, scheduler)))
    study.record(Header("anywhere", scheduler, "random", 0, 27))
    study.run()
    return decided(study.history)


def main(run_dir: Path, scheduler: str, executor: str, settings: dict[str, Any]) -> None:
    run_dir.mkdir(exist_ok=True)
    journal = Journal(run_dir)
    events = tuple(journal.events)
    workers = resolve_name(executor)(objective(run_dir, scheduler), **settings)
    try:
        study = tuner(run_dir, scheduler, journal, workers)
        study.rederive(events)
        study.record(Resumed() if events else Header("anywhere", scheduler, "random", 0, 27))
        study.run()
    finally:
        workers.shutdown(graceful=False)
        journal.close()


if __name__ == "__main__":
    from faults import anywhere  # so that its training has a name elsewhere, too

    anywhere.main(Path(sys.argv[1]), *sys.argv[2:4], json.loads(sys.argv[4]))
