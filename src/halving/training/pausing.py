"""An assignment on the axis where training goes on from where it paused: from its newest checkpoint to the rung."""

import logging
import math
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from typing import Any

from halving.checkpoints.store import State, Store
from halving.errors import StudyError, UserError
from halving.training.base import Exhausted, Training
from halving.trial import Epoch, Finished, Job, Outcome, Restarted, Step

log = logging.getLogger(__name__)

# A snapshot is worth a tenth of the training that it saves from being lost.
_WORTH = 10


@dataclass(frozen=True)
class Course:
    """How a trial is trained: its `metric`, to the most resource `r_max`, from a configuration hashed as `config`.

    It diverges where the metric, or one of `watched`, is not finite. `checkpoint_every` counts epochs; by default
    there is a checkpoint whenever ten times what one takes has passed since the last. Of trials trained `together` each
    counts for its share of the time.
    """

    metric: str
    r_max: int
    config: str
    checkpoint_every: int | None = None
    watched: tuple[str, ...] = ()
    together: int = 1


def train(begin: Callable[[], Training], store: Store, job: Job, course: Course) -> Generator[Step]:
    """Train from `job.since` to `job.until`: yield the epochs and, last, one Finished.

    Closed before its end, it leaves a checkpoint.
    """
    yield from (yield from opened(begin, store, job, course))


def opened(
    begin: Callable[[], Training], store: Store, job: Job, course: Course
) -> Generator[Restarted, None, Generator[Step]]:
    """Take up what a job goes on from; return the steps of `train` from there."""
    began = time.perf_counter()
    training: Training | None = store.take(job.trial, job.since, course.config)
    if training is not None:
        return _steps(training, [], began, begin, store, job, course, remembered=True)
    training, done = yield from _opened(begin, store, job, course)
    return _steps(training, done, began, begin, store, job, course)


def _steps(
    training: Training,
    done: list[dict[str, float]],
    began: float,
    begin: Callable[[], Training],
    store: Store,
    job: Job,
    course: Course,
    remembered: bool = False,
) -> Generator[Step]:
    kept = False
    try:
        training.aim(job.until)
        for i, metrics in enumerate(done):
            yield Epoch(job.trial, job.since + i + 1, metrics)
        cause, saved = "", time.perf_counter()
        for epoch in range(job.since + len(done) + 1, job.until + 1):
            try:
                done.append(_trained(training, epoch, course.metric))
            except Exhausted:  # it was told of the last rung only, and believed that to be its end
                if not remembered:
                    raise
                training.close()
                training, done = yield from _opened(begin, store, job, course)
                done.append(_trained(training, epoch, course.metric))
            remembered = False
            cause = _divergence(epoch, done[-1], (*course.watched, course.metric))
            try:
                yield Epoch(job.trial, epoch, done[-1])
            except GeneratorExit:
                if not cause:
                    _save(training, store, job, epoch, course, done)
                raise
            if cause:
                break
            cost = store.seconds * course.together
            if epoch < job.until and _due(epoch, course.checkpoint_every, time.perf_counter() - saved, cost):
                _save(training, store, job, epoch, course, done)
                saved = time.perf_counter()
        curve = tuple(metrics[course.metric] for metrics in done)
        if cause:
            outcome = Outcome(job.trial, job.since + len(done), math.nan, failed=True, curve=curve)
            yield Finished(outcome, (time.perf_counter() - began) / course.together, cause=cause)
            return
        checkpoint = _save(training, store, job, job.until, course, done)
        if checkpoint is None and job.until < course.r_max:
            raise StudyError(
                "the training keeps nothing, so that it could not go on from where it pauses: call "
                "trial.keep(model=model, optimizer=optimizer) when all is built, or leave files in trial.directory "
                "before each yield"
            )
        if job.until < course.r_max and course.together == 1:
            store.keep(job.trial, job.until, course.config, training)
            kept = True
        seconds = (time.perf_counter() - began) / course.together
        yield Finished(Outcome(job.trial, job.until, curve[-1], curve=curve), seconds, checkpoint)
    finally:
        if not kept:
            training.close()


def retrained(store: Store, job: Job, config: str, run: Callable[[Job], Iterable[Step]]) -> State:
    """Return what a trial was after a job; where its checkpoint is damaged, `run` trains it again, and the log says so.

    Raises UserError where that leaves no checkpoint either.
    """
    try:
        return store.load(job.trial, job.until, config)
    except UserError as error:
        log.warning("%s; %s is trained again from nothing", error, job.label)
    for _ in run(replace(job, since=0)):
        pass
    return store.load(job.trial, job.until, config)


def _opened(
    begin: Callable[[], Training], store: Store, job: Job, course: Course
) -> Generator[Restarted, None, tuple[Training, list[dict[str, float]]]]:
    """Return a training at `job.since`, or beyond where an interrupted assignment left more, and the epochs beyond."""
    state = yield from store.newest(job, course.config)
    training = begin()
    training.aim(job.until)
    try:
        if state.resource:
            training.restore(state)
        for epoch in range(state.resource + 1, job.since + 1):
            _trained(training, epoch, course.metric)
    except BaseException:
        training.close()
        raise
    beyond: list[dict[str, Any]] = list(state.values["epochs"]) if state.resource > job.since else []
    return training, beyond


def _trained(training: Training, epoch: int, metric: str) -> dict[str, float]:
    metrics = training.epoch(epoch)
    if metric not in metrics:
        told = ", ".join(metrics) or "nothing"
        raise StudyError(f"the training reports {told} and no {metric}, which is the metric; give metric=<name>")
    return metrics


def _divergence(epoch: int, metrics: dict[str, float], names: Iterable[str]) -> str:
    """Say which metric that matters is not finite after an epoch, if one is not."""
    for name in names:
        if not math.isfinite(metrics[name]):
            return f"diverged: {name} is {metrics[name]} after epoch {epoch}"
    return ""


def _due(epoch: int, every: int | None, unsaved: float, cost: float) -> bool:
    return epoch % every == 0 if every else unsaved >= _WORTH * cost


def _save(
    training: Training, store: Store, job: Job, epoch: int, course: Course, done: list[dict[str, float]]
) -> str | None:
    """Save what the trial is, with the epochs of this assignment: the journal may lack them after a crash."""
    state = training.state()
    if state is None:
        return None
    below = store.save(job.trial, epoch, course.config, State({**state.values, "epochs": done}, state.files))
    store.supersede(job.trial, job.since, epoch)
    return below
