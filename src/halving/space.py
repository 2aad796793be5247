"""The space of configurations: named dimensions, each a distribution, seen as the unit cube."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from halving.errors import UserError
from halving.targets import instantiate
from halving.trial import Configuration, Value

Kind = Literal["continuous", "integer", "ordered", "categories"]


class Distribution(Protocol):
    """What a dimension needs of a frozen `scipy.stats` distribution."""

    def cdf(self, x: float, /) -> float: ...

    def ppf(self, q: float, /) -> float: ...

    def support(self) -> tuple[float, float]: ...


@dataclass(frozen=True)
class Continuous:
    """A real dimension; the distribution's own cdf and ppf lead to and from [0, 1], so scales and priors come free."""

    name: str
    distribution: Distribution
    kind: Kind = "continuous"

    def encode(self, value: Value) -> float:
        return float(self.distribution.cdf(float(cast(float, value))))

    def decode(self, u: float) -> float:
        low, high = self.distribution.support()
        return min(max(float(self.distribution.ppf(_inside(u))), float(low)), float(high))


@dataclass(frozen=True)
class Integer:
    """An integer dimension; a value sits at the middle of its cell of [0, 1]."""

    name: str
    distribution: Distribution
    kind: Kind = "integer"

    def encode(self, value: Value) -> float:
        k = int(cast(int, value))
        return float(self.distribution.cdf(k - 1) + self.distribution.cdf(k)) / 2

    def decode(self, u: float) -> int:
        low, high = self.distribution.support()
        return int(min(max(float(self.distribution.ppf(_inside(u))), low), high))


@dataclass(frozen=True)
class Choice:
    """A list of values with equal cells of [0, 1]: "ordered" if they are increasing numbers, else "categories"."""

    name: str
    values: tuple[Value, ...]
    kind: Kind

    def encode(self, value: Value) -> float:
        return (self.values.index(value) + 0.5) / len(self.values)

    def decode(self, u: float) -> Value:
        return self.values[min(max(int(u * len(self.values)), 0), len(self.values) - 1)]


Dimension = Continuous | Integer | Choice


@dataclass(frozen=True)
class Space:
    """Dimensions in a fixed order; a point of the unit cube has one coordinate for each."""

    dimensions: tuple[Dimension, ...] = ()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Space":
        """Read a mapping that mirrors the configuration it searches.

        A leaf is a frozen `scipy.stats` distribution, a mapping with `_target_` that makes one, or a list of values;
        nested keys are joined with dots.

        Raises UserError, which names the dimension, for anything else and for reversed bounds.
        """
        space = cls(tuple(_read(config, "")))
        for name in space.names:
            if space.names.count(name) > 1:
                raise UserError(f"space.{name}: named twice, nested and with a dot; keep one of them")
        return space

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dimension.name for dimension in self.dimensions)

    def sample(self, rng: np.random.Generator) -> Configuration:
        """Draw one configuration."""
        return self.decode(rng.random(len(self.dimensions)))

    def encode(self, configuration: Mapping[str, Value]) -> NDArray[np.float64]:
        """Map a configuration to its point of the unit cube, shape (d,)."""
        return np.array([dimension.encode(configuration[dimension.name]) for dimension in self.dimensions])

    def decode(self, u: ArrayLike) -> Configuration:
        """Map a point of the unit cube, shape (d,), to a configuration; coordinates outside are clipped."""
        point = np.clip(np.asarray(u, dtype=np.float64), 0.0, 1.0)
        return {dimension.name: dimension.decode(float(x)) for dimension, x in zip(self.dimensions, point, strict=True)}


def _read(node: Mapping[str, Any], path: str) -> Iterator[Dimension]:
    for key, value in node.items():
        name = f"{path}.{key}" if path else str(key)
        if key == "_choice_":
            raise UserError(f"space.{path}: choices of options are not built yet; compare with -m {path}=a,b")
        if isinstance(value, Mapping) and "_target_" not in value:
            yield from _read(cast(Mapping[str, Any], value), name)
        else:
            yield _dimension(name, value)


def _dimension(name: str, leaf: Any) -> Dimension:
    if isinstance(leaf, Sequence) and not isinstance(leaf, str):
        return _choice(name, tuple(cast(Sequence[Any], leaf)))
    distribution = _distribution(name, leaf)
    try:
        low, high = (float(bound) for bound in distribution.support())
        median = float(distribution.ppf(0.5))
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"space.{name}: {leaf!r} is not a distribution; give one of scipy.stats as a mapping with _target_, "
            "or a list of values"
        ) from error
    if not low <= high or np.isnan(median):
        raise UserError(
            f"space.{name}: {_described(leaf)} has an empty support; "
            "are its bounds reversed, or is a parameter out of range?"
        )
    return Integer(name, distribution) if hasattr(distribution, "pmf") else Continuous(name, distribution)


def _choice(name: str, values: tuple[Any, ...]) -> Choice:
    if not values:
        raise UserError(f"space.{name}: an empty list has no values to choose from")
    if len(set(map(repr, values))) < len(values):
        raise UserError(f"space.{name}: {list(values)} names a value twice")
    for value in values:
        if not isinstance(value, Value):
            raise UserError(f"space.{name}: {value!r} is no scalar; a list holds numbers, strings, booleans or null")
        if isinstance(value, str) and "${" in value:
            raise UserError(f"space.{name}: {value!r} holds an interpolation; a value must be plain")
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    increasing = len(numbers) == len(values) and all(a < b for a, b in pairwise(numbers))
    return Choice(name, values, "ordered" if increasing else "categories")


def _distribution(name: str, leaf: Any) -> Distribution:
    if not isinstance(leaf, Mapping):
        return leaf
    try:
        return instantiate(leaf, f"space.{name}")
    except (TypeError, ValueError) as error:
        raise UserError(f"space.{name}: {_described(leaf)}: {error}") from error


def _described(leaf: Any) -> str:
    if not isinstance(leaf, Mapping):
        return repr(leaf)
    config = cast(Mapping[str, Any], leaf)
    arguments = ", ".join(f"{key}={value}" for key, value in config.items() if key != "_target_")
    return f"{config['_target_']}({arguments})"


def _inside(u: float) -> float:
    """Keep u off the ends, where an unbounded distribution has no finite quantile."""
    return min(max(u, 2.0**-53), 1.0 - 2.0**-53)
