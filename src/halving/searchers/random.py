"""Random search (Bergstra and Bengio 2012)."""

from collections.abc import Iterator

import numpy as np

from halving.searchers.distinct import DistinctSearcher, Point


class RandomSearcher(DistinctSearcher):
    """Draws every configuration independently from the space's distributions.

    Trial t's draw comes from `default_rng([seed, t])`, so it does not depend on who finished first. `initial` is one
    configuration or several that the first trials get instead. In a finite space what was proposed is drawn again.
    """

    def candidates(self, trial: int, rng: np.random.Generator) -> Iterator[Point]:
        while True:
            yield rng.random(len(self._space.dimensions))
