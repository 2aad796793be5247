"""Bayesian optimisation (Jones et al. 1998; with the resource as an input: Klein et al. 2020)."""

import math
from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfcx, ndtr  # pyright: ignore

from halving.errors import UserError, whole
from halving.searchers.density import category_counts, varied
from halving.searchers.distinct import Initial, Point
from halving.searchers.learning import LearningSearcher
from halving.searchers.surrogate import Forest, GaussianProcess, Surrogate
from halving.space import Space
from halving.trial import Configuration

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

Surrogates = Literal["gp", "forest"]

_SURROGATES = get_args(Surrogates)
_DRAWN, _AROUND, _ELITES = 512, 64, 64
_WIDTHS = (0.2, 0.05)
# A forest is constant between its splits: nearer than that there is nothing to find.
_REFINEMENTS = {"gp": (0.03, 0.01, 0.003), "forest": (0.03,)}
_GROWTH = 1.1


class BayesianSearcher(LearningSearcher):
    """Proposes where a surrogate expects the largest improvement.

    The surrogate, a Gaussian process or with `surrogate="forest"` a random forest, has the logarithm of the resource as
    one more input, so that all errors at all resources count, however few have reached the highest; improvement is
    expected at that one, over the best mean of a trial there. Errors are standardised at each resource (`comparable`).
    A running trial without an error counts with its mean, and a failed one with the worst error seen. Trials are drawn
    from the space until `startup`, by default d + 2, have an error and did not fail; d counts the dimensions of more
    than one value. It is the choice for few and expensive trials: with the Gaussian process a proposal takes a tenth of
    a second, with the forest, which is grown anew whenever there are a tenth more errors, a hundredth.

    Raises UserError for another surrogate or a startup below 1.
    """

    def __init__(
        self,
        space: Space,
        seed: int = 0,
        initial: Initial = None,
        surrogate: Surrogates = "gp",
        startup: int | None = None,
    ) -> None:
        if surrogate not in _SURROGATES:
            raise UserError(f"searcher.surrogate={surrogate}: there is {', '.join(_SURROGATES)}")
        super().__init__(space, seed, initial)
        self._surrogate: Surrogates = surrogate
        self._startup = varied(space) + 2 if startup is None else whole("searcher.startup", startup)
        self._counts = category_counts(space)
        self._observed: list[tuple[int, int, float]] = []
        self._grown: tuple[int, int, Forest] | None = None

    def observe(self, trial: int, configuration: Configuration, resource: int, error: float) -> None:
        super().observe(trial, configuration, resource, error)
        if trial in self._points:
            self._observed.append((trial, resource, error))

    def candidates(self, trial: int, rng: np.random.Generator) -> Iterator[Point]:
        if not self._observed:
            return
        trials, resources, errors = (np.array(column) for column in zip(*self._observed, strict=True))
        failed = np.isin(trials, list(self._failed))
        ranked = np.lexsort((trials, errors, -resources))
        best = list(dict.fromkeys(trials[ranked][~failed[ranked]].tolist()))
        if len(best) < self._startup:
            return
        top = int(resources[~failed].max())
        model = self._fitted(trials, resources, errors, top, int(rng.integers(2**31)))
        if pending := self.pending:
            inputs = self._inputs(np.array([self._points[each] for each in pending]), top, top)
            model.extend(inputs, model.predict(inputs)[0])
        seen = np.array([self._points[each] for each in (*best[:_ELITES], *pending)])
        means = model.predict(self._inputs(seen, top, top))[0]
        elite = seen[np.argsort(means, kind="stable")[:5]]
        least = float(means.min())

        points = np.vstack(
            [
                rng.random((_DRAWN, seen.shape[1])),
                *(self._near(elite, width, rng) for width in _WIDTHS),
            ]
        )
        values = self._improvement(model, points, least, top)
        for width in _REFINEMENTS[self._surrogate]:
            leaders = points[np.argsort(-values, kind="stable")[:3]]
            nearer = self._near(leaders, width, rng)
            points = np.vstack([points, nearer])
            values = np.concatenate([values, self._improvement(model, nearer, least, top)])
        ranked = points[np.argsort(-values, kind="stable")]
        yield ranked[0]
        # Many may be one configuration: all with an option that has no dimensions of its own, say.
        _, first = np.unique(self._settled(ranked), axis=0, return_index=True)
        yield from ranked[np.sort(first)[1:]]

    def _fitted(self, trials: Whole, resources: Whole, errors: Array, top: int, seed: int) -> Surrogate:
        """Return the surrogate of all errors; what it is follows from them and their order, however often it is asked.

        A forest is grown from the first errors: all up to the last tenth, and up to the first at the highest resource.
        """
        points = np.array([self._points[trial] for trial in trials.tolist()])
        inputs = self._inputs(points, np.where(np.isfinite(errors), resources, top), top)
        standard = comparable(trials, resources, errors)
        if self._surrogate == "gp":
            process = GaussianProcess(seed)
            process.fit(inputs, standard)
            return process
        highest = int(np.flatnonzero((resources == top) & np.isfinite(errors))[0])
        count = max(_last_growth(len(errors)), highest + 1)
        if self._grown is None or self._grown[:2] != (count, top):
            forest = Forest(int(np.random.default_rng([self._seed, count]).integers(2**31)))
            forest.grow(inputs[:count], comparable(trials[:count], resources[:count], errors[:count]))
            self._grown = count, top, forest
        forest = self._grown[2]
        forest.fill(inputs, standard)
        return forest

    def _near(self, centres: Array, width: float, rng: np.random.Generator) -> Array:
        """Perturb each centre `_AROUND` times, in half of its dimensions."""
        repeated = np.repeat(centres, _AROUND, axis=0)
        return np.where(rng.random(repeated.shape) < 0.5, self.perturb(repeated, width, rng), repeated)

    def _improvement(self, model: Surrogate, points: Array, best: float, top: int) -> Array:
        mean, deviation = model.predict(self._inputs(self._settled(points), top, top))
        return log_expected_improvement(mean, deviation, best)

    def _settled(self, points: Array) -> Array:
        """Return points (n, d) where `encode` has what they decode to, a continuous coordinate where it is."""
        columns = [each.middles(points[:, i]) for i, each in enumerate(self._space.dimensions)]
        return self._space.canonical(np.column_stack(columns))

    def _inputs(self, points: Array, resources: Array | int, top: int) -> Array:
        """Turn points (n, d) into inputs: one column per number, one per category, and the resource."""
        named = [(i, int(count)) for i, count in enumerate(self._counts) if count]
        cells = np.floor(points * self._counts)
        categories = [(cells[:, [i]] == np.arange(count)) / math.sqrt(2) for i, count in named]
        levels = np.log(np.maximum(np.broadcast_to(resources, len(points)), 1)) / math.log(max(top, 2))
        return np.hstack([points[:, self._counts == 0], *categories, levels[:, None]])


