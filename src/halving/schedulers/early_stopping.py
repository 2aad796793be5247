"""Trials that climb level by level until a rule stops them: what median and curve share."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from halving.history import Ladder
from halving.schedulers.base import check_trials
from halving.searchers import Searcher
from halving.trial import Configuration, Done, Outcome, Resume, Start, Verdict, Wait


@dataclass
class Climber:
    """A trial's errors at the levels it has reached, and all (resource, error) that are known of its curve."""

    configuration: Configuration
    errors: list[float] = field(default_factory=list[float])
    curve: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])


class EarlyStopping:
    """Sends every trial up the levels; after each, `hopeless` says why it should stop, or nothing.

    A trial that goes on keeps its worker. With `max_trials=None` it has no end of its own.
    """

    extended_by = "max_trials"

    def __init__(self, searcher: Searcher, levels: Sequence[int], max_trials: int | None) -> None:
        self._searcher = searcher
        self._levels = tuple(levels)
        self._max_trials = check_trials(max_trials)
        self._climbers: dict[int, Climber] = {}
        self._going_on: deque[tuple[int, str]] = deque()
        self._running = 0

    def hopeless(self, climber: Climber, level: int) -> tuple[bool, str]:
        """Say whether a trial that has reached `level` should stop, and why or why not."""
        raise NotImplementedError

    def ended(self, climber: Climber) -> None:
        """Take note of a trial that goes no further."""

    @property
    def plan(self) -> tuple[Ladder, ...]:
        """The levels, where the number of trials is known; who reaches which is decided on the way."""
        return () if self._max_trials is None else (Ladder(self._levels, (self._max_trials,)),)

    def suggest(self) -> Start | Resume | Wait | Done:
        if self._going_on:
            trial, reason = self._going_on.popleft()
            self._running += 1
            rung = len(self._climbers[trial].errors)
            return Resume(trial, self._levels[rung - 1], self._levels[rung], rung, reason)
        trial = len(self._climbers)
        configuration = None if trial == self._max_trials else self._searcher.propose(trial)
        if configuration is None:
            return Wait() if self._running else Done()
        self._climbers[trial] = Climber(configuration)
        self._running += 1
        return Start(trial, configuration, self._levels[0], reason="nobody to go on")

    def update(self, outcome: Outcome) -> tuple[Verdict, ...]:
        trial, error = outcome.trial, outcome.rank_error
        climber = self._climbers[trial]
        self._running -= 1
        self._searcher.observe(trial, climber.configuration, outcome.resource, error)
        if error == float("inf"):
            self.ended(climber)
            return (Verdict(trial, "failed", f"failed after {outcome.resource}"),)
        level = self._levels[len(climber.errors)]
        since = self._levels[len(climber.errors) - 1] if climber.errors else 0
        measured = len(outcome.curve) == level - since
        climber.curve += zip(range(since + 1, level + 1), outcome.curve, strict=True) if measured else [(level, error)]
        climber.errors.append(error)
        if level == self._levels[-1]:
            self.ended(climber)
            return (Verdict(trial, "completed", f"reached the last level, {level}"),)
        stop, reason = self.hopeless(climber, level)
        if stop:
            self.ended(climber)
            return (Verdict(trial, "stopped", reason),)
        self._going_on.append((trial, reason))
        return (Verdict(trial, "paused", reason),)
