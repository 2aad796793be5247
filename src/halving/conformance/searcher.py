"""What a searcher keeps, checked on its proposals over one random space."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, get_args

import numpy as np
from scipy import stats

from halving.searchers import Searcher
from halving.searchers.recorded import Recorded
from halving.space import Choice, Integer, Space
from halving.tracking.wording import count
from halving.trial import Configuration, Value

Make = Callable[[Space, int], Searcher]
Proposed = list[Configuration | None]

# A promotion fails, with no other outcome beside it, at one trial in so many.
_FAILING = 8

_UNIFORM, _RANGE = stats.uniform(-3.0, 5.0), stats.randint(2, 30)
_CONDITIONAL: dict[int, dict[str, Any]] = {
    3: {
        "n": _RANGE,
        "group": {
            "_choice_": {
                "a": {"x": _UNIFORM},
                "b": {"x": [0.1, 1.0, 10.0], "y": {"_values_": [1, 2], "_when_": "n > 9"}},
                "c": {},
            },
            "z": ["a", "b", None, True],
        },
    },
    4: {
        "outer": {
            "_choice_": {
                "a": {"inner": {"_choice_": {"c": {"x": _RANGE, "y": [1, 2]}, "d": {}}}, "z": _UNIFORM},
                "b": {},
            }
        },
    },
    5: {
        "x": _UNIFORM,
        "y": {"_when_": "x > 0", "n": _RANGE, "z": {"_values_": [1, 2, 4], "_when_": "y.n >= 12 and x < 1.5"}},
    },
}


@dataclass
class Proposals:
    """A searcher's proposals over one random space, and the outcomes that it observes between.

    `make` builds one for a space and a seed.
    """

    make: Make
    seed: int

    @cached_property
    def space(self) -> Space:
        rng = np.random.default_rng([self.seed, 3])
        kinds: list[Any] = [
            [0.1, 1.0, 10.0],
            ["a", "b", None, True],
            _UNIFORM,
            stats.loguniform(1e-5, 1.0),
            stats.norm(0.0, 2.0),
            _RANGE,
        ]
        if self.seed in _CONDITIONAL:
            return Space.from_config(_CONDITIONAL[self.seed])
        # Two lists are fewer configurations than there are trials.
        count = (1, 20, 2)[self.seed] if self.seed < 3 else int(rng.integers(1, 21))
        kinds = kinds[:2] if self.seed == 2 else kinds
        return Space.from_config({f"group{i % 3}.key{i}": kinds[int(rng.integers(len(kinds)))] for i in range(count)})

    @property
    def trials(self) -> int:
        """So many that a searcher that draws d + 2 trials at first goes on to learn."""
        return max(12, len(self.space.dimensions) + 12)

    def propose(
        self,
        delay: int = 0,
        error: Callable[[int], float] = lambda trial: trial * 7 % 5 / 5,
        recorded: Sequence[Configuration | None] = (),
        failing: bool = False,
    ) -> Proposed:
        """Ask for all trials; outcomes arrive `delay` trials late, and then the newest first, some at two resources.

        The first trials have what is `recorded` of another searcher, as when a study is resumed. With `failing` it is
        now and then a trial that has an error at that resource already, and fails: its promotion came to nothing.
        """
        known = {trial: configuration for trial, configuration in enumerate(recorded) if configuration is not None}
        searcher = Recorded(self.make(self.space, self.seed), known)
        waiting: list[tuple[int, Configuration]] = []
        promoted: list[tuple[int, Configuration]] = []
        proposals: Proposed = []
        for trial in range(self.trials):
            configuration = searcher.propose(trial)
            proposals.append(configuration)
            if configuration is None:
                continue
            waiting.append((trial, configuration))
            if failing and trial % _FAILING == _FAILING - 2 and promoted:
                other, proposed = promoted.pop()
                searcher.observe(other, proposed, 3, math.inf)
                continue
            while len(waiting) > delay:
                other, proposed = waiting.pop()
                for resource in (1, 3)[: 1 + other % 2]:
                    searcher.observe(other, proposed, resource, error(other))
                if other % 2:
                    promoted.append((other, proposed))
        return proposals

    @cached_property
    def decisions(self) -> Proposed:
        return self.propose()

    def __str__(self) -> str:
        return f"{count(len(self.space.dimensions), 'dimensions')}, seed {self.seed}"


def proposes_within_the_space(story: Proposals) -> str:
    """A configuration has the dimensions that exist, in the space's order, each with a value inside its support."""
    for trial, configuration in enumerate(story.decisions):
        if complaint := _outside(story.space, configuration):
            return f"trial {trial}: {complaint}"
    return ""


