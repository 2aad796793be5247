"""What a scheduler is."""

from typing import Protocol

from halving.errors import UserError, whole
from halving.history import Ladder
from halving.trial import Done, Outcome, Resume, Start, Verdict, Wait


class Scheduler(Protocol):
    """Allocates resource to trials: a state machine without I/O, clock, logging or global randomness.

    A scheduler may also have a property `plan`, a tuple of `Ladder`, which says beforehand what it will run and is
    empty of one that goes on without end, and an attribute `extended_by`, which names the option that may grow when a
    study goes on.
    """

    def suggest(self) -> Start | Resume | Wait | Done:
        """Return the next assignment. Wait and Done change nothing inside."""
        ...

    def update(self, outcome: Outcome) -> tuple[Verdict, ...]:
        """Take in what an assignment came to; closing a rung gives the verdicts of many trials at once."""
        ...


def plan_of(scheduler: Scheduler) -> tuple[Ladder, ...]:
    """Return what a scheduler will run, as far as it says that beforehand."""
    return getattr(scheduler, "plan", ())


def is_endless(scheduler: Scheduler) -> bool:
    """Whether a scheduler says that only a budget ends it."""
    return hasattr(scheduler, "plan") and not plan_of(scheduler)


def check_ladder(eta: int, r_min: int, r_max: int) -> tuple[int, int, int]:
    """Return a reduction factor and resources as Python's own integers.

    Raises UserError where there is no ladder with them.
    """
    checked = (
        whole("eta", eta, 2, ", since a rung keeps one trial in eta"),
        whole("r_min", r_min, 1, " unit of resource"),
        whole("r_max", r_max, 1, " unit of resource"),
    )
    if r_min > r_max:
        raise UserError(f"r_min={r_min} is more than r_max={r_max}: the first rung must not lie above the last")
    return checked


def check_trials(max_trials: int | None) -> int | None:
    """Return how many trials there are at most, None for no end of them. Raises UserError for less than 1."""
    return None if max_trials is None else whole("scheduler.max_trials", max_trials)
