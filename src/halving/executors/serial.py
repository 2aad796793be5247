"""One job at a time, in this process."""

from collections.abc import Generator, Iterator, Sequence

from halving.executors.base import Objective
from halving.executors.pool import Pool, Slot
from halving.executors.work import Lost, Message, Raised, Ready, work
from halving.trial import Job


class Serial(Pool):
    """Runs one job at a time where the study runs: the simplest executor, and the one to debug with."""

    workers = 1

    def __init__(self, objective: Objective) -> None:
        super().__init__(Here(objective))


class Here:
    """The study's own process as the only worker, which works while it is listened to."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._stopping = False
        self._said: Generator[Message] | None = None
        self._ready = True

    def listen(self, timeout: float | None) -> Iterator[tuple[Slot, Message]]:
        if self._ready:
            self._ready = False
            yield 0, Ready()
        for message in self._said or ():
            yield 0, message

    def send(self, slot: Slot, jobs: Sequence[Job]) -> None:
        self._said = self._work(jobs)

    def ask_to_stop(self, slot: Slot) -> None:
        self._stopping = True

    def kill(self, slot: Slot) -> None:
        self.close()

    def close(self) -> None:
        self._said = None

    def _work(self, jobs: Sequence[Job]) -> Generator[Message]:
        for message in work(self._objective, jobs, lambda: self._stopping):
            if isinstance(message, Lost):  # it cannot end, and let another one try again
                message = Raised(jobs[0].trial, jobs[0].until, message.reason, message.details, message.memory)
            yield message
