"""Epochs as the resource."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from halving.training.recipe import Recipe
from halving.training.trainer import Trainer
from halving.trial import Epoch, Finished, Job, Outcome


@dataclass(frozen=True)
class Epochs:
    """The resource is the number of epochs; a paused trial resumes exactly where it was."""

    r_min: int = 1
    r_max: int = 27
    epochs: int = 27
    unit: str = "epochs"
    resumable: bool = True

    def cost(self, since: int, until: int) -> float:
        return until - since

    def prepare(self, recipe: Callable[[], Recipe]) -> None:
        Trainer(recipe())

    def run(self, recipe: Callable[[], Recipe], job: Job) -> Iterator[Epoch | Finished]:
        began = time.perf_counter()
        trained = recipe()
        trainer = Trainer(trained)
        if job.since:
            trainer.restore(trained.load(job.trial, job.since))
        curve, cause = yield from trainer.train(job.trial, range(job.since + 1, job.until + 1))
        if cause:
            outcome = Outcome(job.trial, job.since + len(curve), math.nan, failed=True, curve=tuple(curve))
            yield Finished(outcome, time.perf_counter() - began, cause=cause)
            return
        checkpoint = trained.save(job.trial, job.until, trainer.state())
        outcome = Outcome(job.trial, job.until, curve[-1], curve=tuple(curve))
        yield Finished(outcome, time.perf_counter() - began, checkpoint)

    def test(self, recipe: Callable[[], Recipe], trial: int, resource: int) -> dict[str, float]:
        trained = recipe()
        trainer = Trainer(trained)
        trainer.restore(trained.load(trial, resource))
        return trainer.test()
