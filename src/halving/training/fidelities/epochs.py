"""Epochs as the resource."""

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from halving.checkpoints import discard
from halving.training.memory import Memory
from halving.training.recipe import Recipe
from halving.training.rehearsal import rehearse
from halving.training.restoration import reloaded, restored
from halving.training.trainer import Trainer
from halving.trial import Epoch, Finished, Job, Outcome, Restarted, Step


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
        rehearse(recipe())

    def run(self, recipe: Callable[[], Recipe], job: Job, memory: Memory) -> Generator[Step]:
        began = time.perf_counter()
        trained = recipe()
        done: list[dict[str, float]] = []
        trainer = memory.take(job.trial, job.since, trained.config)
        if trainer is None:
            trainer, done = yield from _trainer_at(trained, job)
        for i, metrics in enumerate(done):
            yield Epoch(job.trial, job.since + i + 1, metrics)
        cause = ""
        for epoch in range(job.since + len(done) + 1, job.until + 1):
            done.append(trainer.train_epoch(epoch))
            cause = trainer.divergence(epoch, done[-1])
            try:
                yield Epoch(job.trial, epoch, done[-1])
            except GeneratorExit:
                if not cause:
                    _save(trained, job, epoch, trainer, done)
                raise
            if cause:
                break
            if trained.checkpoint_every and epoch % trained.checkpoint_every == 0 and epoch < job.until:
                _save(trained, job, epoch, trainer, done)
                discard(trained.run_dir, job.trial, (job.since, epoch))
        curve = tuple(metrics[trained.metric] for metrics in done)
        if cause:
            outcome = Outcome(job.trial, job.since + len(done), math.nan, failed=True, curve=curve)
            yield Finished(outcome, time.perf_counter() - began, cause=cause)
            return
        checkpoint = _save(trained, job, job.until, trainer, done)
        if job.until < trained.r_max:
            memory.keep(job.trial, job.until, trained.config, trainer)
        yield Finished(Outcome(job.trial, job.until, curve[-1], curve=curve), time.perf_counter() - began, checkpoint)

    def test(self, recipe: Callable[[], Recipe], trial: int, resource: int) -> dict[str, float]:
        trained = recipe()
        trainer = Trainer(trained)
        trainer.restore(reloaded(trained, trial, resource, lambda job: self.run(recipe, job, Memory())))
        return trainer.test()


def _trainer_at(trained: Recipe, job: Job) -> Generator[Restarted, None, tuple[Trainer, list[dict[str, float]]]]:
    """Return a trainer at `job.since`, or beyond where an interrupted assignment left more, and the epochs beyond."""
    trainer = Trainer(trained)
    at, state = yield from restored(trained, job)
    if at:
        trainer.restore(state)
    for epoch in range(at + 1, job.since + 1):
        trainer.train_epoch(epoch)
    return trainer, list(state["epochs"]) if at > job.since else []


def _save(trained: Recipe, job: Job, epoch: int, trainer: Trainer, done: list[dict[str, float]]) -> str:
    """Save what the trial is, with the epochs of this assignment: the journal may lack them after a crash."""
    state: dict[str, Any] = trainer.state()
    return trained.save(job.trial, epoch, state | {"epochs": done})
