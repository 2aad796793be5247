"""What a searcher is."""

from typing import Protocol

from halving.trial import Configuration


class Searcher(Protocol):
    """Proposes configurations and may learn from the errors it observes."""

    def propose(self, trial: int) -> Configuration | None:
        """Return the configuration of trial `trial`, or None when the space is exhausted."""
        ...

    def observe(self, trial: int, configuration: Configuration, resource: int, error: float) -> None:
        """Take in the error of a trial at a resource; a failure is +inf."""
        ...
