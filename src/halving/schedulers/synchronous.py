"""A sequence of brackets under one searcher: what successive halving and Hyperband share."""

from collections.abc import Sequence
from fractions import Fraction

from halving.errors import whole
from halving.history import Ladder
from halving.schedulers.bracket import Bracket, Promotion
from halving.searchers import Searcher
from halving.searchers.base import place
from halving.trial import Configuration, Done, Outcome, Resume, Start, Verdict, Wait

_MOST_ROUNDS = 100_000  # each has its place in the plan


class BracketSequence:
    """Runs the brackets of a round one after another, `rounds` times over, or without end where that is None.

    While a rung waits for a straggler the next bracket starts, and overlapping brackets keep their rungs apart; the
    promotions of an older bracket always go before anything of a newer one.
    """

    def __init__(
        self, searcher: Searcher, a_round: Sequence[Ladder], eta: int | Fraction, rounds: int | None = 1
    ) -> None:
        self._searcher = searcher
        self._round = a_round
        self._eta = eta
        self._endless = rounds is None
        self._brackets: list[Bracket] = []
        for _ in range(1 if rounds is None else whole("scheduler.rounds", rounds, most=_MOST_ROUNDS)):
            self._extend()
        self._levels = {level for ladder in a_round for level in ladder.levels}
        self._configurations: dict[int, Configuration] = {}
        self._bracket_of: dict[int, int] = {}
        self._open: list[int] = []
        self._begun = 0
        self._late: tuple[Verdict, ...] = ()

    @property
    def plan(self) -> tuple[Ladder, ...]:
        """The ladders that will be climbed if no trial fails; none where they never end."""
        return () if self._endless else tuple(Ladder(bracket.levels, bracket.sizes) for bracket in self._brackets)

    def suggest(self) -> Start | Resume | Wait | Done:
        for index in self._open:
            if promotion := self._brackets[index].promote():
                return _resume(promotion)
        for index in self._open:
            if not self._brackets[index].full:
                return self._start(index)
        if self._begun < len(self._brackets) or self._endless:
            return self._start(self._begun)
        return Wait() if self._open else Done()

    def update(self, outcome: Outcome) -> tuple[Verdict, ...]:
        configuration = self._configurations[outcome.trial]
        self._searcher.observe(outcome.trial, configuration, outcome.resource, outcome.rank_error)
        late, self._late = self._late, ()
        index = self._bracket_of[outcome.trial]
        verdicts = self._brackets[index].report(outcome)
        if self._brackets[index].complete:
            self._open.remove(index)
        return late + verdicts

    def _start(self, index: int) -> Start | Resume | Wait | Done:
        if index == len(self._brackets):
            self._extend()
        bracket = self._brackets[index]
        trial = len(self._configurations)
        place(self._searcher, trial, sum(level < bracket.levels[0] for level in self._levels))
        configuration = self._searcher.propose(trial)
        if configuration is None:
            return self._exhausted(bracket)
        if index == self._begun:
            self._begun += 1
            self._open.append(index)
        self._configurations[trial] = configuration
        self._bracket_of[trial] = index
        bracket.enter(trial)
        return Start(trial, configuration, bracket.levels[0], index, 0, "a new configuration")

    def _extend(self) -> None:
        self._brackets += (Bracket(ladder.levels, ladder.sizes, self._eta) for ladder in self._round)

    def _exhausted(self, bracket: Bracket) -> Resume | Wait | Done:
        """Go on with fewer trials than planned.

        The first rung closes only once nothing is pending, and only here: replaying the same calls then takes the
        same decisions, since Wait left no trace. The losers' verdicts go out with the next update, which follows from
        the promotion: whatever budget ends the study, running trials finish. Only in the journal of a study that was
        interrupted in between do the losers still wait; resuming it seals the rung again.
        """
        if any(self._brackets[index].pending for index in self._open):
            return Wait()
        self._late += bracket.seal()
        promotion = bracket.promote()
        return _resume(promotion) if promotion else Done()


def _resume(promotion: Promotion) -> Resume:
    return Resume(promotion.trial, promotion.since, promotion.until, promotion.rung, promotion.reason)