def log_expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """Return the logarithm of E[max(best - error, 0)] for a normal error, which never underflows."""
    z = (best - mean) / deviation
    near, far = np.maximum(z, -1.0), np.maximum(-z, 1.0)
    direct = np.log(np.exp(-(near**2) / 2) / math.sqrt(2 * math.pi) + near * ndtr(near))
    # The density times 1 - far * Mills' ratio, whose difference loses its digits where it becomes 1 / far**2.
    mild, extreme = np.minimum(far, 1e3), np.maximum(far, 1e3)
    ratio = np.log1p(-math.sqrt(math.pi / 2) * mild * erfcx(mild / math.sqrt(2)))
    ratio = np.where(far < 1e3, ratio, np.log1p(-3 / extreme**2) - 2 * np.log(extreme))
    return np.log(deviation) + np.where(z > -1, direct, ratio - far**2 / 2 - math.log(2 * math.pi) / 2)


def comparable(trials: Whole, resources: Whole, errors: Array) -> Array:
    """Standardise errors, shape (n,), such that those at different resources compare.

    Each resource's own mean and deviation count, as errors fall by far more while training than they differ at its end.
    Who reaches a higher resource was chosen, so its mean becomes that of its trials at the resource below, and 0 for
    those that began there. Fewer than 3 keep what they had below. A failure takes the worst, and what is far above the
    median of its resource is drawn in.
    """
    standard = np.zeros(len(errors))
    finite = np.isfinite(errors)
    before = np.zeros(int(trials.max()) + 1)
    for resource in np.unique(resources[finite]):
        here = finite & (resources == resource)
        error, who = errors[here], trials[here]
        middle = float(np.median(error))
        cap = middle + 5 * (middle - float(error.min()))
        error = np.minimum(error, cap if cap > middle else math.inf)
        if len(error) >= 3 and (deviation := error.std()) > 0:
            before[who] = before[who].mean() + (error - error.mean()) / deviation
        standard[here] = before[who]
    standard[~finite] = standard[finite].max()
    return (standard - standard.mean()) / (standard.std() or 1.0)


def _last_growth(count: int) -> int:
    """Return the last of 1, 2, ..., 10, 11, 12, 13, ..., each a tenth above the one before, that is at most `count`."""
    grown = 1
    while (following := max(grown + 1, int(grown * _GROWTH))) <= count:
        grown = following
    return grown
