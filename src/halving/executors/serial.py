"""One job at a time, in this process."""

import logging
import math
import time
from collections.abc import Iterator

from halving.errors import StorageError
from halving.executors.base import Objective
from halving.trial import Epoch, Finished, Job, Outcome

log = logging.getLogger(__name__)


class Serial:
    """Runs one job at a time where the study runs: the simplest executor, and the one to debug with."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._job: Job | None = None
        self._began = time.monotonic()

    def submit(self, job: Job) -> None:
        self._job = job

    def wait(self) -> Iterator[Epoch | Finished]:
        job = self._job
        if job is None:
            return
        began = time.monotonic()
        try:
            yield from self._objective(job)
        except StorageError:
            raise
        except Exception as error:
            log.exception("trial %d failed between %d and %d", job.trial, job.since, job.until)
            cause = f"{type(error).__name__}: {error}"
            yield Finished(Outcome(job.trial, job.since, math.nan, failed=True), time.monotonic() - began, cause=cause)
        finally:
            self._job = None

    def has_room(self) -> bool:
        return self._job is None

    def idle(self) -> bool:
        return self._job is None

    def now(self) -> float:
        return time.monotonic() - self._began

    def shutdown(self, graceful: bool = True) -> None:
        """Drop what is queued; nothing runs outside `wait`."""
        self._job = None
