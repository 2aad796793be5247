"""What every executor decides, wherever its workers are: who gets a job, who gets it again, and who is too late."""

import logging
import math
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from halving.errors import StudyError, UserError, real, whole
from halving.executors.base import Objective, failure
from halving.executors.work import Began, Lost, Message, Raised, Ready, Stopped, Unstarted, trial_of
from halving.trial import Epoch, Finished, Job, Restarted, Step

log = logging.getLogger(__name__)

Slot = int
Alike = Callable[[Job], Hashable | None]

_MOST = 1024  # many more trials together are a slip


class Backend(Protocol):
    """Where workers live, and how they are spoken to. A slot is one worker's life: its number never comes back."""

    def listen(self, timeout: float | None) -> Iterable[tuple[Slot, Message]]:
        """Give what slots say, after waiting for it at most so long; what is not taken is given the next time."""
        ...

    def send(self, slot: Slot, jobs: Sequence[Job]) -> None:
        """Give a slot that is ready jobs, to do together. That its worker has died meanwhile is heard, not raised."""
        ...

    def ask_to_stop(self, slot: Slot) -> None:
        """Ask a slot that has jobs to leave checkpoints after this epoch, and say Stopped."""
        ...

    def kill(self, slot: Slot) -> None:
        """End a slot at once, with all that its jobs started; another may take its place."""
        ...

    def close(self) -> None:
        """End all of them so."""
        ...


def limits(retries: int, trial_timeout: float | None) -> tuple[int, float | None]:
    """Return them as they may be. Raises UserError for what is out of range."""
    if trial_timeout is not None:
        real("executor.trial_timeout", trial_timeout, lambda x: x > 0, "must be more than 0 seconds")
    return whole("executor.retries", retries, 0), trial_timeout


@dataclass(frozen=True)
class Batching:
    """Which jobs a slot gets together: up to `batch` that are `alike`; smaller groups wait `patience` seconds for more.

    Jobs with the same two rungs are alike whose likeness is equal; one without any is always alone.
    """

    batch: int = 1
    patience: float = 0.0
    alike: Alike | None = None

    @classmethod
    def of(cls, objective: Objective, batch: int, patience: float) -> "Batching":
        """Return what an objective's jobs allow. Raises UserError for what is out of range."""
        whole("executor.batch", batch, most=_MOST)
        real(
            "executor.patience", patience, lambda x: 0 <= x < math.inf, "must be a finite number of seconds, at least 0"
        )
        alike: Alike | None = getattr(objective, "alike", None)
        if batch > 1 and alike is None:
            log.warning("executor.batch=%d has no effect: what is evaluated here is no training of many at once", batch)
        return cls(1 if alike is None else batch, patience, alike)


@dataclass(eq=False)
class _Task:
    """A job that waits or runs: what makes it alike to others, since when it waits, and how often it lost a worker."""

    job: Job
    like: Hashable | None
    asked: float
    failures: int = 0

    @property
    def group(self) -> Hashable:
        """What is equal for jobs that may go to a slot together."""
        return self if self.like is None else (self.like, self.job.since, self.job.until)


@dataclass
class _Group:
    """What a slot works on, and what of it is `left`; when it was handed over or began, and when it must have ended."""

    tasks: Sequence[_Task]
    since: float
    due: float
    begun: bool = False
    left: dict[int, _Task] = field(default_factory=dict[int, _Task])

    def __post_init__(self) -> None:
        self.left.update((task.job.trial, task) for task in self.tasks)

    @property
    def first(self) -> tuple[int, int]:
        return self.tasks[0].job.trial, self.tasks[0].job.until


