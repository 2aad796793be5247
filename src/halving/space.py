"""The space of configurations: named dimensions, each a distribution, seen as the unit cube."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from itertools import combinations, pairwise
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from halving.condition import Chosen, Condition, When
from halving.errors import UserError, did_you_mean
from halving.targets import instantiate, join
from halving.trial import Configuration, Value

Kind = Literal["continuous", "integer", "ordered", "categories"]

Array = NDArray[np.float64]

_KEYS = ("_choice_", "_when_", "_values_", "_target_", "_integer_")
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
        return float(self.distribution.cdf(float(cast(float, value))))

    def decode(self, u: float) -> float:
        low, high = self.distribution.support()
        return min(max(float(self.distribution.ppf(_inside(u))), float(low)), float(high))

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
        k = int(cast(int, value))
        return float(self.distribution.cdf(k - 1) + self.distribution.cdf(k)) / 2

    def decode(self, u: float) -> int:
        low, high = self.distribution.support()
        return int(min(max(float(self.distribution.ppf(_inside(u))), low), high))

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
    """Values with equal cells of [0, 1]: "ordered" if they are increasing numbers, else "categories".

    With `options` they are those of a config group, and each may have a space of its own.
    """

    name: str
    values: tuple[Value, ...]
    kind: Kind
    conditions: tuple[Condition, ...] = ()
    options: bool = False

    def encode(self, value: Value) -> float:
        return (self.values.index(value) + 0.5) / len(self.values)

    def decode(self, u: float) -> Value:
        return self.values[min(max(int(u * len(self.values)), 0), len(self.values) - 1)]

    def middles(self, coordinates: Array) -> Array:
        """Return the middle of each coordinate's cell, shape (n,)."""
        count = len(self.values)
        return (np.clip(np.floor(coordinates * count), 0, count - 1) + 0.5) / count


Dimension = Continuous | Integer | Choice


