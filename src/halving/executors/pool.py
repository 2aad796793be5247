"""What every executor decides, wherever its workers are: who gets a job, who gets it again, and who is too late."""

import logging
import math
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from halving.errors import StudyError, UserError, real, whole
from halving.executors.base import failure
from halving.executors.work import Began, Lost, Message, Raised, Ready, Stopped, Unstarted, trial_of
from halving.trial import Epoch, Finished, Job, Restarted, Step

log = logging.getLogger(__name__)

Slot = int


class Backend(Protocol):
    """Where workers live, and how they are spoken to. A slot is one worker's life: its number never comes back."""

    def listen(self, timeout: float | None) -> Iterable[tuple[Slot, Message]]:
        """Give what slots say, after waiting for it at most so long; what is not taken is given the next time."""
        ...

    def send(self, slot: Slot, job: Job) -> None:
        """Give a slot that is ready a job. That its worker has died meanwhile is heard, not raised."""
        ...

    def ask_to_stop(self, slot: Slot) -> None:
        """Ask a slot that has a job to leave a checkpoint after this epoch, and say Stopped."""
        ...

    def kill(self, slot: Slot) -> None:
        """End a slot at once, with all that its job started; another may take its place."""
        ...

    def close(self) -> None:
        """End all of them so."""
        ...


def limits(retries: int, trial_timeout: float | None) -> tuple[int, float | None]:
    """Return them as they may be. Raises UserError for what is out of range."""
    if trial_timeout is not None:
        real("executor.trial_timeout", trial_timeout, lambda x: x > 0, "must be more than 0 seconds")
    return whole("executor.retries", retries, 0), trial_timeout


@dataclass
class _Task:
    """A job, how often a worker was lost by it, when it was handed over or began, and when it must have ended."""

    job: Job
    failures: int = 0
    begun: bool = False
    since: float = 0.0
    due: float = math.inf


