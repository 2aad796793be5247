"""One job at a time, in this process."""

import time
from collections.abc import Generator, Iterator

from halving.errors import StudyError
from halving.executors import signals
from halving.executors.base import Objective, advance, details, failure, log_failure
from halving.trial import Job, Step


class Serial:
    """Runs one job at a time where the study runs: the simplest executor, and the one to debug with."""

    workers = 1

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._job: Job | None = None
        self._steps: Generator[Step] | None = None
        self._began = time.monotonic()
        self._places = set[str]()

    def submit(self, job: Job) -> None:
        self._job = job

    def wait(self) -> Iterator[Step]:
        job = self._job
        if job is None:
            return
        began = time.monotonic()
        try:
            self._steps = self._objective((job,))
            while (step := self._next(self._steps, job, began)) is not None:
                yield step
        finally:
            self._job = None

    def _next(self, steps: Generator[Step], job: Job, began: float) -> Step | None:
        try:
            return advance(steps)
        except BaseException as error:  # SystemExit, too, ends no more than the trial
            if isinstance(error, StudyError) or signals.from_user(error):
                raise
            failed = failure(job, error, time.monotonic() - began)
            log_failure(job, failed.cause, details(error), self._places)
            return failed

    def has_room(self) -> bool:
        return self._job is None

    def idle(self) -> bool:
        return self._job is None

    def now(self) -> float:
        return time.monotonic() - self._began

    def stop(self) -> Iterator[Step]:
        if self._steps is not None:
            self._steps.close()
        return iter(())

    def shutdown(self, graceful: bool = True) -> None:
        if graceful:
            self.stop()
        self._job = self._steps = None