class Pool:
    """Runs jobs in the slots of a backend, as many as there are at a time; while there is none, a job waits for one.

    What is alike goes to a slot together, as `batching` says, and as evenly to slots that are free as it can be. A
    trial goes back to the slot that had it last, where its state may still be in memory. A job whose worker is lost
    goes to another one, up to `retries` times if that may be its fault; one that takes longer than `trial_timeout`
    seconds is ended and fails. It may take `start` seconds longer until it has begun. Of a group, which may take as
    many times as long as it has jobs, nobody is known to be at fault: its jobs go on alone, or in groups of half the
    size where memory was short. Time without any slot is not the study's.
    """

    def __init__(
        self,
        backend: Backend,
        retries: int = 0,
        trial_timeout: float | None = None,
        start: float = math.inf,
        batching: Batching | None = None,
    ) -> None:
        self._backend = backend
        self._retries = retries
        self._timeout = math.inf if trial_timeout is None else trial_timeout
        self._start = start
        self._batching = batching or Batching()
        self._most: dict[Hashable, int] = {}  # by likeness, where `batch` was too many for the memory
        self._free: dict[Slot, frozenset[int]] = {}  # with the trials that each had last
        self._busy: dict[Slot, _Group] = {}
        self._gone: set[Slot] = set()
        self._queue: list[_Task] = []
        self._stopping = False
        self._places: set[str] = set()  # where jobs have failed
        self._began = time.monotonic()
        self._absent: float | None = self._began  # since when there is no slot
        for slot, message in backend.listen(0.0):  # those that are there from the beginning
            for _ in self._hear(slot, message):
                pass

    @property
    def batch(self) -> int:
        """How many trials a worker may have at a time."""
        return self._batching.batch

    def submit(self, job: Job) -> None:
        alike = self._batching.alike if self.batch > 1 else None
        self._queue.append(_Task(job, None if alike is None else alike(job), time.monotonic()))
        self._hand_out(more=True)

    def wait(self) -> Iterator[Step]:
        """Yield steps until something has happened, a slot being free again or not."""
        self._hand_out(more=False)
        for slot, message in self._backend.listen(self._until_due()):
            yield from self._hear(slot, message)
        for slot, group in self._overdue():
            self._kill(slot)
            yield from self._ended(group, f"timeout: it took longer than executor.trial_timeout={self._timeout:g} s")

    def has_room(self) -> bool:
        places = len(self._free) or (0 if self._busy else 1)
        return sum(1 if task.like is not None else self.batch for task in self._queue) < places * self.batch

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
            for slot, message in self._backend.listen(self._until_due()):
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
        group = self._busy.get(slot)
        match message:
            case Ready():
                if group is None and slot not in self._free and slot not in self._gone:
                    self._offer(slot, frozenset())
            case Lost() | Stopped() | Unstarted():
                self._forget(slot)
                yield from self._again(group, message)
            case Began(trial, until):
                if group is not None and not group.begun and (trial, until) == group.first:
                    group.begun, group.since = True, time.monotonic()
                    group.due = group.since + self._timeout * len(group.tasks)
            case _ if group is None or not group.begun or not _of(group, message):
                pass  # it comes late, or once more
            case StudyError():
                self._release(slot)
                raise message
            case Raised(_, _, cause, details, memory):
                self._release(slot)
                if not self._stopping:
                    self._log_failure(group, cause, details)
                    yield from self._ended(group, cause, memory)
            case Finished(outcome):
                del group.left[outcome.trial]
                if not group.left:
                    self._release(slot)
                yield message
            case _:
                yield message

    def _hand_out(self, more: bool) -> None:
        """Hand jobs that wait to free slots: the oldest first with its company, divided evenly if slots are left over.

        With `more`, others may come at any moment: only those that have no use for them go. A trial goes to its own
        slot, which has it in memory; else to the one whose memory is of least use.
        """
        groups: dict[Hashable, list[_Task]] = {}
        open_ = more and self.has_room()
        for task in self._queue:
            if task.like is None or not open_:
                groups.setdefault(task.group, []).append(task)
        groups = {key: groups[key] for key in self._ripe(groups)}
        shares = {key: math.ceil(len(tasks) / self._limit(tasks[0].like)) for key, tasks in groups.items()}
        while groups and sum(shares.values()) < len(self._free):
            largest = max(groups, key=lambda key: len(groups[key]) / shares[key])
            if shares[largest] == len(groups[largest]):
                break
            shares[largest] += 1
        for key, tasks in groups.items():
            for share in range(shares[key], 0, -1):
                if self._free:
                    self._hand_over(tasks, math.ceil(len(tasks) / share))

    def _ripe(self, groups: dict[Hashable, list[_Task]]) -> list[Hashable]:
        """Return which groups go now, in order. While nothing is busy none can grow, and the largest goes first."""
        now = time.monotonic()
        ripe = [
            key
            for key, tasks in groups.items()
            if len(tasks) >= self._limit(tasks[0].like) or self._bored(tasks) <= now
        ]
        rest = () if self._busy else sorted(groups.keys() - ripe, key=lambda key: -len(groups[key]))
        return [*ripe, *rest]

    def _bored(self, tasks: Iterable[_Task]) -> float:
        """Return when the first of these will have waited long enough for company."""
        return min(task.asked for task in tasks) + self._batching.patience

    def _limit(self, like: Hashable | None) -> int:
        return 1 if like is None else self._most.get(like, self.batch)

    def _hand_over(self, tasks: list[_Task], size: int) -> None:
        """Take so many of the tasks and give them to the slot that is best for them."""
        free, trials = self._free, {task.job.trial for task in tasks}
        slot = min(free, key=lambda slot: (-len(free[slot] & trials), bool(free[slot]), slot))
        last = free.pop(slot)
        others = frozenset[int]().union(*free.values())
        chosen = sorted(tasks, key=lambda task: (task.job.trial not in last, task.job.trial in others))[:size]
        for task in chosen:
            tasks.remove(task)
            self._queue.remove(task)
        now = time.monotonic()
        self._busy[slot] = _Group(chosen, now, now + self._timeout * len(chosen) + self._start)
        self._backend.send(slot, tuple(task.job for task in chosen))

    def _offer(self, slot: Slot, last: frozenset[int]) -> None:
        """Take note of a slot that is free, unless jobs wait for one."""
        if self._absent is not None:
            self._began += time.monotonic() - self._absent
            self._absent = None
        self._free[slot] = last
        self._hand_out(more=True)

    def _release(self, slot: Slot) -> None:
        self._offer(slot, frozenset(task.job.trial for task in self._busy.pop(slot).tasks))

    def _forget(self, slot: Slot) -> None:
        self._gone.add(slot)
        self._free.pop(slot, None)
        self._busy.pop(slot, None)
        if self._absent is None and not (self._free or self._busy):
            self._absent = time.monotonic()

    def _kill(self, slot: Slot) -> None:
        self._forget(slot)
        self._backend.kill(slot)

    def _again(self, group: _Group | None, end: Lost | Stopped | Unstarted) -> Iterator[Step]:
        """Give jobs to another slot, as long as there are retries left: their own is gone."""
        if isinstance(end, Unstarted) and not self._stopping:
            if not (self._free or self._busy):
                raise UserError(end.cause)
            log.warning("%s", end.cause)
        if group is None or self._stopping:
            return
        reason = "its worker had to stop"
        if isinstance(end, Lost):
            reason = end.reason
            if end.blame:
                task, *others = group.tasks
                if others:
                    yield from self._ended(group, reason, end.memory)
                    return
                task.failures, task.like = task.failures + 1, None
                if task.failures > self._retries:
                    also = f", also after executor.retries={self._retries}" if self._retries else ""
                    yield from self._ended(group, f"{reason}{also}")
                    return
                reason += f"; retry {task.failures} of {self._retries}"
        yield from self._requeued(group, "" if isinstance(end, Unstarted) else reason)

    def _ended(self, group: _Group, cause: str, memory: bool = False) -> Iterator[Step]:
        """Fail a job that was alone. Of several it may have been any: they go on, and none pays for it."""
        if len(group.tasks) == 1:
            yield failure(group.tasks[0].job, cause, time.monotonic() - group.since)
            return
        size, like = len(group.tasks), group.tasks[0].like
        if memory:
            self._most[like] = min(size // 2, self._limit(like))
        else:
            for task in group.tasks:
                task.like = None
        fewer = f"at most {size // 2} together" if memory and size > 3 else "one by one"
        yield from self._requeued(group, f"{cause}; {size} trials were trained together, and go on {fewer}")

    def _requeued(self, group: _Group, reason: str) -> Iterator[Restarted]:
        """Let what is left of a group wait for a slot before all others, and say why, if there is a reason."""
        left = list(group.left.values())
        self._queue[:0] = left
        self._hand_out(more=True)
        if reason:
            log.warning("%s: %s", _label(left), reason)
            yield from (Restarted(task.job.trial, task.job.since, reason) for task in left)

    def _overdue(self) -> list[tuple[Slot, _Group]]:
        return [(slot, group) for slot, group in self._busy.items() if time.monotonic() >= group.due]

    def _until_due(self) -> float | None:
        """Return the seconds until a group is overdue, or has waited long enough for company."""
        due = min((group.due for group in self._busy.values()), default=math.inf)
        if self._free and self._queue:
            due = min(due, self._bored(self._queue))
        return None if due == math.inf else max(0.0, due - time.monotonic())

    def _log_failure(self, group: _Group, cause: str, details: str) -> None:
        """Log why jobs failed: in full, or in a line where one has failed before at the same place."""
        place = "".join(line for line in details.splitlines() if line.startswith("  File ")) or details
        again = place in self._places
        self._places.add(place)
        told = f", where one failed before: {cause}" if again else f": {details}"
        what, job = "failed" if len(group.tasks) == 1 else "failed together", group.tasks[0].job
        log.error("%s %s between %d and %d%s", _label(group.tasks), what, job.since, job.until, told)


def _label(tasks: Iterable[_Task]) -> str:
    return ", ".join(task.job.label for task in tasks)


def _of(group: _Group, message: Message) -> bool:
    """Whether a group, which has begun, may be what a message is of."""
    match message:
        case Raised(trial, until):
            return (trial, until) == group.first
        case Epoch() | Restarted() | Finished():
            return trial_of(message) in group.left
        case _:
            return True
