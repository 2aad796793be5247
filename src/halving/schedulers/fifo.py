"""First in, first out: every trial gets everything (the book's BasicScheduler)."""

from halving.history import Ladder
from halving.schedulers.base import check_ladder, check_trials
from halving.searchers import Searcher
from halving.trial import Configuration, Done, Outcome, Start, Verdict, Wait


class FIFO:
    """Trains each trial to `r_max` in the order proposed; `max_trials=None` goes on until a budget ends the study.

    It is the baseline without early stopping, and the choice where early errors say nothing.
    """

    extended_by = "max_trials"

    def __init__(self, searcher: Searcher, r_max: int, max_trials: int | None = None) -> None:
        self._searcher = searcher
        _, _, self._r_max = check_ladder(2, 1, r_max)
        self._max_trials = check_trials(max_trials)
        self._configurations: dict[int, Configuration] = {}
        self._finished = 0

    @property
    def plan(self) -> tuple[Ladder, ...]:
        """One rung, where the number of trials is known beforehand."""
        return () if self._max_trials is None else (Ladder((self._r_max,), (self._max_trials,)),)

    def suggest(self) -> Start | Wait | Done:
        trial = len(self._configurations)
        if trial != self._max_trials:
            configuration = self._searcher.propose(trial)
            if configuration is not None:
                self._configurations[trial] = configuration
                return Start(trial, configuration, self._r_max, reason="next in line")
        return Wait() if self._finished < trial else Done()

    def update(self, outcome: Outcome) -> tuple[Verdict, ...]:
        self._finished += 1
        error = outcome.rank_error
        self._searcher.observe(outcome.trial, self._configurations[outcome.trial], outcome.resource, error)
        if error == float("inf"):
            return (Verdict(outcome.trial, "failed", "failed"),)
        return (Verdict(outcome.trial, "completed", f"trained to {self._r_max}"),)
