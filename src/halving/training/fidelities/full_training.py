"""One training from its first epoch to its last, as an assignment."""

import math
import time
from collections.abc import Generator
from typing import Any

from halving.checkpoints.store import State, Store
from halving.training.recipe import Recipe
from halving.training.trainer import Trainer
from halving.trial import Finished, Job, Outcome, Step


def train_in_full(recipe: Recipe, trainer: Trainer, store: Store, job: Job, **values: Any) -> Generator[Step]:
    """Train all epochs of a full training, whatever the resource; yield them and, last, one Finished.

    The error is measured at `job.until` alone. The checkpoint holds the trainer's weights and `values`.
    """
    began = time.perf_counter()
    curve, cause = yield from trainer.train(job.trial, range(1, recipe.epochs + 1))
    if cause:
        outcome = Outcome(job.trial, job.until, math.nan, failed=True)
        yield Finished(outcome, time.perf_counter() - began, cause=cause)
        return
    state = State({**trainer.weights(), **values})
    checkpoint = store.save(job.trial, job.until, recipe.config, state)
    outcome = Outcome(job.trial, job.until, curve[-1])
    yield Finished(outcome, time.perf_counter() - began, checkpoint)
