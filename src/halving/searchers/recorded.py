"""A resumed study's searcher: what the journal holds first, then the searcher's own proposals."""

from collections.abc import Mapping

from halving.searchers.base import Searcher, place
from halving.trial import Configuration


class Recorded:
    """Answers for the trials of an earlier process with their recorded configurations.

    A searcher with a method `recall(trial, configuration)` is told of each, as if it had proposed it itself.
    `exhausted` says whether a configuration was asked for and there was none.
    """

    def __init__(self, searcher: Searcher, configurations: Mapping[int, Configuration]) -> None:
        self._searcher = searcher
        self._configurations = configurations
        self.exhausted = False

    def propose(self, trial: int) -> Configuration | None:
        if trial not in self._configurations:
            proposal = self._searcher.propose(trial)
            self.exhausted = self.exhausted or proposal is None
            return proposal
        configuration = self._configurations[trial]
        if (recall := getattr(self._searcher, "recall", None)) is not None:
            recall(trial, configuration)
        return configuration

    def place(self, trial: int, below: int) -> None:
        place(self._searcher, trial, below)

    def observe(self, trial: int, configuration: Configuration, resource: int, error: float) -> None:
        self._searcher.observe(trial, configuration, resource, error)
