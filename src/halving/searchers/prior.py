"""A user's prior and the incumbent beside random draws (PriorBand: Mallik et al. 2023)."""

import math
from collections.abc import Iterator

import numpy as np

from halving.errors import real, whole
from halving.searchers.density import Density, category_counts
from halving.searchers.distinct import Initial, Point
from halving.searchers.learning import LearningSearcher
from halving.searchers.transfer import transferred
from halving.space import Space


class PriorSearcher(LearningSearcher):
    """Draws from the space, from a prior around the first `initial` configuration, or around the incumbent.

    A trial of a bracket whose first level lies above r others is drawn from the space with probability
    1 / (1 + eta**r). The rest is the prior's until the highest resource with at least `eta` errors is known; from then
    on prior and incumbent share it by how likely each makes the best 1 / eta there. Both are normals of deviation
    `width` in the unit cube, which keep a category with probability 1/2. It is the choice where the defaults are good;
    without `initial` the prior lies around the middle of the space, as it does in a dimension that lacks its value.

    Raises UserError for a width that is not positive or eta below 2.
    """

    def __init__(self, space: Space, seed: int = 0, initial: Initial = None, eta: int = 3, width: float = 0.25) -> None:
        width = real(
            "searcher.width", width, lambda x: 0 < x < math.inf, "a standard deviation in the unit cube, above 0"
        )
        super().__init__(space, seed, initial)
        self._eta = whole("eta", eta, 2)
        self._categories_of = category_counts(space)
        self._widths = np.where(self._categories_of > 0, 0.5, width)
        centre = space.encode(transferred(self._initial[0], space, {})) if self._initial else None
        self._prior = self._around(np.full(len(space.dimensions), 0.5) if centre is None else centre)

    def candidates(self, trial: int, rng: np.random.Generator) -> Iterator[Point]:
        chance = rng.random() * (1 + self._eta ** self._levels_below())
        if chance < 1:
            return
        density = self._prior
        if (best := self._best()) and rng.random() < self._trust(best):
            density = self._around(self._points[best[0]])
        while True:
            yield density.sample(1, rng)[0]

    def _around(self, centre: Point) -> Density:
        return Density(centre[None], self._categories_of, self._widths)

    def _levels_below(self) -> int:
        """Return how many levels lie below the one at which the newest trial with an error began."""
        levels = {resource for errors in self._errors.values() for resource in errors}
        begun = next((min(errors) for errors in reversed(self._errors.values()) if errors), 0)
        return sum(level < begun for level in levels)

    def _best(self) -> list[int]:
        """Return the best 1 / eta of the trials at the highest resource that enough of them reached."""
        if (level := self.level(self._eta)) is None:
            return []
        errors = {
            trial: errors[level] for trial, errors in self._errors.items() if level in errors and not self.failed(trial)
        }
        return sorted(errors, key=lambda trial: (errors[trial], trial))[: len(errors) // self._eta]

    def _trust(self, best: list[int]) -> float:
        """Return the incumbent's share: how likely it makes the best, weighed by rank, against the prior."""
        points = np.array([self._points[trial] for trial in best])
        weights = np.arange(len(best), 0, -1)
        prior, incumbent = (
            float(weights @ np.exp(density.log(points))) for density in (self._prior, self._around(points[0]))
        )
        return incumbent / (prior + incumbent)
