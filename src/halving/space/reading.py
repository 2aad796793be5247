"""Dimensions from a mapping that mirrors the configuration that is searched."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from halving.errors import UserError, did_you_mean
from halving.space.condition import Chosen, Condition, When
from halving.space.dimension import Choice, Continuous, Dimension, Distribution, Integer, Unchecked, WholePart
from halving.targets import instantiate, join
from halving.trial import Value, plain

_KEYS = ("_choice_", "_when_", "_values_", "_target_", "_integer_")


def read(node: Mapping[str, Any], path: str = "", conditions: tuple[Condition, ...] = ()) -> Iterator[Dimension]:
    """Yield the dimensions of what a mapping at `path` holds; they exist under `conditions` and its own `_when_`.

    Raises UserError, which names the dimension, for what is no distribution, list, choice or condition.
    """
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
                yield from read(cast(Mapping[str, Any], value), join(path, name), conditions)
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
        yield from read(below, path, (*conditions, Chosen(path, option)))


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
    if isinstance(leaf, np.ndarray):
        leaf = cast(NDArray[Any], leaf).tolist()
    if isinstance(leaf, Sequence) and not isinstance(leaf, str):
        return _choice(name, tuple(cast(Sequence[Any], leaf)))
    distribution = _distribution(name, leaf)
    try:
        low, high = (float(bound) for bound in distribution.support())
        median = float(distribution.ppf(0.5))
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"space.{name}: {leaf!r} is not a distribution; give one of scipy.stats as a mapping with _target_ "
            "(from Python also as loguniform(1e-4, 1e-1)), or a list of values"
        ) from error
    if not low <= high or not np.isfinite(median):
        raise UserError(
            f"space.{name}: {_described(leaf)} has no finite values; "
            "are its bounds reversed, or is a parameter out of range?"
        )
    whole = hasattr(distribution, "pmf")
    if hasattr(getattr(distribution, "dist", distribution), "xk") and not integer:
        return _weighted(name, distribution)
    if whole and not integer and not median.is_integer():
        raise UserError(
            f"space.{name}: {_described(leaf)} has values such as {median:g}; a list keeps what is no integer"
        )
    if hasattr(getattr(distribution, "dist", None), "_ppf"):
        distribution = Unchecked(distribution)
    if whole:
        return Integer(name, distribution)
    return Integer(name, WholePart(distribution)) if integer else Continuous(name, distribution)


def _weighted(name: str, distribution: Any) -> Choice:
    """Return the values of an `rv_discrete` with their probabilities."""
    weights: dict[float, float] = {}
    below = 0.0
    for p in getattr(distribution, "dist", distribution).pk:
        if p > 0:
            value = float(distribution.ppf(below + p / 2))
            below, weights[value] = below + p, weights.get(value, 0.0) + p
    whole = all(value.is_integer() for value in weights)
    values = tuple(int(value) if whole else value for value in weights)
    return Choice(name, values, "ordered", weights=tuple(map(float, weights.values())))


def _choice(name: str, values: tuple[Any, ...]) -> Choice:
    if not values:
        raise UserError(f"space.{name}: an empty list has no values to choose from")
    values = tuple(map(plain, values))
    if len(set(map(repr, values))) < len(values):
        raise UserError(f"space.{name}: {list(values)} names a value twice")
    for value in values:
        if not isinstance(value, Value) or value != value:
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
