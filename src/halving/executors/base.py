"""What runs jobs, and what a job runs."""

from collections.abc import Iterator
from typing import Protocol

from halving.trial import Epoch, Finished, Job


class Objective(Protocol):
    """What is optimised: works on a job and yields its epochs and, last, exactly one Finished. Picklable."""

    def __call__(self, job: Job) -> Iterator[Epoch | Finished]: ...


class Executor(Protocol):
    """Runs jobs. An executor with room for many may train them together."""

    def submit(self, job: Job) -> None:
        """Accept a job; only when there is room."""
        ...

    def wait(self) -> Iterator[Epoch | Finished]:
        """Yield what happens as it happens, and return when a decision may be due."""
        ...

    def has_room(self) -> bool: ...

    def idle(self) -> bool:
        """Whether no job is queued or running."""
        ...

    def now(self) -> float:
        """Return the seconds since the executor began: monotonic, or virtual in a simulation."""
        ...

    def shutdown(self, graceful: bool = True) -> None: ...
