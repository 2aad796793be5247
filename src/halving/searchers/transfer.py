"""What an earlier study found, as a first proposal in another space."""

from collections.abc import Mapping
from contextlib import suppress
from math import isclose

from halving.space import Dimension, Space
from halving.trial import Configuration, Value


def transferred(earlier: Mapping[str, Value], space: Space, defaults: Mapping[str, Value]) -> Configuration:
    """Return an earlier configuration as far as this space has it.

    Dimensions that the space lacks are dropped, those that only it has take their default, numbers are clipped to
    their support, and what a list lacks, or is no number, gives way to the default, or else to the middle of the
    dimension.
    """
    known: dict[str, Value] = {}
    # A value may bring further dimensions into existence.
    while lacking := [dimension for dimension in space.existing(known) if dimension.name not in known]:
        known |= {dimension.name: _value(dimension, earlier, defaults) for dimension in lacking}
    clipped = space.decode(space.encode(known))
    return {name: known[name] if _same(known.get(name), value) else value for name, value in clipped.items()}


def _value(dimension: Dimension, earlier: Mapping[str, Value], defaults: Mapping[str, Value]) -> Value:
    for value in (source[dimension.name] for source in (earlier, defaults) if dimension.name in source):
        with suppress(ValueError):
            dimension.encode(value)
            return value
    return dimension.decode(0.5)


def _same(value: Value, clipped: Value) -> bool:
    """Whether clipping changed nothing but the last digits."""
    if isinstance(value, float) and isinstance(clipped, float):
        return isclose(value, clipped, rel_tol=1e-6, abs_tol=1e-12)
    return type(value) is type(clipped) and value == clipped
