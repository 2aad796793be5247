"""What is trained: one protocol, for the loop of this package and for anybody's."""

from typing import Protocol

from halving.checkpoints.store import State
from halving.errors import UserError


class Training(Protocol):
    """One trial in training: exact to pause, save and resume after any unit of resource."""

    def aim(self, until: int) -> None:
        """Take note of the resource to which it is trained now, before it pauses or ends."""
        ...

    def epoch(self, epoch: int) -> dict[str, float]:
        """Train unit `epoch` (from 1) and return its metrics. Raises Exhausted where the training goes no further."""
        ...

    def state(self) -> State | None:
        """Return all that the next epoch depends on; None of one that cannot go on from anything."""
        ...

    def restore(self, state: State) -> None:
        """Go on from a state; only before the first epoch."""
        ...

    def close(self) -> None:
        """End, and let go of what it holds."""
        ...


class Exhausted(UserError):
    """The training has come to an end of its own."""
