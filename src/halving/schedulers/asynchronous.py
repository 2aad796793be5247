"""Brackets whose rungs never close, under one searcher: what the asynchronous schedulers share."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

from halving.errors import UserError, did_you_mean
from halving.history import Ladder
from halving.schedulers.base import check_trials
from halving.schedulers.bracket import Promotion
from halving.schedulers.rung import OpenRung
from halving.searchers import Searcher
from halving.searchers.base import place
from halving.trial import Configuration, Done, Outcome, Resume, Start, Verdict, Wait

Variant = Literal["promotion", "stopping"]


class AsynchronousBracket:
    """One ladder of open rungs (Li et al. 2020, algorithm 2), at which failed trials count, if `count_failed`.

    "promotion" pauses every trial at its rung until it is among the best `finished // eta`; "stopping" decides at
    once, and a trial goes on iff it is among the best `max(1, finished // eta)`. `top` is the highest rung in use.
    A rule of one's own for who goes on overrides `candidate`, which may ask `rungs` and builds a `promotion`.
    """

    def __init__(
        self, levels: Sequence[int], eta: int, variant: Variant = "promotion", count_failed: bool = True
    ) -> None:
        if variant not in ("promotion", "stopping"):
            raise UserError(f"scheduler.variant={variant}: unknown{did_you_mean(variant, ('promotion', 'stopping'))}")
        if count_failed not in (True, False):
            raise UserError(f"scheduler.count_failed={count_failed}: must be true or false")
        self.levels = tuple(levels)
        self.top = len(self.levels) - 1
        self._variant = variant
        self._count_failed = count_failed
        self.rungs = [OpenRung(eta, at_least=int(variant == "stopping")) for _ in self.levels]
        self._going_on: deque[Promotion] = deque()
        self._paused: dict[int, int] = {}

    def promote(self) -> Promotion | None:
        """Return the next trial to go on, from the highest rung down, or None."""
        promotion = self._going_on.popleft() if self._going_on else self.candidate()
        if promotion is not None:
            self.rungs[promotion.rung - 1].promote(promotion.trial)
            self._paused.pop(promotion.trial, None)
        return promotion

    def may_promote(self) -> bool:
        """Whether `promote` would return a trial."""
        return bool(self._going_on) or self.candidate() is not None

    def report(self, outcome: Outcome, index: int) -> Verdict:
        """Take in the outcome of a trial at rung `index`."""
        rung, error = self.rungs[index], outcome.rank_error
        if self._count_failed or math.isfinite(error):
            rung.add(outcome.trial, error)
        if math.isinf(error):
            return Verdict(outcome.trial, "failed", f"failed at rung {index}")
        if index == len(self.levels) - 1:
            return Verdict(outcome.trial, "completed", f"reached the last rung, {self.levels[index]}")
        if self._variant == "promotion":
            self._paused[outcome.trial] = index
            return Verdict(outcome.trial, "paused", f"waits at rung {index}, which {rung.finished} have finished")
        reason = f"error {error:.6g}; the best {rung.size} of {rung.finished} at rung {index} go on"
        if rung.holds(outcome.trial):
            self._going_on.append(self.promotion(outcome.trial, index, reason))
            return Verdict(outcome.trial, "paused", reason)
        return Verdict(outcome.trial, "stopped", f"{reason}, the cut-off is {rung.cut_off[0]:.6g}")

    def stop_paused(self) -> tuple[Verdict, ...]:
        """Stop the trials that still wait, at the study's end."""
        verdicts = [
            Verdict(
                trial,
                "stopped",
                f"nobody needed to go on from rung {rung}"
                if rung == self.top
                else f"not among the best one in eta of rung {rung} at the study's end",
            )
            for trial, rung in sorted(self._paused.items())
        ]
        self._paused.clear()
        return tuple(verdicts)

    def candidate(self) -> Promotion | None:
        """Return who is to go on of those that wait, from the highest rung down, or None; nothing changes by it."""
        if self._variant == "stopping":
            return None
        for index in range(self.top - 1, -1, -1):
            rung = self.rungs[index]
            if (key := rung.candidate()) is not None:
                reason = f"error {key[0]:.6g} is among the best {rung.size} of {rung.finished} at rung {index}"
                return self.promotion(key[1], index, reason)
        return None

    def promotion(self, trial: int, index: int, reason: str) -> Promotion:
        """Return the promotion of a trial from rung `index` to the next one."""
        return Promotion(trial, self.levels[index], self.levels[index + 1], index + 1, reason)


class AsynchronousBrackets:
    """Promotes whoever may be promoted, else starts a new trial in the bracket that `choose(trial)` names.

    It never waits for a straggler. With `max_trials=None` it has no end of its own.
    """

    def __init__(
        self,
        searcher: Searcher,
        brackets: Sequence[AsynchronousBracket],
        max_trials: int | None,
        choose: Callable[[int], int] | None = None,
    ) -> None:
        self._searcher = searcher
        self._brackets = list(brackets)
        self._levels = {level for bracket in brackets for level in bracket.levels}
        self._max_trials = check_trials(max_trials)
        self._choose = choose
        self._configurations: dict[int, Configuration] = {}
        self._bracket_of: dict[int, int] = {}
        self._running: dict[int, int] = {}
        self._proposal: Configuration | None = None

    @property
    def plan(self) -> tuple[Ladder, ...]:
        """The levels, where the number of trials is known; how many reach each is decided on the way."""
        if self._max_trials is None:
            return ()
        sizes = (self._max_trials,) if len(self._brackets) == 1 else ()
        return tuple(Ladder(bracket.levels, sizes) for bracket in self._brackets)

    def suggest(self) -> Start | Resume | Wait | Done:
        for bracket in self._brackets:
            if promotion := bracket.promote():
                self._running[promotion.trial] = promotion.rung
                return Resume(promotion.trial, promotion.since, promotion.until, promotion.rung, promotion.reason)
        trial = len(self._configurations)
        if (configuration := self._next()) is None:
            return Wait() if self._running else Done()
        self._proposal = None
        index = self._bracket(trial)
        self._configurations[trial] = configuration
        self._bracket_of[trial] = index
        self._running[trial] = 0
        return Start(trial, configuration, self._brackets[index].levels[0], index, 0, "nobody to promote")

    def update(self, outcome: Outcome) -> tuple[Verdict, ...]:
        trial = outcome.trial
        rung = self._running.pop(trial)
        self._searcher.observe(trial, self._configurations[trial], outcome.resource, outcome.rank_error)
        verdict = self._brackets[self._bracket_of[trial]].report(outcome, rung)
        if self._running or any(bracket.may_promote() for bracket in self._brackets):
            return (verdict,)
        # Nothing runs, so nothing can be learned before the next proposal: it is made now, to see whether it is None.
        self._proposal = self._next()
        if self._proposal is not None:
            return (verdict,)
        stopped = tuple(item for bracket in self._brackets for item in bracket.stop_paused())
        return stopped if any(item.trial == trial for item in stopped) else (verdict, *stopped)

    def _next(self) -> Configuration | None:
        if self._proposal is not None:
            return self._proposal
        trial = len(self._configurations)
        if trial == self._max_trials:
            return None
        begins = self._brackets[self._bracket(trial)].levels[0]
        place(self._searcher, trial, sum(level < begins for level in self._levels))
        return self._searcher.propose(trial)

    def _bracket(self, trial: int) -> int:
        return 0 if self._choose is None else self._choose(trial)
