"""Searchers that learn: what was observed, as points of the unit cube."""

import math
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from halving.searchers.distinct import DistinctSearcher, Initial, Point
from halving.space import Space
from halving.trial import Configuration


class LearningSearcher(DistinctSearcher):
    """Keeps every trial's point, its errors by resource, and whether it failed: a failure takes no error away.

    A configuration that is not in the space, such as a default out of its range, has no point: it is not learned from.
    """

    def __init__(self, space: Space, seed: int = 0, initial: Initial = None) -> None:
        super().__init__(space, seed, initial)
        self._points: dict[int, Point] = {}
        self._errors: dict[int, dict[int, float]] = {}
        self._failed: set[int] = set()
        self._categories = np.array([dimension.kind == "categories" for dimension in space.dimensions], dtype=bool)

    def recall(self, trial: int, configuration: Configuration) -> None:
        super().recall(trial, configuration)
        self._points.pop(trial, None)
        if (point := self.point(configuration)) is not None:
            self._points[trial] = point

    def observe(self, trial: int, configuration: Configuration, resource: int, error: float) -> None:
        if self._proposed.get(trial) != configuration:
            self.recall(trial, configuration)
        if trial not in self._points:
            return
        errors = self._errors.setdefault(trial, {})
        if math.isfinite(error):
            errors[resource] = error
        else:
            self._failed.add(trial)

    def point(self, configuration: Configuration) -> Point | None:
        """Return a configuration's point of the unit cube; None where the space lacks one of its values."""
        return self._space.encode(configuration) if self._space.holds(configuration) else None

    @property
    def pending(self) -> list[int]:
        """Trials that were proposed and have no outcome yet."""
        return sorted(self._points.keys() - self._errors.keys())

    def failed(self, trial: int) -> bool:
        return trial in self._failed

    def standing(self, trial: int) -> tuple[bool, int, float, int]:
        """Order trials as incumbents are: the highest resource first, then the lowest error; failures come last."""
        errors = self._errors[trial]
        resource = max(errors, default=0)
        return self.failed(trial), -resource, errors.get(resource, math.inf), trial

    def best(self) -> int | None:
        """Return the incumbent among the trials that did not fail."""
        best = min(self._errors, key=self.standing, default=None)
        return None if best is None or self.failed(best) else best

    def level(self, enough: int) -> int | None:
        """Return the highest resource at which at least `enough` trials that did not fail have an error."""
        counts = Counter(r for trial, errors in self._errors.items() if not self.failed(trial) for r in errors)
        return max((resource for resource, count in counts.items() if count >= enough), default=None)

    def perturb(self, points: NDArray[np.float64], width: float, rng: np.random.Generator) -> NDArray[np.float64]:
        """Move points (..., d) by normal steps reflected at the faces; draw categories anew with chance `width`."""
        moved = 1 - np.abs(1 - (points + rng.normal(0, width, points.shape)) % 2)
        redrawn = np.where(rng.random(points.shape) < width, rng.random(points.shape), points)
        return np.where(self._categories, redrawn, moved)
