"""One factor at a time: what each dimension alone does around a good configuration."""

from collections.abc import Iterator, Mapping, Sequence
from math import isclose

import numpy as np

from halving.errors import whole
from halving.searchers.distinct import Initial, cell_count, cells, identity
from halving.space import Dimension, Space
from halving.trial import Configuration, Value, plain


class OneAtATimeSearcher:
    """Goes through a base, which is the last of `initial`, and all that differs from it in one dimension.

    A distribution or ordered list of more than `points` values gives its quantiles at (i + 1/2) / points, anything else
    all of its values. Dimensions that only another option or value brings into existence take their medians. The list
    is gone through `seeds` times, so that what breaks off early knows of all dimensions. Each time the keys of
    `streams` are drawn anew, and all of that round share them: so they compare in pairs. `len` is the number of trials.

    It sees no interactions. Without `initial` the base is the middle of the space. Raises UserError for counts out of
    range.
    """

    def __init__(
        self,
        space: Space,
        seed: int = 0,
        initial: Initial = None,
        points: int = 7,
        seeds: int = 3,
        streams: Sequence[str] = (),
    ) -> None:
        self._seed = whole("searcher.seed", seed, 0)
        self._seeds = whole("searcher.seeds", seeds)
        self._points = whole("searcher.points", points, 1, " value per dimension", most=100_000)
        self._streams = tuple(streams)
        given = [initial] if isinstance(initial, Mapping) else list(initial or [{}])
        self._base = _completed(space, {name: plain(value) for name, value in given[-1].items()}, {})
        self._proposals = list({identity(each): each for each in self._changed(space)}.values())

    def __len__(self) -> int:
        return len(self._proposals) * self._seeds

    def propose(self, trial: int) -> Configuration | None:
        if trial >= len(self):
            return None
        repeat, place = divmod(trial, len(self._proposals))
        stream = int(np.random.default_rng([self._seed, repeat]).integers(2**31))
        return self._proposals[place] | dict.fromkeys(self._streams, stream)

    def observe(self, trial: int, configuration: Configuration, resource: int, error: float) -> None:
        """Learn nothing."""

    def _changed(self, space: Space) -> Iterator[Configuration]:
        yield self._base
        for dimension in space.existing(self._base):
            for value in _values(dimension, self._points):
                if not _alike(value, self._base[dimension.name]):
                    yield _completed(space, {dimension.name: value}, self._base)


def _values(dimension: Dimension, points: int) -> list[Value]:
    count = cell_count(dimension)
    every = dimension.kind == "categories" or (count is not None and count <= points)
    return [dimension.decode(u) for u in (cells(dimension) if every else [(i + 0.5) / points for i in range(points)])]


def _alike(value: Value, other: Value) -> bool:
    """Whether two values are one but for the last digits: a quantile may be the base's own."""
    if isinstance(value, float) and isinstance(other, float):
        return isclose(value, other, rel_tol=1e-9)
    return type(value) is type(other) and value == other


def _completed(space: Space, given: Mapping[str, Value], base: Mapping[str, Value]) -> Configuration:
    """Return the configuration with the values `given`, then those of `base` that still hold, then medians."""
    here, known = set(space.existing(base)), dict(given)
    while lacking := [each for each in space.existing(known) if each.name not in known]:
        for each in lacking:
            kept = each.name in base and (each in here or each.holds(base[each.name]))
            known[each.name] = base[each.name] if kept else each.decode(0.5)
    return {each.name: known[each.name] for each in space.existing(known)}
