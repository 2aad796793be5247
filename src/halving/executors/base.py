"""What runs jobs, and what a job runs."""

import math
from collections.abc import Generator, Iterator, Sequence
from typing import Protocol

from halving.errors import UserError
from halving.trial import Finished, Job, Outcome, Step


class Objective(Protocol):
    """What is optimised: works on jobs and yields, of each, its epochs and one Finished. Picklable.

    An executor hands it as many as it may work on together. Closing the generator before its end asks it to leave
    checkpoints, if it can, from which the same jobs go on.
    """

    def __call__(self, jobs: Sequence[Job]) -> Generator[Step]: ...


class Executor(Protocol):
    """Runs jobs. An executor with room for many may train them together; one with `workers` says how many it has."""

    def submit(self, job: Job) -> None:
        """Accept a job; only when there is room."""
        ...

    def wait(self) -> Iterator[Step]:
        """Yield what happens as it happens, and return when a decision may be due."""
        ...

    def has_room(self) -> bool: ...

    def idle(self) -> bool:
        """Whether no job is queued or running."""
        ...

    def now(self) -> float:
        """Return the seconds since the executor began: monotonic, or virtual in a simulation."""
        ...

    def stop(self) -> Iterator[Step]:
        """Ask what runs to leave a checkpoint at the end of its epoch, and yield what it still has to say."""
        ...

    def shutdown(self, graceful: bool = True) -> None:
        """End; gracefully, what runs is first asked to stop."""
        ...


def failure(job: Job, error: BaseException | str, seconds: float) -> Finished:
    """Return what a job comes to that raised `error`, or that `error` describes."""
    match error:
        case str() | UserError():
            cause = str(error)
        case _:
            cause = f"{type(error).__name__}: {error}"
    return Finished(Outcome(job.trial, job.since, math.nan, failed=True), seconds, cause=cause)
