"""Simulated annealing (Kirkpatrick et al. 1983)."""

import math
from collections.abc import Iterator

import numpy as np

from halving.errors import real
from halving.searchers.distinct import Initial, Point
from halving.searchers.learning import LearningSearcher
from halving.space import Space
from halving.trial import Configuration

_WIDEST, _NARROWEST = 0.3, 0.02


class AnnealingSearcher(LearningSearcher):
    """Walks through the cube: a neighbour that is worse by x becomes the current point with probability exp(-x / T).

    T is `temperature * cooling**k` after k trials, in standard deviations of the errors seen at the same resource; the
    steps shrink with it. Every outcome is compared with the current point when it arrives, at the highest resource
    that both have, so that any number of trials may run at once.

    Raises UserError for a temperature that is not positive or a cooling outside (0, 1).
    """

    def __init__(
        self, space: Space, seed: int = 0, initial: Initial = None, temperature: float = 1.0, cooling: float = 0.93
    ) -> None:
        super().__init__(space, seed, initial)
        self._temperature = real("searcher.temperature", temperature, lambda t: 0 < t < math.inf, "must be positive")
        self._cooling = real("searcher.cooling", cooling, lambda x: 0 < x < 1, "a factor between 0 and 1")
        self._current: int | None = None

    def candidates(self, trial: int, rng: np.random.Generator) -> Iterator[Point]:
        if self._current is None:
            return
        width = max(_NARROWEST, _WIDEST * self._cooled() ** 0.5)
        while True:
            point = self._points[self._current]
            step = self.perturb(point, width, rng)
            moving = rng.random(len(point)) < 0.5
            moving[rng.integers(len(point))] = True
            yield np.where(moving, step, point)

    def observe(self, trial: int, configuration: Configuration, resource: int, error: float) -> None:
        super().observe(trial, configuration, resource, error)
        if trial not in self._errors or self.failed(trial):
            self._current = None if trial == self._current else self._current
        elif self._current is None or self._accepts(trial):
            self._current = trial

    def _accepts(self, trial: int) -> bool:
        assert self._current is not None
        new, current = self._errors[trial], self._errors[self._current]
        if not (shared := new.keys() & current.keys()):
            return max(new) > max(current)
        level = max(shared)
        errors = [each[level] for each in self._errors.values() if level in each]
        worse = (new[level] - current[level]) / (float(np.std(errors)) or 1.0)
        temperature = self._temperature * self._cooled()
        chance = np.random.default_rng([self._seed, trial, level]).random()
        return worse <= 0 or chance < math.exp(-worse / max(temperature, 1e-12))

    def _cooled(self) -> float:
        return self._cooling ** len(self._errors)
