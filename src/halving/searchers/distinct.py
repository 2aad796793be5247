"""What searchers share: given configurations come first, and none is proposed twice."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, islice
from math import prod

import numpy as np
from numpy.typing import NDArray

from halving.errors import whole
from halving.space import Choice, Dimension, Integer, Space
from halving.trial import Configuration, Value, plain

Point = NDArray[np.float64]
Initial = Mapping[str, Value] | Sequence[Mapping[str, Value]] | None

_DRAWS = 100
# A space with more cells counts as endless.
_MOST_CELLS = 1_000_000


class DistinctSearcher:
    """Proposes `initial`, one configuration or several, and then the first of `candidates` that is new.

    Trial t's draws come from `default_rng([seed, t])`. Where neither the candidates nor more draws from the space are
    new, a finite space is gone through value by value; None says that every configuration was proposed.
    """

    def __init__(self, space: Space, seed: int = 0, initial: Initial = None) -> None:
        self._space = space
        self._seed = whole("searcher.seed", seed, 0)
        given = [initial] if isinstance(initial, Mapping) else list(initial or ())
        python = [{name: plain(value) for name, value in each.items()} for each in given]
        self._initial = list({identity(each): each for each in python}.values())
        self._proposed: dict[int, Configuration] = {}
        self._known: set[str] = set()

    def candidates(self, trial: int, rng: np.random.Generator) -> Iterator[Point]:
        """Yield points of the unit cube, the best first; independent draws follow where they end."""
        raise NotImplementedError

    def propose(self, trial: int) -> Configuration | None:
        if trial in self._proposed:
            return dict(self._proposed[trial])
        given = trial < len(self._initial)
        configuration = dict(self._initial[trial]) if given else self._new(trial)
        if configuration is not None:
            self.recall(trial, configuration)
        return configuration

    def recall(self, trial: int, configuration: Configuration) -> None:
        """Take what trial `trial` has instead of a proposal: a resumed study's configuration, or a table's row."""
        if trial in self._proposed:
            self._known.discard(identity(self._proposed[trial]))
        self._proposed[trial] = dict(configuration)
        self._known.add(identity(configuration))

    def observe(self, trial: int, configuration: Configuration, resource: int, error: float) -> None:
        """Learn nothing."""

    def _new(self, trial: int) -> Configuration | None:
        rng = np.random.default_rng([self._seed, trial])
        draws = (rng.random(len(self._space.dimensions)) for _ in range(_DRAWS))
        learned = islice(self.candidates(trial, rng), _DRAWS) if self._space.dimensions else ()
        for point in chain(learned, draws):
            configuration = self._space.decode(point)
            if identity(configuration) not in self._known:
                return configuration
        return self._remaining(rng)

    def _remaining(self, rng: np.random.Generator) -> Configuration | None:
        """Return the first new configuration from a random cell on, or None."""
        if self._cells is None:
            return None
        sizes = tuple(len(axis) for axis in self._cells)
        count = prod(sizes)
        start = int(rng.integers(count))
        for index in range(start, start + count):
            places = np.unravel_index(index % count, sizes) if sizes else ()
            configuration = self._space.decode([axis[int(i)] for axis, i in zip(self._cells, places, strict=True)])
            if identity(configuration) not in self._known:
                return configuration
        return None

    @cached_property
    def _cells(self) -> list[list[float]] | None:
        """For each dimension the coordinates of its values; None for a space that is not finite."""
        sizes = [cell_count(dimension) for dimension in self._space.dimensions]
        if any(size is None for size in sizes) or prod(size or 1 for size in sizes) > _MOST_CELLS:
            return None
        return [cells(dimension) for dimension in self._space.dimensions]


def cell_count(dimension: Dimension) -> int | None:
    """Return how many values a dimension has; None for no end of them."""
    match dimension:
        case Choice(values=values):
            return len(values)
        case Integer(distribution=distribution):
            low, high = distribution.support()
            return int(high) - int(low) + 1 if np.isfinite(high - low) else None
        case _:
            return None


def cells(dimension: Dimension) -> list[float]:
    """Return the coordinate of each value of a finite dimension."""
    match dimension:
        case Choice(values=values):
            return [dimension.encode(value) for value in values]
        case Integer(distribution=distribution):
            low, high = distribution.support()
            return [dimension.encode(value) for value in range(int(low), int(high) + 1)]
        case _:
            raise TypeError(f"{dimension.name} is continuous")


def identity(configuration: Mapping[str, Value]) -> str:
    """Tell 1, 1.0 and True apart, which are equal."""
    return repr(sorted(configuration.items()))
