"""What every worker does with jobs, wherever it is, and the words that it and the pool exchange: frozen values."""

import os
import sys
import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial

from halving.errors import DeviceFull, StudyError, UserError
from halving.executors import signals
from halving.executors.base import Objective, failure
from halving.trial import Epoch, Finished, Job, Step


@dataclass(frozen=True, slots=True)
class Ready:
    """A slot is there, and takes jobs."""


@dataclass(frozen=True, slots=True)
class Began:
    """A group of jobs, known by its first, has left every queue: its time counts from here.

    What a slot says before that is of an earlier one.
    """

    trial: int
    until: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """The worker has left checkpoints, if it could, and does nothing more."""


@dataclass(frozen=True, slots=True)
class Raised:
    """The objective raised at a group of jobs, known by its first; the worker is free again.

    `memory` says whether that was because it had too little.
    """

    trial: int
    until: int
    cause: str
    details: str
    memory: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """The worker is gone, or ends with this word. Whether its jobs are to `blame`: not for the death of a machine.

    `memory` says whether it is known to have had too little.
    """

    reason: str
    blame: bool = True
    details: str = ""
    memory: bool = False


@dataclass(frozen=True, slots=True)
class Unstarted:
    """The worker could not start, nor would another there."""

    cause: str


Message = Step | Ready | Began | Stopped | Raised | Lost | Unstarted | StudyError


def work(objective: Objective, jobs: Sequence[Job], asked_to_stop: Callable[[], bool]) -> Generator[Message]:
    """Work on jobs together and yield what is to be told of them; after an epoch it may be asked to stop.

    Raises only what answers a signal of the user's.
    """
    first, left = jobs[0], {job.trial: None for job in jobs}
    yield Began(first.trial, first.until)
    steps = _steps(objective, jobs)
    while (message := _answer(first, partial(_advance, steps, left))) is not None:
        yield message
        if not isinstance(message, Step):
            return
        if isinstance(message, Epoch) and asked_to_stop():
            yield _answer(first, steps.close) or Stopped()
            return
    if left:
        yield raised(first, ValueError(f"the objective was given trial {next(iter(left))}, and tells no end of it"))


def raised(job: Job, error: BaseException) -> Raised:
    """Return what is told of an error: the log gets its traceback, but of a user's mistake its words and notes."""
    if isinstance(error, UserError):
        details = "\n".join([str(error), *getattr(error, "__notes__", ())])
    else:
        details = "\n" + "".join(traceback.format_exception(error))
    memory = isinstance(error, MemoryError | DeviceFull)
    return Raised(job.trial, job.until, failure(job, error, 0.0).cause, details, memory)


def _answer(job: Job, act: Callable[[], Message | None]) -> Message | None:
    try:
        return act()
    except StudyError as error:
        return error
    except MemoryError as error:
        return Lost(f"its worker ran out of memory ({error})", details=raised(job, error).details, memory=True)
    except BaseException as error:  # SystemExit, too, ends no more than the trial
        if signals.from_user(error):
            raise
        return raised(job, error)


def _steps(objective: Objective, jobs: Sequence[Job]) -> Generator[Step]:
    yield from objective(jobs)


def trial_of(step: Step) -> int:
    return step.outcome.trial if isinstance(step, Finished) else step.trial


def _advance(steps: Generator[Step], left: dict[int, None]) -> Step | None:
    """Return an objective's next step, None after the last, and leave only trials in `left` that have no end yet.

    A process that it forked ends here, if not before. Raises ValueError where the step is another trial's.
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
    if step is not None and (trial := trial_of(step)) not in left:
        given = f"trial {', '.join(map(str, left))}" if left else "nothing more"
        raise ValueError(f"the objective was given {given}, and tells of trial {trial}")
    if isinstance(step, Finished):
        del left[step.outcome.trial]
    return step
