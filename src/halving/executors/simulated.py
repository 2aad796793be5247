"""Many workers under a virtual clock."""

import heapq
import math
from collections.abc import Iterator

import numpy as np

from halving.errors import real, whole
from halving.executors.base import Objective, failure
from halving.trial import Epoch, Finished, Job, Restarted, Step


class Simulated:
    """Runs jobs on `workers` workers that take no time: each ends after the seconds that its objective tells.

    What happens is ordered by time, then by arrival; all that happens at one instant is known before the next decision.
    `stragglers` is the standard deviation of a log-normal slow-down of each assignment, with median 1. A worker fails
    once in `seconds_to_failure` seconds on average; its job begins again at its last checkpoint: the one it started
    from, or the last after every `checkpoint_every` units. After `retries` failures it fails. `pause_seconds` and
    `resume_seconds` are what saving and loading a checkpoint take. Draws come from (seed, trial, until), so that
    they do not depend on the scheduler.

    Raises UserError for numbers out of range.
    """

    def __init__(
        self,
        objective: Objective,
        workers: int = 1,
        stragglers: float = 0.0,
        seconds_to_failure: float | None = None,
        retries: int = 2,
        checkpoint_every: int | None = None,
        pause_seconds: float = 0.0,
        resume_seconds: float = 0.0,
        seed: int = 0,
    ) -> None:
        for name, value in (
            ("stragglers", stragglers),
            ("pause_seconds", pause_seconds),
            ("resume_seconds", resume_seconds),
        ):
            real(f"executor.{name}", value, lambda x: 0 <= x < math.inf, "must be a number of at least 0")
        if seconds_to_failure is not None:
            real("executor.seconds_to_failure", seconds_to_failure, lambda x: x > 0, "must be more than 0 seconds")
        self._objective = objective
        self.workers = whole("executor.workers", workers)
        self._stragglers = stragglers
        self._seconds_to_failure = seconds_to_failure
        self._retries = whole("executor.retries", retries, 0)
        self._checkpoint_every = (
            None if checkpoint_every is None else whole("executor.checkpoint_every", checkpoint_every)
        )
        self._pause_seconds = pause_seconds
        self._resume_seconds = resume_seconds
        self._seed = whole("executor.seed", seed, 0)
        self._clock = 0.0
        self._running = 0
        self._arrivals = 0
        self._due: list[tuple[float, int, Step]] = []

    def submit(self, job: Job) -> None:
        self._running += 1
        *steps, finished = self._objective((job,))
        assert isinstance(finished, Finished)
        seconds = finished.seconds + self._pause_seconds + (self._resume_seconds if job.since else 0.0)
        if self._stragglers or self._seconds_to_failure is not None:
            seconds, finished = self._disturbed(job, seconds, finished)
            reached = finished.outcome.resource
            steps = [step for step in steps if not (isinstance(step, Epoch) and step.epoch > reached)]
        elif seconds != finished.seconds:
            finished = _lasting(finished, seconds)
        for step in (*steps, finished):
            self._at(self._clock + seconds, step)

    def wait(self) -> Iterator[Step]:
        if not self._due:
            return
        self._clock = self._due[0][0]
        while self._due and self._due[0][0] == self._clock:
            step = heapq.heappop(self._due)[2]
            self._running -= isinstance(step, Finished)
            yield step

    def has_room(self) -> bool:
        return self._running < self.workers

    def idle(self) -> bool:
        return not self._running

    def now(self) -> float:
        return self._clock

    def stop(self) -> Iterator[Step]:
        return iter(())

    def shutdown(self, graceful: bool = True) -> None:
        self._due.clear()
        self._running = 0

    def _at(self, time: float, step: Step) -> None:
        heapq.heappush(self._due, (time, self._arrivals, step))
        self._arrivals += 1

    def _disturbed(self, job: Job, seconds: float, finished: Finished) -> tuple[float, Finished]:
        """Return what a job takes and comes to on a slow worker that may fail; its restarts become due as well."""
        rng = np.random.default_rng([self._seed, job.trial, job.until])
        seconds *= math.exp(self._stragglers * rng.standard_normal())
        if self._seconds_to_failure is None:
            return seconds, _lasting(finished, seconds)
        units = max(1, finished.outcome.resource - job.since)
        spent, kept = 0.0, 0
        for failures in range(1, self._retries + 2):
            left = seconds * (1 - kept / units)
            lasts = float(rng.exponential(self._seconds_to_failure))
            if lasts >= left:
                return spent + left, _lasting(finished, spent + left)
            spent += lasts
            if self._checkpoint_every is not None:
                done = job.since + kept + int((units - kept) * lasts / left)
                kept = max(kept, done // self._checkpoint_every * self._checkpoint_every - job.since)
            if failures <= self._retries:
                reason = f"its worker failed; retry {failures} of {self._retries}"
                self._at(self._clock + spent, Restarted(job.trial, job.since + kept, reason))
        cause = f"its worker failed, also after executor.retries={self._retries}"
        return spent, failure(job, cause, spent)


def _lasting(finished: Finished, seconds: float) -> Finished:
    return Finished(finished.outcome, seconds, finished.checkpoint, finished.cause, finished.cost)
