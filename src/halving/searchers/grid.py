"""Grid search."""

from itertools import product
from math import prod

import numpy as np

from halving.errors import UserError
from halving.searchers.distinct import DistinctSearcher, Initial, cell_count, cells, identity
from halving.space import Dimension, Space
from halving.trial import Configuration


class GridSearcher(DistinctSearcher):
    """Goes through all combinations of `points` values per dimension, the last dimension fastest.

    A distribution gives its quantiles at (i + 1/2) / points; a list, or an integer of no more than `points` values,
    gives all of them. `initial` comes first and is not repeated. `len` is the number of combinations; a budget that
    ends the study on the way leaves whole values of the first dimensions untried.

    Raises UserError for points below 1.
    """

    def __init__(self, space: Space, seed: int = 0, initial: Initial = None, points: int = 3) -> None:
        if points < 1:
            raise UserError(f"searcher.points={points}: a grid needs at least 1 value per dimension")
        super().__init__(space, seed, initial)
        self._axes = [_axis(dimension, points) for dimension in space.dimensions]
        self._next = 0

    def __len__(self) -> int:
        dimensions = self._space.dimensions
        named = {name for dimension in dimensions for condition in dimension.conditions for name in condition.names}
        # Only what conditions name is gone through; the others are as many as there are values, or do not exist.
        axes = [axis if each.name in named else axis[:1] for each, axis in zip(dimensions, self._axes, strict=True)]
        found: dict[str, int] = {}
        for point in product(*axes):
            configuration = self._space.decode(point)
            existing = {id(dimension) for dimension in self._space.existing(configuration)}
            found[identity({name: value for name, value in configuration.items() if name in named})] = prod(
                len(axis)
                for each, axis in zip(dimensions, self._axes, strict=True)
                if id(each) in existing and each.name not in named
            )
        return sum(found.values())

    @property
    def exhausted(self) -> bool:
        return self._found() is None

    def _new(self, trial: int) -> Configuration | None:
        if (found := self._found()) is None:
            return None
        self._next, configuration = found
        return configuration

    def _found(self) -> tuple[int, Configuration] | None:
        """Return the next combination that was not proposed, and the index after it."""
        for index in range(self._next, self._size):
            configuration = self._combination(index)
            if identity(configuration) not in self._known:
                return index + 1, configuration
        return None

    @property
    def _size(self) -> int:
        return prod(len(axis) for axis in self._axes)

    def _combination(self, index: int) -> Configuration:
        """Return a combination; where dimensions exist under conditions, several indices have the same."""
        sizes = tuple(len(axis) for axis in self._axes)
        places = np.unravel_index(index, sizes) if sizes else ()
        return self._space.decode([axis[int(i)] for axis, i in zip(self._axes, places, strict=True)])


def _axis(dimension: Dimension, points: int) -> list[float]:
    """Return the coordinates of a dimension's grid values."""
    count = cell_count(dimension)
    if dimension.kind in ("ordered", "categories") or (count is not None and count <= points):
        return cells(dimension)
    values = dict.fromkeys(dimension.decode((i + 0.5) / points) for i in range(points))
    return [dimension.encode(value) for value in values]
