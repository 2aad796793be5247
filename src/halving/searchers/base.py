"""What a searcher is."""

from typing import Protocol

from halving.trial import Configuration


class Searcher(Protocol):
    """Proposes configurations and may learn from the errors it observes.

    A searcher may also have a method `place(trial, below)`, which is told, before it proposes, how many of the study's
    levels lie below the one that the trial begins at.
    """

    def propose(self, trial: int) -> Configuration | None:
        """Return the configuration of trial `trial`, or None when the space is exhausted."""
        ...

    def observe(self, trial: int, configuration: Configuration, resource: int, error: float) -> None:
        """Take in the error of a trial at a resource; a failure is +inf."""
        ...


def place(searcher: Searcher, trial: int, below: int) -> None:
    """Tell a searcher that asks how many levels lie below the one that a trial begins at."""
    if (told := getattr(searcher, "place", None)) is not None:
        told(trial, below)
