"""Jobs by way of a launcher of Hydra: a whole batch at once."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import takewhile

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from halving.config.commands import override
from halving.errors import StudyError, first_line
from halving.executors.base import failure
from halving.history import Ladder, count
from halving.sweep.answers import VARIABLE
from halving.sweep.jobs import App
from halving.trial import Job, Restarted, Step

log = logging.getLogger(__name__)

Launch = Callable[[list[list[str]], int], object]


class _Due(list[list[str]]):
    """The overrides of jobs, which come to an end once the study is interrupted: launchers take one after the other."""

    def __init__(self, jobs: Iterable[list[str]], interrupted: Callable[[], bool]) -> None:
        super().__init__(jobs)
        self._interrupted = interrupted

    def __iter__(self) -> Iterator[list[str]]:
        return takewhile(lambda _: not self._interrupted(), super().__iter__())


class Launched:
    """Gathers the jobs of one rung, launches them together, and believes only the answers that they leave.

    What is without an answer afterwards is launched again, up to `retries` times, the last time each by itself: one
    that is killed may take the whole batch along. Without a `plan` a batch has `size` jobs.
    """

    def __init__(self, app: App, launch: Launch, plan: Sequence[Ladder], size: int | None, retries: int) -> None:
        self._interrupted: Callable[[], bool] = lambda: False
        self._app, self._launch, self._plan = app, launch, plan
        self._size, self._retries, self._launched = size, retries, 0
        self._batch: list[Job] = []
        self._said: deque[Step] = deque()
        self._began = time.monotonic()

    def begin(self, launched: int, interrupted: Callable[[], bool]) -> None:
        """Count on from the jobs that were launched before; launch nothing once the study is `interrupted`."""
        self._launched, self._interrupted = launched, interrupted

    def submit(self, job: Job) -> None:
        self._batch.append(job)

    def wait(self) -> Iterator[Step]:
        jobs, self._batch = self._batch, []
        reason = ""
        for attempt in range(self._retries + 1):
            due = [job for job in jobs if self._app.answer(job) is None]
            if not due or self._interrupted():
                break
            if attempt:
                for job in due:
                    yield Restarted(job.trial, job.since, f"{reason}; retry {attempt} of {self._retries}")
            alone = attempt and attempt == self._retries
            for batch in [[job] for job in due] if alone else [due]:
                reason = self._launched_once(batch)
        left = 0
        for job in jobs:
            if (answer := self._app.answer(job)) is not None:
                self._said.extend(self._app.steps(job, answer))
            elif self._interrupted():
                left += 1
            else:
                self._said.append(failure(job, reason, 0.0))
        if left:
            log.warning("interrupted: %d of %s left for later", left, count(len(jobs), "jobs"))
        yield from self.stop()

    def has_room(self) -> bool:
        return not self._batch or len(self._batch) < self._room(self._batch[0])

    def idle(self) -> bool:
        return not self._batch

    def now(self) -> float:
        return time.monotonic() - self._began

    def stop(self) -> Iterator[Step]:
        while self._said:
            yield self._said.popleft()

    def shutdown(self, graceful: bool = True) -> None:
        self._batch.clear()

    def _launched_once(self, jobs: list[Job]) -> str:
        """Launch jobs, and say why those without an answer may have none. Raises StudyError where none can begin."""
        rungs, reason = [self._app.rung(job) for job in jobs], "the job ended without an answer"
        try:
            self._launch(_Due(map(self._overrides, jobs), self._interrupted), self._launched)
        except (HydraException, OmegaConfBaseException) as error:
            raise StudyError(f"the jobs cannot be composed: {first_line(error)}") from error
        except Exception as error:
            reason = f"the launcher ended with {type(error).__name__}: {first_line(error).partition('. ')[0]}"
            log.warning("%s; what has no answer is run again", reason)
            if not any(rung.lock.exists() for rung in rungs):
                raise StudyError(f"{reason}, and no job began") from error
        self._launched += len(jobs)
        rungs[0].check()
        return reason

    def _overrides(self, job: Job) -> list[str]:
        return [*self._app.overrides(job), override(f"hydra.job.env_set.{VARIABLE}", self._app.rung(job).told())]

    def _room(self, first: Job) -> int:
        """Return how many jobs there are in the rung of a batch's first one."""
        begun = 0
        for ladder in self._plan:
            begun += sum(ladder.sizes[:1])
            if first.trial < begun and len(ladder.sizes) == len(ladder.levels):
                return min(ladder.sizes[ladder.levels.index(first.until)], self._size or len(self._batch) + 1)
        return self._size or 1
