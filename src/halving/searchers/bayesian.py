"""Bayesian optimisation (Jones et al. 1998; with the resource as an input: Klein et al. 2020)."""

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr  # pyright: ignore

from halving.errors import UserError
from halving.searchers.density import category_counts
from halving.searchers.distinct import Initial, Point
from halving.searchers.learning import LearningSearcher
from halving.searchers.surrogate import Forest, GaussianProcess, Surrogate
from halving.space import Space

Array = NDArray[np.float64]

_SURROGATES = {"gp": GaussianProcess, "forest": Forest}
_DRAWN, _AROUND = 512, 64
_WIDTHS = (0.2, 0.05)
_REFINEMENTS = (0.03, 0.01, 0.003)


class BayesianSearcher(LearningSearcher):
    """Proposes where a surrogate expects the largest improvement.

    The surrogate, a Gaussian process or with `surrogate="forest"` a random forest, has the logarithm of the resource as
    one more input, so that all errors at all resources count, however few have reached the highest; improvement is
    expected at that one, over the best mean of a trial there. A running trial without an error counts with its mean,
    and a failed one with the worst error seen. The first `startup` trials, by default d + 2, are drawn from the space.
    It is the choice for few and expensive trials: a proposal takes a tenth of a second, not a thousandth.

    Raises UserError for another surrogate or a startup below 1.
    """

    def __init__(
        self,
        space: Space,
        seed: int = 0,
        initial: Initial = None,
        surrogate: Literal["gp", "forest"] = "gp",
        startup: int | None = None,
    ) -> None:
        if surrogate not in _SURROGATES:
            raise UserError(f"searcher.surrogate={surrogate}: there is {', '.join(_SURROGATES)}")
        if startup is not None and startup < 1:
            raise UserError(f"searcher.startup={startup}: must be at least 1 trial")
        super().__init__(space, seed, initial)
        self._surrogate = surrogate
        self._startup = len(space.dimensions) + 2 if startup is None else startup
        self._counts = category_counts(space)
        self._steps = np.array([len(getattr(dimension, "values", ())) for dimension in space.dimensions])

    def candidates(self, trial: int, rng: np.random.Generator) -> Iterator[Point]:
        finite = [trial for trial in self._errors if not self.failed(trial)]
        if len(finite) < self._startup:
            return
        top = max(max(self._errors[each]) for each in finite)
        model: Surrogate = _SURROGATES[self._surrogate](int(rng.integers(2**31)))
        rows = [(self._points[each], r, e) for each, errors in self._errors.items() for r, e in errors.items()]
        errors = np.array([error for _, _, error in rows])
        resources = np.array([top if math.isinf(error) else resource for _, resource, error in rows])
        model.fit(self._inputs(np.array([point for point, _, _ in rows]), resources, top), _normal(errors))
        if pending := self.pending:
            inputs = self._inputs(np.array([self._points[each] for each in pending]), top, top)
            model.extend(inputs, model.predict(inputs)[0])
        seen = np.array([self._points[each] for each in (*finite, *pending)])
        means = model.predict(self._inputs(seen, top, top))[0]
        elite = seen[np.argsort(means, kind="stable")[:5]]
        best = float(means.min())

        points = np.vstack(
            [
                rng.random((_DRAWN, seen.shape[1])),
                *(self._near(elite, width, rng) for width in _WIDTHS),
            ]
        )
        values = self._improvement(model, points, best, top)
        for width in _REFINEMENTS:
            leaders = points[np.argsort(-values, kind="stable")[:3]]
            nearer = self._near(leaders, width, rng)
            points = np.vstack([points, nearer])
            values = np.concatenate([values, self._improvement(model, nearer, best, top)])
        yield from points[np.argsort(-values, kind="stable")]

    def _near(self, centres: Array, width: float, rng: np.random.Generator) -> Array:
        """Perturb each centre `_AROUND` times, in half of its dimensions."""
        repeated = np.repeat(centres, _AROUND, axis=0)
        return np.where(rng.random(repeated.shape) < 0.5, self.perturb(repeated, width, rng), repeated)

    def _improvement(self, model: Surrogate, points: Array, best: float, top: int) -> Array:
        mean, deviation = model.predict(self._inputs(points, top, top))
        return log_expected_improvement(mean, deviation, best)

    def _inputs(self, points: Array, resources: Array | int, top: int) -> Array:
        """Turn points (n, d) into inputs: lists at the middle of their cells, one column per category, the resource."""
        n = np.maximum(self._steps, 1)
        cell = np.minimum(np.floor(points * n), n - 1)
        points = np.where(self._steps > 0, (cell + 0.5) / n, points)
        named = [(i, int(count)) for i, count in enumerate(self._counts) if count]
        categories = [(cell[:, [i]] == np.arange(count)) / math.sqrt(2) for i, count in named]
        levels = np.log(np.maximum(np.broadcast_to(resources, len(points)), 1)) / math.log(max(top, 2))
        return np.hstack([points[:, self._counts == 0], *categories, levels[:, None]])


def log_expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """Return the logarithm of E[max(best - error, 0)] for a normal error, which never underflows."""
    z = (best - mean) / deviation
    density = -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
    near = np.maximum(z, -5.0)
    exact = np.log(np.exp(-0.5 * near**2) / math.sqrt(2 * math.pi) + near * ndtr(near))
    return np.log(deviation) + np.where(z > -5, exact, density - 2 * np.log(np.maximum(-z, 1.0)))


def _normal(errors: Array) -> Array:
    """Standardise; a failure takes the worst finite error, and what is far above the median is drawn in."""
    finite = errors[np.isfinite(errors)]
    middle = float(np.median(finite))
    cap = middle + 5 * (middle - float(finite.min()))
    errors = np.minimum(np.where(np.isfinite(errors), errors, finite.max()), cap if cap > middle else math.inf)
    return (errors - errors.mean()) / (errors.std() or 1.0)
