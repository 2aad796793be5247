"""Product kernels over the unit cube: what BOHB and the prior draw from and weigh points with."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, ndtr, ndtri  # pyright: ignore

from halving.searchers.distinct import cell_count
from halving.space import Choice, Space

Array = NDArray[np.float64]

_NARROWEST = 0.02


def category_counts(space: Space) -> Array:
    """Return how many categories each dimension has, 0 for a number, shape (d,)."""
    counts = [
        len(dimension.values) if isinstance(dimension, Choice) and dimension.kind == "categories" else 0
        for dimension in space.dimensions
    ]
    return np.array(counts, dtype=np.float64)


def varied(space: Space) -> int:
    """Return the number of dimensions that have more than one value."""
    return sum(cell_count(dimension) != 1 for dimension in space.dimensions)


@dataclass(frozen=True)
class Density:
    """A mean of product kernels around points (n, d): normals cut at the faces, for categories Aitchison and Aitken's.

    `widths` (d,) are standard deviations, and for a dimension with `categories` (d,) the probability of another one.
    """

    points: Array
    categories: Array
    widths: Array

    @classmethod
    def estimate(cls, points: Array, categories: Array) -> "Density":
        """Choose the widths by the normal reference rule; those of categories follow from n alone, not from spread."""
        n, d = points.shape
        shrinking = float(n) ** (-1 / (4 + d))
        others = (1 - 1 / np.maximum(categories, 1)) * shrinking
        spread: Array = np.maximum(_NARROWEST, 1.06 * points.std(axis=0) * shrinking)
        return cls(points, categories, np.where(categories > 0, others, spread))

    def sample(self, count: int, rng: np.random.Generator, widening: float = 1.0) -> Array:
        """Draw points, shape (count, d), from kernels that are `widening` times as wide for numbers."""
        centres = self.points[rng.integers(len(self.points), size=count)]
        width = np.where(self.categories > 0, 1.0, self.widths * widening)
        low, high = ndtr(-centres / width), ndtr((1 - centres) / width)
        numbers = np.clip(centres + width * ndtri(low + (high - low) * rng.random(centres.shape)), 0, 1)
        k = np.maximum(self.categories, 2)
        others = ((np.floor(centres * k) + rng.integers(1, k, centres.shape)) % k + 0.5) / k
        named = np.where(rng.random(centres.shape) < self.widths, others, centres)
        return np.where(self.categories > 0, named, numbers)

    def log(self, points: Array) -> Array:
        """Return the logarithm of the density at points (m, d), shape (m,)."""
        named = self.categories > 0
        width, k = self.widths[~named], self.categories[named]
        there: Array = points[:, ~named] / width
        here: Array = self.points[:, ~named] / width
        inside: Array = ndtr(1 / width - here) - ndtr(-here)
        squares: Array = (there**2).sum(axis=1)[:, None] + (here**2).sum(axis=1)
        heights: Array = np.log(width * math.sqrt(2 * math.pi) * inside).sum(axis=1)
        logs: Array = there @ here.T - squares / 2 - heights
        other = np.clip(self.widths[named], 1e-9, 1 - 1e-9)
        same, differs = np.log((1 - other) * k), np.log(other * k / np.maximum(k - 1, 1))
        cells = zip((points[:, named] * k).T, (self.points[:, named] * k).T, same, differs, strict=True)
        matches: list[Array] = [np.where(np.floor(a)[:, None] == np.floor(b), yes, no) for a, b, yes, no in cells]
        return np.asarray(logsumexp(logs + sum(matches), axis=1), dtype=np.float64) - math.log(len(self.points))
