"""One dimension of a space: a distribution or a list of values, seen as [0, 1]."""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from halving.space.condition import Condition, is_number
from halving.trial import Value

Kind = Literal["continuous", "integer", "ordered", "categories"]

Array = NDArray[np.float64]

# Where an integer has more values than this, a cell is as good as a point.
_MOST_CELLS = 10_000


class Distribution(Protocol):
    """What a dimension needs of a frozen `scipy.stats` distribution; `cdf` takes arrays, too."""

    def cdf(self, x: Any, /) -> Any: ...

    def ppf(self, q: float, /) -> float: ...

    def support(self) -> tuple[float, float]: ...


class Unchecked:
    """A frozen distribution of `scipy.stats` whose `ppf` takes 0 < q < 1 on trust.

    It returns the same bits in a tenth of the time: scipy's checks take nearly all of it.
    """

    def __init__(self, frozen: Any) -> None:
        self._ppf: Callable[..., Array] = frozen.dist._ppf
        shapes, self._loc, self._scale = frozen.dist._parse_args(*frozen.args, **frozen.kwds)
        self._shapes = [np.atleast_1d(shape) for shape in shapes]
        self._support: tuple[float, float] = frozen.support()
        self.cdf: Callable[[Any], Any] = frozen.cdf
        arguments = (*map(str, frozen.args), *(f"{name}={value}" for name, value in frozen.kwds.items()))
        self._text = f"{frozen.dist.name}({', '.join(arguments)})"

    def __repr__(self) -> str:
        return self._text

    def ppf(self, q: float) -> float:
        return float(self._ppf(np.array([q]), *self._shapes)[0] * self._scale + self._loc)

    def support(self) -> tuple[float, float]:
        return self._support


@dataclass(frozen=True)
class WholePart:
    """The integer below a real variable: k has the probability of [k, k + 1)."""

    distribution: Distribution

    def cdf(self, x: Any) -> Any:
        return self.distribution.cdf(np.floor(x) + 1)

    def ppf(self, q: float) -> float:
        return float(np.floor(self.distribution.ppf(q)))

    def support(self) -> tuple[float, float]:
        low, high = self.distribution.support()
        return float(np.floor(low)), float(np.ceil(high)) - 1


@dataclass(frozen=True)
class Continuous:
    """A real dimension; the distribution's own cdf and ppf lead to and from [0, 1], so scales and priors come free."""

    name: str
    distribution: Distribution
    kind: Kind = "continuous"
    conditions: tuple[Condition, ...] = ()

    def encode(self, value: Value) -> float:
        return float(self.distribution.cdf(float(_number(value))))

    def decode(self, u: float) -> float:
        return _quantile(self.distribution, u)

    def holds(self, value: Value) -> bool:
        """Whether a value lies in the support, up to its last digits."""
        return _supported(self.distribution, value)

    def middles(self, coordinates: Array) -> Array:
        """Return the coordinates, shape (n,), as they are: there are no cells."""
        return coordinates


@dataclass(frozen=True)
class Integer:
    """An integer dimension; a value sits at the middle of its cell of [0, 1]."""

    name: str
    distribution: Distribution
    kind: Kind = "integer"
    conditions: tuple[Condition, ...] = ()

    def encode(self, value: Value) -> float:
        k = _number(value)
        return float(self.distribution.cdf(k - 1) + self.distribution.cdf(k)) / 2

    def decode(self, u: float) -> int:
        return int(_quantile(self.distribution, u))

    def holds(self, value: Value) -> bool:
        """Whether a value is an integer of the support."""
        return _supported(self.distribution, value) and float(_number(value)).is_integer()

    def middles(self, coordinates: Array) -> Array:
        """Return the middle of each coordinate's cell, shape (n,); what has too many values or no end stays."""
        if (edges := self._edges) is None:
            return coordinates
        cells = np.searchsorted(edges[1:-1], coordinates)
        return (edges[cells] + edges[cells + 1]) / 2

    @cached_property
    def _edges(self) -> Array | None:
        """The ends of all cells, in order, shape (values + 1,)."""
        low, high = self.distribution.support()
        if not high - low < _MOST_CELLS:
            return None
        return np.asarray(self.distribution.cdf(np.arange(int(low) - 1, int(high) + 1)), dtype=np.float64)


@dataclass(frozen=True)
class Choice:
    """Values with cells of [0, 1]: "ordered" if they are increasing numbers, else "categories".

    1, 1.0 and True are three values. Cells are equal, or in proportion to `weights`. With `options` they are those of a
    config group, and each may have a space of its own.
    """

    name: str
    values: tuple[Value, ...]
    kind: Kind
    conditions: tuple[Condition, ...] = ()
    options: bool = False
    weights: tuple[float, ...] = ()

    def encode(self, value: Value) -> float:
        if (place := self._place(value)) is None:
            raise ValueError(f"{self.name}: {value!r} is not in {self.values}")
        return float(self._middles[place]) if self.weights else (place + 0.5) / len(self.values)

    def decode(self, u: float) -> Value:
        if self.weights:
            return self.values[bisect_left(self._edges, u, 1, len(self.values)) - 1]
        return self.values[min(max(int(u * len(self.values)), 0), len(self.values) - 1)]

    def holds(self, value: Value) -> bool:
        """Whether a value is listed."""
        return self._place(value) is not None

    def middles(self, coordinates: Array) -> Array:
        """Return the middle of each coordinate's cell, shape (n,)."""
        if self.weights:
            return self._middles[np.searchsorted(self._edges[1:-1], coordinates)]
        count = len(self.values)
        return (np.clip(np.floor(coordinates * count), 0, count - 1) + 0.5) / count

    def _place(self, value: Value) -> int | None:
        """Return which value it is, or else the first number that it equals."""
        place = self._places.get(repr(value))
        return self._places.get(value) if place is None and is_number(value) else place

    @cached_property
    def _places(self) -> dict[Value, int]:
        numbers: dict[Value, int] = {v: i for i, v in reversed(list(enumerate(self.values))) if is_number(v)}
        return numbers | {repr(value): i for i, value in enumerate(self.values)}

    @cached_property
    def _edges(self) -> list[float]:
        return [0.0, *(each / sum(self.weights) for each in accumulate(self.weights))]

    @cached_property
    def _middles(self) -> Array:
        return np.array([(low + high) / 2 for low, high in pairwise(self._edges)])


Dimension = Continuous | Integer | Choice


def _number(value: Value) -> float:
    if not is_number(value) or value != value:
        raise ValueError(f"{value!r} is no number")
    return value


def _supported(distribution: Distribution, value: Value) -> bool:
    """Whether a value is a number of the support, but for the last digits: 0.7 + 0.1 is less than 0.8."""
    if not is_number(value):
        return False
    low, high = (float(end) for end in distribution.support())
    return low <= value <= high or any(math.isclose(value, end, rel_tol=1e-9) for end in (low, high))


def _quantile(distribution: Distribution, u: float) -> float:
    """Return the quantile within the support, off the ends, where an unbounded distribution has no finite one."""
    low, high = distribution.support()
    inside = min(max(u, 2.0**-53), 1.0 - 2.0**-53)
    return min(max(float(distribution.ppf(inside)), float(low)), float(high))