class Pool:
    """Runs jobs in the slots of a backend, as many as there are at a time; while there is none, a job waits for one.

    A trial goes back to the slot that had it last, where its state may still be in memory. A job whose worker is lost
    goes to another one, up to `retries` times if that may be its fault; one that takes longer than `trial_timeout`
    seconds is ended and fails. It may take `start` seconds longer until it has begun. Time without any slot is not the
    study's.
    """

    def __init__(
        self, backend: Backend, retries: int = 0, trial_timeout: float | None = None, start: float = math.inf
    ) -> None:
        self._backend = backend
        self._retries = retries
        self._timeout = math.inf if trial_timeout is None else trial_timeout
        self._start = start
        self._free: dict[Slot, int | None] = {}  # with the trial that each had last
        self._busy: dict[Slot, _Task] = {}
        self._gone: set[Slot] = set()
        self._queue: deque[_Task] = deque()
        self._stopping = False
        self._places: set[str] = set()  # where jobs have failed
        self._began = time.monotonic()
        self._absent: float | None = self._began  # since when there is no slot
        for slot, message in backend.listen(0.0):  # those that are there from the beginning
            for _ in self._hear(slot, message):
                pass

    def submit(self, job: Job) -> None:
        self._assign(_Task(job))

    def wait(self) -> Iterator[Step]:
        """Yield steps until something has happened, a slot being free again or not."""
        for slot, message in self._backend.listen(self._patience()):
            yield from self._hear(slot, message)
        for slot, task in self._overdue():
            self._kill(slot)
            yield self._failed(task, f"timeout: it took longer than executor.trial_timeout={self._timeout:g} s")

    def has_room(self) -> bool:
        return bool(self._free) or not (self._busy or self._queue)

    def idle(self) -> bool:
        return not (self._busy or self._queue)

    def now(self) -> float:
        return (time.monotonic() if self._absent is None else self._absent) - self._began

    def stop(self) -> Iterator[Step]:
        self._stopping = True  # what comes to nothing from now on is run again when the study goes on
        self._queue.clear()
        for slot in self._busy:
            self._backend.ask_to_stop(slot)
        while self._busy:
            for slot, message in self._backend.listen(self._patience()):
                yield from self._hear(slot, message)
            for slot, _ in self._overdue():
                self._kill(slot)

    def shutdown(self, graceful: bool = True) -> None:
        try:
            if graceful:
                for _ in self.stop():
                    pass
        finally:
            self._backend.close()
            self._busy.clear()
            self._queue.clear()

    def _hear(self, slot: Slot, message: Message) -> Iterator[Step]:
        task = self._busy.get(slot)
        match message:
            case Ready():
                if task is None and slot not in self._free and slot not in self._gone:
                    self._offer(slot, None)
            case Lost() | Stopped() | Unstarted():
                self._forget(slot)
                yield from self._again(task, message)
            case Began(trial, until):
                if task is not None and not task.begun and (trial, until) == (task.job.trial, task.job.until):
                    task.begun, task.since = True, time.monotonic()
                    task.due = task.since + self._timeout
            case _ if task is None or not task.begun or not _of(task.job, message):
                pass  # it comes late, or once more
            case StudyError():
                self._release(slot)
                raise message
            case Raised(_, _, cause, details):
                self._release(slot)
                if not self._stopping:
                    self._log_failure(task.job, cause, details)
                    yield self._failed(task, cause)
            case Finished():
                self._release(slot)
                yield message
            case _:
                yield message

    def _assign(self, task: _Task) -> None:
        """Hand a job to its own slot, which has the trial in memory; else to the one whose memory is of least use."""
        free = self._free
        if free:
            self._hand(min(free, key=lambda slot: (free[slot] != task.job.trial, free[slot] is not None, slot)), task)
        else:
            self._queue.append(task)

    def _hand(self, slot: Slot, task: _Task) -> None:
        self._free.pop(slot, None)
        task.begun, task.since = False, time.monotonic()
        task.due = task.since + self._timeout + self._start
        self._busy[slot] = task
        self._backend.send(slot, task.job)

    def _offer(self, slot: Slot, last: int | None) -> None:
        """Take note of a slot that is free, unless a job waits for one."""
        if self._absent is not None:
            self._began += time.monotonic() - self._absent
            self._absent = None
        if self._queue:
            self._hand(slot, self._queue.popleft())
        else:
            self._free[slot] = last

    def _release(self, slot: Slot) -> None:
        self._offer(slot, self._busy.pop(slot).job.trial)

    def _forget(self, slot: Slot) -> None:
        self._gone.add(slot)
        self._free.pop(slot, None)
        self._busy.pop(slot, None)
        if self._absent is None and not (self._free or self._busy):
            self._absent = time.monotonic()

    def _kill(self, slot: Slot) -> None:
        self._forget(slot)
        self._backend.kill(slot)

    def _again(self, task: _Task | None, end: Lost | Stopped | Unstarted) -> Iterator[Step]:
        """Give a job to another slot, as long as there are retries left: its own is gone."""
        if isinstance(end, Unstarted) and not self._stopping:
            if not (self._free or self._busy):
                raise UserError(end.cause)
            log.warning("%s", end.cause)
        if task is None or self._stopping:
            return
        reason = "its worker had to stop"
        if isinstance(end, Lost):
            reason = end.reason
            task.failures += end.blame
            if task.failures > self._retries:
                also = f", also after executor.retries={self._retries}" if self._retries else ""
                yield self._failed(task, f"{reason}{also}")
                return
            if end.blame:
                reason += f"; retry {task.failures} of {self._retries}"
        self._assign(task)
        if not isinstance(end, Unstarted):
            log.warning("%s: %s", task.job.label, reason)
            yield Restarted(task.job.trial, task.job.since, reason)

    def _overdue(self) -> list[tuple[Slot, _Task]]:
        return [(slot, task) for slot, task in self._busy.items() if time.monotonic() >= task.due]

    def _patience(self) -> float | None:
        due = min((task.due for task in self._busy.values()), default=math.inf)
        return None if due == math.inf else max(0.0, due - time.monotonic())

    def _failed(self, task: _Task, cause: str) -> Finished:
        return failure(task.job, cause, time.monotonic() - task.since)

    def _log_failure(self, job: Job, cause: str, details: str) -> None:
        """Log why a job failed: in full, or in a line where one has failed before at the same place."""
        place = "".join(line for line in details.splitlines() if line.startswith("  File ")) or details
        again = place in self._places
        self._places.add(place)
        told = f", where one failed before: {cause}" if again else f": {details}"
        log.error("%s failed between %d and %d%s", job.label, job.since, job.until, told)


def _of(job: Job, message: Message) -> bool:
    """Whether a job, which has begun, may be what a message is of."""
    match message:
        case Raised(trial, until):
            return (trial, until) == (job.trial, job.until)
        case Epoch() | Restarted() | Finished():
            return trial_of(message) == job.trial
        case _:
            return True
