"""Jobs that somebody else runs: handed out when asked for, ended when told."""

import time
from collections import deque
from collections.abc import Iterator

from halving.trial import Job, Step


class Handed:
    """Accepts a job whenever the last one was fetched, however many are out; `wait` yields what was told since."""

    def __init__(self) -> None:
        self._ready: Job | None = None
        self._out: dict[int, tuple[Job, float]] = {}
        self._told: deque[Step] = deque()
        self._began = time.monotonic()

    def fetch(self) -> Job | None:
        """Return the job that was submitted, if there is one: it is out from now on."""
        job, self._ready = self._ready, None
        if job is not None:
            self._out[job.trial] = (job, time.monotonic())
        return job

    def out(self, trial: int, until: int) -> tuple[Job, float] | None:
        """Return a job with the seconds that it has been out, None if it is not."""
        job, since = self._out.get(trial, (None, 0.0))
        return (job, time.monotonic() - since) if job is not None and job.until == until else None

    def tell(self, trial: int, *steps: Step) -> None:
        """Take note of what became of a trial's job, which ends with that."""
        del self._out[trial]
        self._told.extend(steps)

    def submit(self, job: Job) -> None:
        self._ready = job

    def wait(self) -> Iterator[Step]:
        while self._told:
            yield self._told.popleft()

    def has_room(self) -> bool:
        return self._ready is None

    def idle(self) -> bool:
        return self._ready is None and not self._out

    def now(self) -> float:
        return time.monotonic() - self._began

    def stop(self) -> Iterator[Step]:
        return iter(())

    def shutdown(self, graceful: bool = True) -> None:
        self._ready = None