@dataclass(frozen=True)
class Space:
    """Dimensions in a fixed order; a point of the unit cube has one coordinate for each.

    A dimension exists in a configuration where all its conditions hold. Two may have one name where never both exist.
    `constants` are the values of what conditions name beside dimensions.
    """

    dimensions: tuple[Dimension, ...] = ()
    constants: Mapping[str, Value] = field(default_factory=dict[str, Value], hash=False)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], known: Mapping[str, Value] | None = None) -> "Space":
        """Read a mapping that mirrors the configuration it searches.

        A leaf is a frozen `scipy.stats` distribution, a mapping with `_target_` that makes one, or a list of values;
        nested keys are joined with dots. `_integer_: true` beside `_target_` keeps the whole part of a real
        distribution. A list may be written as a mapping with `_values_`. `_choice_` maps options to a space each, or
        lists them; what stands beside it belongs to every option. `_when_` in any mapping is a condition for all in
        it, over dimensions and `known` values of the rest of the configuration; see `halving.condition.When`.

        Raises UserError, which names the dimension, for anything else, for reversed bounds, for conditions that name
        what is unknown and for dimensions that exist only if they exist.
        """
        space = cls(tuple(_read(config, "", ())))
        _check_names(space)
        needed = dict.fromkeys(name for each in space.dimensions for when in each.conditions for name in when.names)
        constants = {name: (known or {})[name] for name in needed if name in (known or {}) and name not in space.names}
        _check_conditions(space, constants, known or {})
        return cls(space.dimensions, constants)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the dimensions, each once."""
        return tuple(dict.fromkeys(dimension.name for dimension in self.dimensions))

    def sample(self, rng: np.random.Generator) -> Configuration:
        """Draw one configuration."""
        return self.decode(rng.random(len(self.dimensions)))

    def encode(self, configuration: Mapping[str, Value]) -> Array:
        """Map a configuration to its point of the unit cube, shape (d,).

        A dimension that does not exist in it lies at 0.5. A number outside of a distribution lies at the nearer end.

        Raises ValueError for a value that a list or choice lacks, and for the lack of a value.
        """
        existing = set(self._existing(self._values(configuration)))
        coordinates = (
            _coordinate(dimension, configuration) if i in existing else 0.5
            for i, dimension in enumerate(self.dimensions)
        )
        return np.fromiter(coordinates, dtype=np.float64)

    def decode(self, u: ArrayLike) -> Configuration:
        """Map a point of the unit cube, shape (d,), to a configuration; coordinates outside are clipped."""
        point = np.clip(np.asarray(u, dtype=np.float64), 0.0, 1.0)
        decoded: list[Configuration] = [
            {dimension.name: dimension.decode(float(x))} for dimension, x in zip(self.dimensions, point, strict=True)
        ]
        return {name: value for i in self._existing(decoded) for name, value in decoded[i].items()}

    def canonical(self, points: Array) -> Array:
        """Return points (n, d) with the coordinates of what does not exist at 0.5, where `encode` has them."""
        if not any(dimension.conditions for dimension in self.dimensions):
            return points
        # What exists follows from the dimensions that conditions name; most of them have few values.
        cells = np.zeros_like(points)
        for i in self._named:
            cells[:, i] = self.dimensions[i].middles(points[:, i])
        rows, places = np.unique(cells, axis=0, return_inverse=True)
        exists = np.zeros(rows.shape, dtype=bool)
        for row, here in zip(rows.tolist(), exists, strict=True):
            values: list[Configuration] = [{} for _ in row]
            for i in self._named:
                values[i] = {self.dimensions[i].name: self.dimensions[i].decode(row[i])}
            here[list(self._existing(values))] = True
        return np.where(exists[places.reshape(-1)], points, 0.5)

    def existing(self, configuration: Mapping[str, Value]) -> tuple[Dimension, ...]:
        """Return the dimensions that exist beside the values of `configuration`."""
        return tuple(self.dimensions[i] for i in self._existing(self._values(configuration)))

    def combinations(self) -> list[dict[str, str]]:
        """Return every way to choose options of config groups, each with the choices that exist in it."""
        found: list[dict[str, str]] = [{}]
        for dimension in self.dimensions:
            if not isinstance(dimension, Choice) or not dimension.options:
                continue
            choices = [condition for condition in dimension.conditions if isinstance(condition, Chosen)]
            options = [{dimension.name: str(option)} for option in dimension.values]
            sometimes = options if len(choices) == len(dimension.conditions) else [*options, {}]
            found = [
                chosen | option
                for chosen in found
                for option in (sometimes if all(choice.holds(chosen) for choice in choices) else [{}])
            ]
        return found

    def _values(self, configuration: Mapping[str, Value]) -> list[Configuration]:
        """Return for each dimension its name and value in a configuration, or nothing."""
        return [{name: configuration[name]} if name in configuration else {} for name in _names(self.dimensions)]

    def _existing(self, values: Sequence[Configuration]) -> Sequence[int]:
        """Return the indices of the dimensions that exist where each, if it does, has the value of `values`."""
        if not any(dimension.conditions for dimension in self.dimensions):
            return range(len(self.dimensions))
        known = dict(self.constants)
        found: list[int] = []
        for i in self.order:
            if all(condition.holds(known) for condition in self.dimensions[i].conditions):
                found.append(i)
                known |= values[i]
        return sorted(found)

    @cached_property
    def _named(self) -> list[int]:
        """The dimensions that conditions name."""
        names = {name for each in self.dimensions for condition in each.conditions for name in condition.names}
        return [i for i, dimension in enumerate(self.dimensions) if dimension.name in names]

    @cached_property
    def order(self) -> tuple[int, ...]:
        """The dimensions as they stand, but each after those that its conditions name.

        Raises CycleError where there is no such order.
        """
        names = _names(self.dimensions)
        named = {
            i: [j for condition in dimension.conditions for name in condition.names for j in _places(names, name)]
            for i, dimension in enumerate(self.dimensions)
        }
        TopologicalSorter(named).prepare()
        placed: dict[int, None] = {}

        def place(i: int) -> None:
            if i not in placed:
                for j in named[i]:
                    place(j)
                placed[i] = None

        for i in named:
            place(i)
        return tuple(placed)


def _names(dimensions: Sequence[Dimension]) -> list[str]:
    return [dimension.name for dimension in dimensions]


def _places(names: list[str], name: str) -> list[int]:
    return [i for i, each in enumerate(names) if each == name]


def _coordinate(dimension: Dimension, configuration: Mapping[str, Value]) -> float:
    if dimension.name not in configuration:
        raise ValueError(f"{dimension.name} is lacking")
    return dimension.encode(configuration[dimension.name])


def _check_names(space: Space) -> None:
    for one, other in combinations(space.dimensions, 2):
        if one.name == other.name and not _exclusive(one, other):
            raise UserError(
                f"space.{one.name}: named twice, "
                + ("beside an option and within it" if one.conditions or other.conditions else "nested and with a dot")
                + "; keep one of them"
            )


def _exclusive(one: Dimension, other: Dimension) -> bool:
    """Whether two dimensions belong to different options of one choice."""
    return any(
        a.name == b.name and a.option != b.option
        for a in one.conditions
        for b in other.conditions
        if isinstance(a, Chosen) and isinstance(b, Chosen)
    )


def _check_conditions(space: Space, constants: Mapping[str, Value], known: Iterable[str]) -> None:
    numbers = {dimension.name for dimension in space.dimensions if dimension.kind != "categories"}
    numbers |= {name for name, value in constants.items() if isinstance(value, int | float)}
    for dimension in space.dimensions:
        for condition in dimension.conditions:
            where = f"space.{dimension.name}: _when_: {condition}"
            for name in condition.names:
                if name not in space.names and name not in constants:
                    raise UserError(
                        f"{where}: {name} is no dimension and no value of the configuration"
                        f"{did_you_mean(name, {*space.names, *known})} (strings are quoted)"
                    )
            for name in condition.ordered if isinstance(condition, When) else ():
                if name not in numbers:
                    raise UserError(f"{where}: {name} is no number; compare it by == or `in`")
    try:
        _ = space.order
    except CycleError as error:
        circle = " needs ".join(dict.fromkeys(space.dimensions[i].name for i in cast(list[int], error.args[1])))
        raise UserError(f"space: dimensions that exist only if they exist: {circle}; drop one _when_") from error


def _read(node: Mapping[str, Any], path: str, conditions: tuple[Condition, ...]) -> Iterator[Dimension]:
    """Yield the dimensions of what a mapping holds beside its own `_when_`."""
    if "_when_" in node:
        conditions = (*conditions, _when(node["_when_"], path))
    for key, value in node.items():
        match str(key), value:
            case "_when_", _:
                pass
            case "_choice_", _:
                yield from _options(path, value, conditions)
            case name, _ if name.startswith("_") and name.endswith("_"):
                raise UserError(f"{join('space', path)}: {name} has no meaning here{did_you_mean(name, _KEYS)}")
            case name, Mapping() if "_target_" not in value and "_values_" not in value:
                yield from _read(cast(Mapping[str, Any], value), join(path, name), conditions)
            case name, _:
                yield _leaf(join(path, name), value, conditions)


def _options(path: str, node: Any, conditions: tuple[Condition, ...]) -> Iterator[Dimension]:
    """Yield a choice of options and what each option's space holds."""
    if not path:
        raise UserError("space: _choice_ belongs below the name of what is chosen, such as optimizer")
    options: dict[str, Any]
    match node:
        case Mapping():
            options = {str(option): below or {} for option, below in cast(Mapping[Any, Any], node).items()}
        case Sequence() if not isinstance(node, str):
            options = {str(option): {} for option in cast(Sequence[Any], node)}
        case _:
            options = {}
    if not options or not all(isinstance(below, Mapping) for below in options.values()):
        raise UserError(
            f"space.{path}: _choice_ is a mapping from options to what is searched in each ({{}} for nothing), "
            f"or a list of options, not {node!r}"
        )
    yield Choice(path, tuple(options), "categories", conditions, options=True)
    for option, below in options.items():
        yield from _read(below, path, (*conditions, Chosen(path, option)))


def _when(text: Any, path: str) -> When:
    try:
        return When(str(text))
    except ValueError as error:
        raise UserError(f"{join('space', path)}: _when_: {text}: {error}") from error


def _leaf(name: str, leaf: Any, conditions: tuple[Condition, ...]) -> Dimension:
    if not isinstance(leaf, Mapping):
        return replace(_dimension(name, leaf, False), conditions=conditions)
    rest = dict(cast(Mapping[str, Any], leaf))
    when, integer = rest.pop("_when_", None), bool(rest.pop("_integer_", False))
    if when is not None:
        conditions = (*conditions, _when(when, name))
    if "_values_" in rest and len(rest) > 1:
        raise UserError(f"space.{name}: _values_ is a list; nothing but _when_ stands beside it, not {list(rest)}")
    return replace(_dimension(name, rest.get("_values_", rest), integer), conditions=conditions)


def _dimension(name: str, leaf: Any, integer: bool) -> Dimension:
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
    whole = hasattr(distribution, "pmf")
    if hasattr(distribution, "dist"):
        distribution = Unchecked(distribution)
    if whole:
        return Integer(name, distribution)
    return Integer(name, WholePart(distribution)) if integer else Continuous(name, distribution)


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
