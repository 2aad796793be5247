"""The space of configurations."""

from halving.space.dimension import Choice, Continuous, Dimension, Integer
from halving.space.space import Space

__all__ = ["Choice", "Continuous", "Dimension", "Integer", "Space"]
