"""Local search around the incumbent (an exercise of the book)."""

from collections.abc import Iterator

import numpy as np

from halving.errors import real
from halving.searchers.distinct import Initial, Point
from halving.searchers.learning import LearningSearcher
from halving.space import Space


class LocalSearcher(LearningSearcher):
    """With probability `p` draws one dimension of the best configuration so far anew, else a whole configuration.

    Raises UserError for p outside [0, 1].
    """

    def __init__(self, space: Space, seed: int = 0, initial: Initial = None, p: float = 0.5) -> None:
        super().__init__(space, seed, initial)
        self._p = real("searcher.p", p, lambda x: 0 <= x <= 1, "a probability, from 0 to 1")

    def candidates(self, trial: int, rng: np.random.Generator) -> Iterator[Point]:
        best = self.best()
        while True:
            drawn = rng.random(len(self._space.dimensions))
            if best is None or rng.random() >= self._p:
                yield drawn
            else:
                point = self._points[best].copy()
                changed = rng.integers(len(point))
                point[changed] = drawn[changed]
                yield point
