"""Learning-curve extrapolation (Domhan et al. 2015)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares  # pyright: ignore

from halving.errors import UserError
from halving.schedulers.early_stopping import Climber, EarlyStopping
from halving.schedulers.successive_halving import ladder
from halving.searchers import Searcher

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Family:
    """A decaying curve of positive parameters: f(t, theta) for t = 1, 2, ..., bounds, and where a fit starts."""

    name: str
    curve: Callable[[Array, Array], Array]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    start: tuple[float, ...]


# Errors are scaled beforehand: 0 is their floor, 1 the largest of a curve. The first parameter is the asymptote, the
# second the height.
FAMILIES = (
    Family("power law", lambda t, p: p[0] + p[1] * t ** -p[2], (0, 0, 0), (1.5, 10, 5), (0.2, 0.8, 0.5)),
    Family("exponential", lambda t, p: p[0] + p[1] * np.exp(-p[2] * t), (0, 0, 1e-4), (1.5, 10, 5), (0.2, 0.8, 0.1)),
    Family(
        "logarithmic power",
        lambda t, p: p[0] + p[1] / (1 + (t / np.exp(p[2])) ** p[3]),
        (0, 0, -3, 0.01),
        (1.5, 10, 8, 5),
        (0.2, 0.8, 1.0, 1.0),
    ),
)
_LEAST_NOISE = 0.01


class Curve(EarlyStopping):
    """Stops a trial whose probability of beating the incumbent at `r_max` is below `threshold`.

    After each rung, parametric families are fitted to the trial's curve, each with a Laplace approximation of its
    parameters, and weighed by their evidence (BIC). A trial is judged from `min_points` epochs on, against the best
    error at r_max so far. It is the choice for smooth curves that cross; where they are noisy or few points are
    known, it stops little. The only scheduler that needs `Outcome.curve`.

    Raises UserError for a ladder that cannot be climbed or a threshold outside (0, 1).
    """

    def __init__(
        self,
        searcher: Searcher,
        eta: int = 3,
        r_min: int = 1,
        r_max: int = 27,
        threshold: float = 0.05,
        min_points: int = 4,
        max_trials: int | None = None,
    ) -> None:
        if not 0 < threshold < 1:
            raise UserError(f"scheduler.threshold={threshold}: a probability between 0 and 1")
        super().__init__(searcher, ladder(eta, r_min, r_max), max_trials)
        self._threshold = threshold
        self._min_points = min_points

    def hopeless(self, climber: Climber, level: int) -> tuple[bool, str]:
        at_end = [other.errors[-1] for other in self._climbers.values() if len(other.errors) == len(self._levels)]
        if not at_end:
            return False, f"nobody has reached {self._levels[-1]} yet"
        known = sum(map(math.isfinite, climber.curve))
        if known < self._min_points:
            return False, f"{known} points of a curve are too few to extrapolate"
        chance = probability_below(min(at_end), climber.curve, level, self._levels[-1])
        return chance < self._threshold, f"beats the best error {min(at_end):.6g} with probability {chance:.3g}"


def probability_below(target: float, curve: Sequence[float], resource: int, r_max: int) -> float:
    """Return the probability that a curve, known at points up to `resource`, ends below `target` at `r_max`.

    Points that are not finite are left out. A mixture over FAMILIES: each predicts a normal distribution, from its
    parameters' uncertainty and the residuals'.
    """
    t = np.linspace(resource / len(curve), resource, len(curve))
    y = np.asarray(curve, dtype=np.float64)
    t, y = t[np.isfinite(y)], y[np.isfinite(y)]
    floor = _floor(float(y.min()), float(y.max()))
    scale = float(y.max()) - floor or 1.0
    y = (y - floor) / scale
    predictions = [_predict(family, t, y, float(r_max)) for family in FAMILIES]
    best = min(bic for _, _, bic in predictions)
    weights = [float(np.exp((best - bic) / 2)) for _, _, bic in predictions]
    below = [NormalDist(mean, deviation).cdf((target - floor) / scale) for mean, deviation, _ in predictions]
    return sum(w * p for w, p in zip(weights, below, strict=True)) / sum(weights)


def _floor(lowest: float, highest: float) -> float:
    """Return what no curve can fall below: 0, or -1 for a flipped share such as accuracy; else a guess far below."""
    if lowest >= -1:
        return 0.0 if lowest >= 0 else -1.0
    return lowest - 4 * (highest - lowest)


def _predict(family: Family, t: Array, y: Array, end: float) -> tuple[float, float, float]:
    """Return mean and deviation at `end`, and the BIC of the fit."""

    def residuals(theta: Array) -> Array:
        return family.curve(t, theta) - y

    fit = cast(Any, least_squares(residuals, family.start, bounds=(family.lower, family.upper), loss="soft_l1"))
    theta, jacobian = cast(Array, fit.x), cast(Array, fit.jac)
    n, k = len(y), len(theta)
    squared = float(np.sum(residuals(theta) ** 2))
    noise = max(squared / max(n - k, 1), _LEAST_NOISE**2)
    # The prior is the width of the bounds: it keeps the covariance finite where a parameter is not determined.
    prior = np.diag(1 / (np.asarray(family.upper) - np.asarray(family.lower)) ** 2)
    covariance = np.linalg.inv(jacobian.T @ jacobian / noise + prior)
    at_end = np.array([end])
    mean = float(family.curve(at_end, theta)[0])
    steps = 1e-5 * np.maximum(1.0, np.abs(theta))
    slope = np.array(
        [
            float((family.curve(at_end, theta + h)[0] - family.curve(at_end, theta - h)[0]) / (2 * h[i]))
            for i, h in enumerate(np.diag(steps))
        ]
    )
    variance = float(slope @ covariance @ slope) + noise
    return mean, variance**0.5, squared / noise + n * float(np.log(noise)) + k * float(np.log(n))
