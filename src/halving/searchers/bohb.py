"""Kernel densities of good and bad configurations (BOHB: Falkner et al. 2018)."""

import math
from collections.abc import Iterator

import numpy as np

from halving.errors import real, whole
from halving.searchers.density import Density, category_counts, varied
from halving.searchers.distinct import Initial, Point
from halving.searchers.learning import LearningSearcher
from halving.space import Space


class BOHBSearcher(LearningSearcher):
    """Proposes where the density of good configurations is highest relative to that of bad ones.

    Densities are of the highest resource with at least d + 3 errors, where d counts the dimensions of more than one
    value; the best `good` of its trials, at least d + 1, are good ones and failed trials bad ones. A `fraction` of the
    proposals is drawn at random; the others are the best of `samples` draws from the good density, made `widening`
    times as wide. It is made for Hyperband, and cheap.

    Raises UserError for a share outside [0, 1), samples below 1, or a widening that is not positive.
    """

    def __init__(
        self,
        space: Space,
        seed: int = 0,
        initial: Initial = None,
        fraction: float = 1 / 3,
        good: float = 0.15,
        samples: int = 64,
        widening: float = 3.0,
    ) -> None:
        super().__init__(space, seed, initial)
        self._fraction, self._good = (
            real(f"searcher.{name}", value, lambda x: 0 <= x < 1, "a share, at least 0 and below 1")
            for name, value in (("fraction", fraction), ("good", good))
        )
        self._samples = whole("searcher.samples", samples)
        self._widening = real("searcher.widening", widening, lambda x: 0 < x < math.inf, "must be more than 0")
        self._counts = category_counts(space)

    def candidates(self, trial: int, rng: np.random.Generator) -> Iterator[Point]:
        if rng.random() < self._fraction or (densities := self._densities()) is None:
            return
        good, bad = densities
        points = good.sample(self._samples, rng, self._widening)
        scored = self._space.canonical(points)
        yield from points[np.argsort(bad.log(scored) - good.log(scored), kind="stable")]

    def _densities(self) -> tuple[Density, Density] | None:
        least = varied(self._space) + 1
        if (level := self.level(least + 2)) is None:
            return None
        errors = {
            trial: math.inf if self.failed(trial) else errors[level]
            for trial, errors in self._errors.items()
            if level in errors or self.failed(trial)
        }
        ranked = sorted(errors, key=lambda trial: (errors[trial], trial))
        points = np.array([self._points[trial] for trial in ranked])
        share = min(int(self._good * len(ranked)), sum(map(math.isfinite, errors.values())))
        best, rest = max(least, share), max(least, len(ranked) - share)
        return Density.estimate(points[:best], self._counts), Density.estimate(points[-rest:], self._counts)
