"""The space of configurations: named dimensions, seen as the unit cube."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from itertools import combinations
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from halving.errors import UserError, did_you_mean
from halving.space.condition import Chosen, When, is_number
from halving.space.dimension import Array, Choice, Dimension, Integer
from halving.space.reading import read
from halving.trial import Configuration, Value

_MOST_LISTED = 64  # values that are worth a list


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
        it, over dimensions and `known` values of the rest of the configuration; see `When`.

        Raises UserError, which names the dimension, for anything else, for reversed bounds, for conditions that name
        what is unknown and for dimensions that exist only if they exist.
        """
        space = cls(tuple(read(config)))
        _check_names(space)
        needed = dict.fromkeys(name for each in space.dimensions for when in each.conditions for name in when.names)
        constants = {name: (known or {})[name] for name in needed if name in (known or {}) and name not in space.names}
        _check_conditions(space, constants, known or {})
        return cls(space.dimensions, constants)

    def __repr__(self) -> str:
        return f"Space({', '.join(self.described)})"

    @cached_property
    def described(self) -> tuple[str, ...]:
        """What each dimension is, in words that are the same in every process: `lr: loguniform(a=0.01, b=1.0)`."""
        return tuple(map(_described, self.dimensions))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the dimensions, each once."""
        return tuple(dict.fromkeys(dimension.name for dimension in self.dimensions))

    @cached_property
    def domains(self) -> dict[str, Any]:
        """The values of each dimension, as JSON: the list of a choice, else its ends as `{"low": 0.1, "high": 1.0}`.

        It says nothing of what has no ends, and of lists of more than 64 values that are no numbers.
        """
        return {name: _domain([each for each in self.dimensions if each.name == name]) for name in self.names}

    def sample(self, rng: np.random.Generator) -> Configuration:
        """Draw one configuration."""
        return self.decode(rng.random(len(self.dimensions)))

    def encode(self, configuration: Mapping[str, Value]) -> Array:
        """Map a configuration to its point of the unit cube, shape (d,).

        A dimension that does not exist in it lies at 0.5. A number outside of a distribution lies at the nearer end.

        Raises ValueError for a value that a list or choice lacks, for no number where there is a distribution, and for
        the lack of a value.
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

    def holds(self, configuration: Mapping[str, Value]) -> bool:
        """Whether a configuration has, of each dimension that exists in it, one of the dimension's values."""
        return all(
            dimension.name in configuration and dimension.holds(configuration[dimension.name])
            for dimension in self.existing(configuration)
        )

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

    def possible(self, chosen: Mapping[str, str]) -> list[Dimension]:
        """Return the dimensions that may exist with these options of config groups."""
        return [
            dimension
            for dimension in self.dimensions
            if all(condition.holds(chosen) for condition in dimension.conditions if isinstance(condition, Chosen))
        ]

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
        TopologicalSorter(named).prepare()  # finds circles; its own order is another one
        placed: dict[int, None] = {}

        def place(i: int) -> None:
            if i not in placed:
                for j in named[i]:
                    place(j)
                placed[i] = None

        for i in named:
            place(i)
        return tuple(placed)


def _described(dimension: Dimension) -> str:
    values: Any = list(dimension.values) if isinstance(dimension, Choice) else dimension.distribution
    text = type(values).__name__ if type(values).__repr__ is object.__repr__ else str(values)
    if isinstance(dimension, Choice) and dimension.weights:
        text += f" weighted {list(dimension.weights)}"
    return f"{dimension.name}: {text}{''.join(f' if {condition}' for condition in dimension.conditions)}"


def _domain(dimensions: Sequence[Dimension]) -> Any:
    """Return the values of dimensions of one name, of which never two exist together."""
    listed = [value for each in dimensions if isinstance(each, Choice) for value in each.values]
    drawn = [each for each in dimensions if not isinstance(each, Choice)]
    if not drawn and len(listed) <= _MOST_LISTED:
        return list({repr(value): value for value in listed}.values())
    numbers = [value for value in listed if is_number(value)]
    ends = [
        int(end) if isinstance(each, Integer) and math.isfinite(end) else float(end)
        for each in drawn
        for end in each.distribution.support()
    ]
    known = [*numbers, *ends]
    return (
        {"low": min(known), "high": max(known)}
        if len(numbers) == len(listed) and all(map(math.isfinite, known))
        else {}
    )


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