def _outside(space: Space, configuration: Configuration | None) -> str:
    if configuration is None:
        return ""
    existing = space.existing(configuration)
    if tuple(configuration) != tuple(dimension.name for dimension in existing):
        return f"it has {tuple(configuration)}, the space {[dimension.name for dimension in existing]}"
    for dimension in existing:
        value: Any = configuration[dimension.name]
        if isinstance(dimension, Choice):
            inside = any(value == known and type(value) is type(known) for known in dimension.values)
        else:
            low, high = dimension.distribution.support()
            inside = low <= value <= high and (not isinstance(dimension, Integer) or value == int(value))
        if not inside:
            return f"{dimension.name}={value!r} is not in the space"
    return ""


def values_are_plain(story: Proposals) -> str:
    """Values are Python's own bool, int, float, str and None, as the dimension has it: no scalars of numpy."""
    for configuration in filter(None, story.decisions):
        for dimension in story.space.existing(configuration):
            value: Value = configuration.get(dimension.name)
            expected = {"integer": (int,), "continuous": (float,)}.get(dimension.kind, get_args(Value))
            if type(value) not in expected:
                return f"{dimension.name}={value!r} is of type {type(value).__module__}.{type(value).__name__}"
    return ""


def does_not_depend_on_who_finished_first(story: Proposals) -> str:
    """Unless it learns from errors, trial t gets the same configuration whatever finished before, and in what order."""
    if _learns(story.make) or repr(story.propose(delay=4)) == repr(story.decisions):
        return ""
    return "it does not learn from errors, but the order of outcomes changes what it proposes"


@cache
def _learns(make: Make) -> bool:
    """Whether other errors would lead it elsewhere, in any of a few spaces."""
    spaces = [Proposals(make, seed) for seed in range(6)]
    return any(repr(each.propose(error=lambda trial: -(trial * 7 % 5))) != repr(each.decisions) for each in spaces)


def proposes_nothing_twice(story: Proposals) -> str:
    """No configuration is proposed again, with and without pending trials: an exhausted space gives None."""
    for proposals in (story.decisions, story.propose(delay=4)):
        first: dict[str, int] = {}
        for trial, configuration in enumerate(proposals):
            if configuration is not None and first.setdefault(repr(configuration), trial) != trial:
                return f"trial {trial} gets what trial {first[repr(configuration)]} had: {configuration}"
    return ""


def goes_on_after_a_resume(story: Proposals) -> str:
    """Fed with the recorded trials (`recall`, if it has that) and outcomes, a new searcher proposes what the old would.

    Some trials are pending where the study resumes, and a failure was the last outcome.
    """
    undisturbed = story.propose(delay=2, failing=True)
    first = story.trials // _FAILING * _FAILING - 1
    resumed = story.propose(delay=2, recorded=undisturbed[:first], failing=True)
    for trial, (expected, got) in enumerate(zip(undisturbed, resumed, strict=True)):
        if repr(expected) != repr(got):
            return f"trial {trial} gets {got} after a resume at {first}, else {expected}"
    return ""


def takes_failures(story: Proposals) -> str:
    """It goes on within the space when some or all trials fail, which it observes as +inf, also after an error."""
    for error in (lambda _: math.inf, lambda trial: math.inf if trial % 3 else 0.5):
        for configuration in story.propose(error=error, failing=True):
            if complaint := _outside(story.space, configuration):
                return complaint
    return ""


def stays_exhausted(story: Proposals) -> str:
    """After None it proposes None: schedulers ask again."""
    searcher = story.make(story.space, story.seed)
    answers = [searcher.propose(trial) for trial in range(story.trials)]
    if None not in answers:
        return ""
    first = answers.index(None)
    answers.append(searcher.propose(story.trials - 1))
    return "" if all(answer is None for answer in answers[first:]) else f"None for trial {first}, but not afterwards"


CHECKS: tuple[Callable[[Proposals], str], ...] = (
    proposes_within_the_space,
    values_are_plain,
    does_not_depend_on_who_finished_first,
    proposes_nothing_twice,
    goes_on_after_a_resume,
    takes_failures,
    stays_exhausted,
)
