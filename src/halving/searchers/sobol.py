"""Quasi-random search (Sobol 1967; scrambling by Owen 1998)."""

from collections.abc import Iterator

import numpy as np
from scipy.stats import qmc  # pyright: ignore

from halving.searchers.distinct import DistinctSearcher, Initial, Point
from halving.space import Space


class SobolSearcher(DistinctSearcher):
    """Takes the points of a Sobol sequence, scrambled by the seed, in order: trial t gets the t-th.

    It covers the cube more evenly than independent draws and needs no more knowledge than they do.
    """

    def __init__(self, space: Space, seed: int = 0, initial: Initial = None) -> None:
        super().__init__(space, seed, initial)
        self._sequence = np.empty((0, len(space.dimensions)))

    def candidates(self, trial: int, rng: np.random.Generator) -> Iterator[Point]:
        index = trial - len(self._initial)
        if index >= len(self._sequence):
            engine = qmc.Sobol(len(self._space.dimensions), rng=np.random.default_rng(self._seed))
            self._sequence = engine.random_base2(max(6, index.bit_length()))
        yield self._sequence[index]
