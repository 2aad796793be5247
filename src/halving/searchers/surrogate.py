"""Models of the error over the unit cube, as a mean and a deviation: scikit-learn's Gaussian process and forest."""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize  # pyright: ignore
from threadpoolctl import ThreadpoolController  # pyright: ignore

Array = NDArray[np.float64]

# A Gaussian process costs the cube of its number of points: its parameters are fitted to few, its posterior to more.
_FITTED, _KEPT = 100, 300


class Surrogate(Protocol):
    """Predicts errors."""

    def extend(self, inputs: Array, errors: Array) -> None:
        """Add points to those of the fit, without choosing the model's parameters anew."""
        ...

    def predict(self, inputs: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation of the error without its noise, shape (n,) each."""
        ...


class GaussianProcess:
    """Matérn 5/2 with a length scale per input and noise; its parameters maximise the marginal likelihood.

    Of more than 300 points it keeps the best half of that number and others evenly among the rest, and fits its
    parameters to 100 chosen likewise.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def fit(self, inputs: Array, errors: Array) -> None:
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel  # pyright: ignore

        # No longer scale than 2: an input that few points call irrelevant is otherwise never varied again.
        scales: Any = np.full(inputs.shape[1], 0.5)
        signal = ConstantKernel(1.0, (0.05, 20.0)) * Matern(scales, (0.05, 2.0), nu=2.5)
        few = _representative(errors, _FITTED)
        self._kernel = self._process(signal + WhiteKernel(1e-2, (1e-6, 1.0)), _ascend, inputs[few], errors[few]).kernel_
        self._inputs, self._errors = inputs, errors
        self.extend(inputs[:0], errors[:0])

    def extend(self, inputs: Array, errors: Array) -> None:
        kept = _representative(self._errors, _KEPT)
        inputs, errors = np.vstack([self._inputs[kept], inputs]), np.concatenate([self._errors[kept], errors])
        self._model = self._process(self._kernel, None, inputs, errors)

    def predict(self, inputs: Array) -> tuple[Array, Array]:
        with _one_thread():
            mean, deviation = cast(tuple[Array, Array], self._model.predict(inputs, return_std=True))
        noise = float(self._kernel.k2.noise_level)
        return mean, np.sqrt(np.maximum(deviation**2 - noise, 1e-12))

    def _process(self, kernel: Any, optimizer: Any, inputs: Array, errors: Array) -> Any:
        from sklearn.gaussian_process import GaussianProcessRegressor  # pyright: ignore

        with warnings.catch_warnings(), _one_thread():
            warnings.simplefilter("ignore")
            process: Any = GaussianProcessRegressor(kernel, optimizer=optimizer, random_state=self._seed)
            return process.fit(inputs, errors)


class Forest:
    """A random forest (SMAC: Hutter et al. 2011): the deviation is that between its trees.

    Growing it is what takes time. `fill` puts other errors and further points into the leaves of the trees as they are.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def grow(self, inputs: Array, errors: Array) -> None:
        """Choose the trees' splits from inputs (n, d) and errors (n,)."""
        from sklearn.ensemble import RandomForestRegressor  # pyright: ignore

        forest: Any = RandomForestRegressor(30, min_samples_leaf=2, max_features=0.8, random_state=self._seed, n_jobs=1)
        forest.fit(inputs, errors)
        self._trees: list[Any] = [each.tree_ for each in forest.estimators_]
        sizes = [tree.node_count for tree in self._trees]
        self._first, self._nodes = np.cumsum([0, *sizes[:-1]])[:, None], sum(sizes)
        self._leaves = self._find(inputs)
        draws = cast(list[NDArray[np.intp]], forest.estimators_samples_)
        self._weights = np.array([np.bincount(drawn, minlength=len(inputs)) for drawn in draws], dtype=np.float64)

    def fill(self, inputs: Array, errors: Array) -> None:
        """Make each leaf the mean of what falls into it; the first inputs are those of `grow`, as each tree drew them.

        A longer list of inputs begins with those of the last call.
        """
        self._errors = errors
        known = self._leaves.shape[1]
        if known < len(inputs):
            self._leaves = np.hstack([self._leaves, self._find(inputs[known:])])
            ones = np.ones((len(self._trees), len(inputs) - known))
            self._weights = np.hstack([self._weights, ones])
        self._take(self._leaves, self._weights, errors)

    def extend(self, inputs: Array, errors: Array) -> None:
        leaves = np.hstack([self._leaves, self._find(inputs)])
        weights = np.hstack([self._weights, np.ones((len(self._trees), len(inputs)))])
        self._take(leaves, weights, np.concatenate([self._errors, errors]))

    def predict(self, inputs: Array) -> tuple[Array, Array]:
        trees = self._means[self._find(inputs)]
        return trees.mean(axis=0), trees.std(axis=0) + 1e-6

    def _find(self, inputs: Array) -> NDArray[np.intp]:
        """Return the index of the leaf that each input falls into, shape (trees, n)."""
        rows = np.ascontiguousarray(inputs, dtype=np.float32)
        return np.array([tree.apply(rows) for tree in self._trees]) + self._first

    def _take(self, leaves: NDArray[np.intp], weights: Array, errors: Array) -> None:
        counts = np.bincount(leaves.ravel(), weights.ravel(), self._nodes)
        sums = np.bincount(leaves.ravel(), (weights * errors).ravel(), self._nodes)
        self._means = sums / np.maximum(counts, 1)


def _one_thread() -> Any:
    """Let no more than one thread multiply matrices this small: several wait for each other, the longer the less idle.

    It also makes a proposal the same on any number of cores.
    """
    return _libraries().limit(limits=1, user_api="blas")


@cache
def _libraries() -> Any:
    return ThreadpoolController()


def _ascend(loss: Callable[..., Any], start: Array, bounds: Array) -> tuple[Array, float]:
    found = cast(Any, minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 40}))
    return found.x, float(found.fun)


def _representative(errors: Array, most: int) -> NDArray[np.intp]:
    """Return the indices of at most `most` errors: the best half, and others evenly among the rest."""
    order = np.argsort(errors, kind="stable")
    if len(order) <= most:
        return np.arange(len(order))
    half = most // 2
    rest = order[half:]
    return np.concatenate([order[:half], rest[np.linspace(0, len(rest) - 1, most - half).astype(np.intp)]])
