"""A sequence of brackets under one searcher: what successive halving and Hyperband share."""

from collections.abc import Sequence

from halving.history import Ladder
from halving.schedulers.bracket import Bracket
from halving.searchers import Searcher
from halving.trial import Configuration, Done, Outcome, Resume, Start, Verdict, Wait


class BracketSequence:
    """Runs brackets one after another.

    While a rung waits for a straggler the next bracket starts, and overlapping brackets keep their rungs apart; the
    promotions of an older bracket always go before anything of a newer one.
    """

    def __init__(self, searcher: Searcher, brackets: Sequence[Bracket]) -> None:
        self._searcher = searcher
        self._brackets = list(brackets)
        self._configurations: dict[int, Configuration] = {}
        self._bracket_of: dict[int, int] = {}
        self._late: tuple[Verdict, ...] = ()

    @property
    def plan(self) -> tuple[Ladder, ...]:
        """The ladders that will be climbed if no trial fails."""
        return tuple(Ladder(bracket.levels, bracket.sizes) for bracket in self._brackets)

    def suggest(self) -> Start | Resume | Wait | Done:
        open_brackets = [(i, bracket) for i, bracket in enumerate(self._brackets) if not bracket.complete]
        for _, bracket in open_brackets:
            if promotion := bracket.promote():
                return Resume(promotion.trial, promotion.since, promotion.until, promotion.rung, promotion.reason)
        for i, bracket in open_brackets:
            if not bracket.full:
                return self._start(i, bracket)
        return Wait() if open_brackets else Done()

    def update(self, outcome: Outcome) -> tuple[Verdict, ...]:
        configuration = self._configurations[outcome.trial]
        self._searcher.observe(outcome.trial, configuration, outcome.resource, outcome.rank_error)
        late, self._late = self._late, ()
        return late + self._brackets[self._bracket_of[outcome.trial]].report(outcome)

    def _start(self, index: int, bracket: Bracket) -> Start | Resume | Wait | Done:
        trial = len(self._configurations)
        configuration = self._searcher.propose(trial)
        if configuration is None:
            return self._exhausted(bracket)
        self._configurations[trial] = configuration
        self._bracket_of[trial] = index
        bracket.enter(trial)
        return Start(trial, configuration, bracket.levels[0], index, 0, "a new configuration")

    def _exhausted(self, bracket: Bracket) -> Resume | Wait | Done:
        """Go on with fewer trials than planned.

        The first rung closes only once nothing is pending, and only here: replaying the same calls then takes the
        same decisions, since Wait left no trace. The losers' verdicts go out with the next update.
        """
        if any(other.pending for other in self._brackets):
            return Wait()
        self._late += bracket.seal()
        if promotion := bracket.promote():
            return Resume(promotion.trial, promotion.since, promotion.until, promotion.rung, promotion.reason)
        return Done()
