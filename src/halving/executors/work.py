"""What every worker does with a job, wherever it is, and the words that it and the pool exchange: frozen values."""

import os
import sys
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial

from halving.errors import StudyError, UserError
from halving.executors import signals
from halving.executors.base import Objective, failure
from halving.trial import Epoch, Finished, Job, Restarted, Step


@dataclass(frozen=True, slots=True)
class Ready:
    """A slot is there, and takes a job."""


@dataclass(frozen=True, slots=True)
class Began:
    """A job has left every queue: its time counts from here. What a slot says before that is of an earlier one."""

    trial: int
    until: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """The worker has left a checkpoint, if it could, and does nothing more."""


@dataclass(frozen=True, slots=True)
class Raised:
    """The objective raised at a job; the worker is free again."""

    trial: int
    until: int
    cause: str
    details: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The worker is gone, or ends with this word. Whether its job is to `blame`: not for the death of a machine."""

    reason: str
    blame: bool = True
    details: str = ""


@dataclass(frozen=True, slots=True)
class Unstarted:
    """The worker could not start, nor would another there."""

    cause: str


Message = Step | Ready | Began | Stopped | Raised | Lost | Unstarted | StudyError


def work(objective: Objective, job: Job, asked_to_stop: Callable[[], bool]) -> Generator[Message]:
    """Work on a job and yield what is to be told of it; after an epoch it may be asked to stop.

    Raises only what answers a signal of the user's.
    """
    yield Began(job.trial, job.until)
    steps, last = _steps(objective, job), None
    while (message := _answer(job, partial(_advance, steps, job))) is not None:
        yield (last := message)
        if isinstance(message, Epoch) and asked_to_stop():
            yield _answer(job, steps.close) or Stopped()
            return
    if last is None or isinstance(last, Epoch | Restarted):
        yield raised(job, ValueError(f"the objective was given trial {job.trial}, and tells no end of it"))


def raised(job: Job, error: BaseException) -> Raised:
    """Return what is told of an error: the log gets its traceback, but of a user's mistake its words and notes."""
    if isinstance(error, UserError):
        details = "\n".join([str(error), *getattr(error, "__notes__", ())])
    else:
        details = "\n" + "".join(traceback.format_exception(error))
    return Raised(job.trial, job.until, failure(job, error, 0.0).cause, details)


def _answer(job: Job, act: Callable[[], Message | None]) -> Message | None:
    try:
        return act()
    except StudyError as error:
        return error
    except MemoryError as error:
        return Lost(f"its worker ran out of memory ({error})", details=raised(job, error).details)
    except BaseException as error:  # SystemExit, too, ends no more than the trial
        if signals.from_user(error):
            raise
        return raised(job, error)


def _steps(objective: Objective, job: Job) -> Generator[Step]:
    yield from objective((job,))


def trial_of(step: Step) -> int:
    return step.outcome.trial if isinstance(step, Finished) else step.trial


def _advance(steps: Generator[Step], job: Job) -> Step | None:
    """Return an objective's next step, None after the last. A process that it forked ends here, if not before.

    Raises ValueError where that is another trial's.
    """
    process = os.getpid()
    try:
        step = next(steps, None)
    finally:
        if os.getpid() != process:
            error = sys.exception()
            if error is not None and not isinstance(error, SystemExit):
                traceback.print_exc()
            os._exit(error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else error is not None)
    if step is not None and trial_of(step) != job.trial:
        raise ValueError(f"the objective was given trial {job.trial}, and tells of trial {trial_of(step)}")
    return step
