"""What a scheduler is."""

from typing import Protocol

from halving.errors import UserError
from halving.trial import Done, Outcome, Resume, Start, Verdict, Wait


class Scheduler(Protocol):
    """Allocates resource to trials: a state machine without I/O, clock, logging or global randomness.

    A scheduler may also have a property `plan`, a tuple of `Ladder`, which says beforehand what it will run, and an
    attribute `extended_by`, which names the option that may grow when a study goes on.
    """

    def suggest(self) -> Start | Resume | Wait | Done:
        """Return the next assignment. Wait and Done change nothing inside."""
        ...

    def update(self, outcome: Outcome) -> tuple[Verdict, ...]:
        """Take in what an assignment came to; closing a rung gives the verdicts of many trials at once."""
        ...


def check_ladder(eta: int, r_min: int, r_max: int) -> None:
    """Refuse a reduction factor or resources with which there is no ladder.

    Raises UserError.
    """
    for name, value in (("eta", eta), ("r_min", r_min), ("r_max", r_max)):
        if value != int(value):
            raise UserError(f"{name}={value}: must be an integer")
    if eta < 2:
        raise UserError(f"eta={eta}: must be an integer of at least 2, since a rung keeps one trial in eta")
    if r_min < 1:
        raise UserError(f"r_min={r_min}: must be at least 1 unit of resource")
    if r_min > r_max:
        raise UserError(f"r_min={r_min} is more than r_max={r_max}: the first rung must not lie above the last")
