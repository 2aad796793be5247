"""Grid search."""

import sys
from collections.abc import Iterator

from halving.errors import whole
from halving.searchers.distinct import DistinctSearcher, Initial, cell_count, cells, identity
from halving.space import Dimension, Space
from halving.trial import Configuration


class GridSearcher(DistinctSearcher):
    """Goes through all combinations of `points` values per dimension, the last dimension fastest.

    A distribution gives its quantiles at (i + 1/2) / points; a list, or an integer of no more than `points` values,
    gives all of them. A dimension comes after those that its conditions name, and only where it exists. `initial` comes
    first and is not repeated. `size` is the number of combinations, and so is `len` as far as Python lets it; a budget
    that ends the study on the way leaves whole values of the first dimensions untried.

    Raises UserError for points out of range.
    """

    def __init__(self, space: Space, seed: int = 0, initial: Initial = None, points: int = 3) -> None:
        points = whole("searcher.points", points, 1, " value per dimension", most=100_000)
        super().__init__(space, seed, initial)
        ordered = [space.dimensions[i] for i in space.order]
        self._ordered = [(each, [each.decode(u) for u in _axis(each, points)]) for each in ordered]
        # What later conditions name is all that tells how many combinations are left.
        self._named = [
            {name for each in ordered[place:] for condition in each.conditions for name in condition.names}
            for place in range(len(ordered) + 1)
        ]
        self._counts: dict[tuple[int, str], int] = {}
        self._next = 0

    def __len__(self) -> int:
        return min(self.size, sys.maxsize)

    @property
    def size(self) -> int:
        return self._count(0, {})

    def _new(self, trial: int) -> Configuration | None:
        size = self.size
        while self._next < size:
            configuration = self._combination(self._next)
            self._next += 1
            if identity(configuration) not in self._known:
                return configuration
        return None

    def _combination(self, index: int) -> Configuration:
        """Return the combination of an index below `size`."""
        known: Configuration = {}
        for place in range(len(self._ordered)):
            for following, count in self._ways(place, known):
                if index < count:
                    known = following
                    break
                index -= count
        return {dimension.name: known[dimension.name] for dimension in self._space.existing(known)}

    def _count(self, place: int, known: Configuration) -> int:
        """Return how many combinations the dimensions from `place` on have after `known` values."""
        key = place, identity({name: value for name, value in known.items() if name in self._named[place]})
        if key not in self._counts:
            here = place < len(self._ordered)
            self._counts[key] = sum([count for _, count in self._ways(place, known)]) if here else 1
        return self._counts[key]

    def _ways(self, place: int, known: Configuration) -> Iterator[tuple[Configuration, int]]:
        """Yield `known` with each value of the dimension at `place`, and how many combinations begin so."""
        dimension, values = self._ordered[place]
        beside = {**self._space.constants, **known}
        exists = all(condition.holds(beside) for condition in dimension.conditions)
        for following in [{**known, dimension.name: value} for value in values] if exists else [known]:
            yield following, self._count(place + 1, following)


def _axis(dimension: Dimension, points: int) -> list[float]:
    """Return the coordinates of a dimension's grid values."""
    count = cell_count(dimension)
    if dimension.kind in ("ordered", "categories") or (count is not None and count <= points):
        return cells(dimension)
    values = dict.fromkeys(dimension.decode((i + 0.5) / points) for i in range(points))
    return [dimension.encode(value) for value in values]
