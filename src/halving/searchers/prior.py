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

_MOVED = 0.5  # of the incumbent's dimensions, the probability that each moves


class PriorSearcher(LearningSearcher):
    """Draws from the space, from a prior around the first `initial` configuration, or around the incumbent.

    A trial of a bracket whose first level lies above r others is drawn from the space with probability
    1 / (1 + eta**r). The rest is the prior's until the highest resource with at least `eta` errors is known; from then
    on prior and incumbent share it by how likely each makes the best 1 / eta there. Both are normals of deviation
    `width` in the unit cube, which keep a category with probability 1/2; around the incumbent each dimension moves
    with probability 1/2 only, and a category that moves is drawn anew (section 5). It is the choice where the defaults
    are good; without `initial` the prior lies around the middle of the space, as it does in a dimension that lacks its
    value.

    Raises UserError for a width that is not positive or eta below 2.
    """

    def __init__(self, space: Space, seed: int = 0, initial: Initial = None, eta: int = 3, width: float = 0.25) -> None:
        width = real(
            "searcher.width", width, lambda x: 0 < x < math.inf, "a standard deviation in the unit cube, above 0"
        )
        super().__init__(space, seed, initial)
        self._eta = whole("eta", eta, 2)
        self._below: dict[int, int] = {}
        self._categories_of = category_counts(space)
        self._widths = np.where(self._categories_of > 0, 0.5, width)
        centre = space.encode(transferred(self._initial[0], space, {})) if self._initial else None
        self._prior = self._around(np.full(len(space.dimensions), 0.5) if centre is None else centre)

    def place(self, trial: int, below: int) -> None:
        """Take note of how many levels lie below the one that a trial begins at."""
        self._below[trial] = below

    def candidates(self, trial: int, rng: np.random.Generator) -> Iterator[Point]:
        chance = rng.random() * (1 + self._eta ** self._below.get(trial, 0))
        if chance < 1:
            return
        if (best := self._best()) and rng.random() < self._trust(best):
            yield from self._perturbed(self._points[best[0]], rng)
        while True:
            yield self._prior.sample(1, rng)[0]

    def _perturbed(self, incumbent: Point, rng: np.random.Generator) -> Iterator[Point]:
        anew = 1 - 1 / np.maximum(self._categories_of, 1)
        density = Density(incumbent[None], self._categories_of, np.where(self._categories_of > 0, anew, self._widths))
        while True:
            moved = density.sample(1, rng)[0]
            yield np.where(rng.random(len(moved)) < _MOVED, moved, incumbent)

    def _around(self, centre: Point) -> Density:
        return Density(centre[None], self._categories_of, self._widths)

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
