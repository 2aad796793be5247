"""Learning-curve extrapolation (Domhan et al. 2015)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares  # pyright: ignore
from scipy.special import stdtr  # pyright: ignore

from halving.errors import real, whole
from halving.schedulers.early_stopping import Climber, EarlyStopping
from halving.schedulers.successive_halving import ladder
from halving.searchers import Searcher

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Family:
    """A decaying curve of positive parameters: f(r, theta) for resources r >= 1, bounds, and where a fit starts."""

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
FEWEST = 1 + min(len(family.start) for family in FAMILIES)
# The noise, as a share of a curve's largest error, that a few points say too little of: counted as so many residuals.
_NOISE, _NOISE_POINTS = 0.02, 3
# How far a curve may leave its family for each e-fold of resource, as a share of its largest error. Chosen on four
# tables of real curves, cut at a third: of the trials given less than 5 %, less than 5 % won nevertheless, in each.
_DOUBT = 0.2


class Curve(EarlyStopping):
    """Stops a trial whose probability of beating the incumbent at `r_max` is below `threshold`.

    After each rung, parametric families are fitted to the trial's curve, each with a Laplace approximation of its
    parameters, and weighed by their evidence (BIC). A trial is judged from `min_points` points on, against the best
    error at r_max so far. It is the choice for smooth curves that cross. Where they are noisy, start late or drop with
    the learning rate it stops little, and without `Outcome.curve` a ladder of few rungs never gives enough points.

    Raises UserError for a ladder that cannot be climbed, a threshold outside (0, 1) or less than 4 points.
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
        super().__init__(searcher, ladder(eta, r_min, r_max), max_trials)
        self._threshold = real("scheduler.threshold", threshold, lambda x: 0 < x < 1, "a probability between 0 and 1")
        self._min_points = whole("scheduler.min_points", min_points, FEWEST, ", more than a curve has parameters")
        self._best = math.inf

    def hopeless(self, climber: Climber, level: int) -> tuple[bool, str]:
        end = self._levels[-1]
        known = [point for point in climber.curve if math.isfinite(point[1])]
        if len(known) < self._min_points:
            rungs = len(self._levels) - 1
            never = len(climber.curve) == len(climber.errors) and rungs < self._min_points
            hint = f"; errors at the rungs alone never make {self._min_points} below {end}" if never else ""
            return False, f"{len(known)} points of a curve are too few to extrapolate{hint}"
        if math.isinf(self._best):
            return False, f"nobody has reached {end} yet"
        chance = probability_below(self._best, known, end)
        return chance < self._threshold, f"beats the best error {self._best:.6g} with probability {chance:.3g}"

    def ended(self, climber: Climber) -> None:
        if len(climber.errors) == len(self._levels):
            self._best = min(self._best, climber.errors[-1])


def probability_below(target: float, points: Sequence[tuple[int, float]], r_max: int) -> float:
    """Return the probability that a curve, known at points (resource, error), ends below `target` at `r_max`.

    A mixture over those FAMILIES that have fewer parameters than there are points: each predicts a t distribution,
    whose width has three parts: the parameters' uncertainty, the residuals' and the doubt whether the curve stays in
    its family. The doubt grows with log(r_max / r) and is largest for a curve that has hardly moved so far.

    Raises ValueError for less than FEWEST points.
    """
    if len(points) < FEWEST:
        raise ValueError(f"{len(points)} points are fewer than {FEWEST}")
    r, y = np.array(points, dtype=np.float64).T
    floor = _floor(float(y.min()), float(y.max()))
    scale = float(y.max()) - floor or 1.0
    y = (y - floor) / scale
    predictions = [_predict(family, r, y, float(r_max)) for family in FAMILIES if len(family.start) < len(points)]
    best = min(bic for *_, bic in predictions)
    weights = [math.exp((best - bic) / 2) for *_, bic in predictions]
    below = [
        float(stdtr(freedom, ((target - floor) / scale - mean) / width)) for mean, width, freedom, _ in predictions
    ]
    return sum(w * p for w, p in zip(weights, below, strict=True)) / sum(weights)


def _floor(lowest: float, highest: float) -> float:
    """Return what no curve can fall below: 0, or -1 for a flipped share such as accuracy; else a guess far below."""
    if lowest >= -1:
        return 0.0 if lowest >= 0 else -1.0
    return lowest - 4 * (highest - lowest)


def _predict(family: Family, r: Array, y: Array, end: float) -> tuple[float, float, int, float]:
    """Return mean, width and degrees of freedom at `end`, and the BIC of the fit.

    The loss is squared, which the Laplace approximation and the BIC presuppose; a robust one would need a scale of the
    noise before there is a fit.
    """

    def residuals(theta: Array) -> Array:
        return family.curve(r, theta) - y

    fit = cast(Any, least_squares(residuals, family.start, bounds=(family.lower, family.upper), max_nfev=100))
    theta, jacobian = cast(Array, fit.x), cast(Array, fit.jac)
    n, k = len(y), len(theta)
    squared = 2 * float(fit.cost)
    freedom = n - k + _NOISE_POINTS
    noise = (squared + _NOISE_POINTS * _NOISE**2) / freedom
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
    doubt = _DOUBT * float(y[-1]) ** 2 * math.log(end / r[-1])
    width = math.sqrt(float(slope @ covariance @ slope) + noise + doubt**2)
    return mean, width, freedom, squared / noise + n * math.log(noise) + k * math.log(n)
