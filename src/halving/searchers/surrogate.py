"""Models of the error over the unit cube, as a mean and a deviation: scikit-learn's Gaussian process and forest."""

import warnings
from collections.abc import Callable
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize  # pyright: ignore

Array = NDArray[np.float64]

# A Gaussian process costs the cube of its number of points: its parameters are fitted to few, its posterior to more.
_FITTED, _KEPT = 100, 300


class Surrogate(Protocol):
    """Predicts errors; `fit` may be called again with more points."""

    def fit(self, inputs: Array, errors: Array) -> None:
        """Fit to inputs (n, d) and errors (n,)."""
        ...

    def extend(self, inputs: Array, errors: Array) -> None:
        """Add points without choosing the model's parameters anew."""
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
        mean, deviation = cast(tuple[Array, Array], self._model.predict(inputs, return_std=True))
        noise = float(self._kernel.k2.noise_level)
        return mean, np.sqrt(np.maximum(deviation**2 - noise, 1e-12))

    def _process(self, kernel: Any, optimizer: Any, inputs: Array, errors: Array) -> Any:
        from sklearn.gaussian_process import GaussianProcessRegressor  # pyright: ignore

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            process: Any = GaussianProcessRegressor(kernel, optimizer=optimizer, random_state=self._seed)
            return process.fit(inputs, errors)


class Forest:
    """A random forest (SMAC: Hutter et al. 2011): the deviation is that between its trees."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def fit(self, inputs: Array, errors: Array) -> None:
        from sklearn.ensemble import RandomForestRegressor  # pyright: ignore

        self._inputs, self._errors = inputs, errors
        self._model: Any = RandomForestRegressor(
            30, min_samples_leaf=2, max_features=0.8, random_state=self._seed, n_jobs=1
        )
        self._model.fit(inputs, errors)

    def extend(self, inputs: Array, errors: Array) -> None:
        if len(errors):
            self.fit(np.vstack([self._inputs, inputs]), np.concatenate([self._errors, errors]))

    def predict(self, inputs: Array) -> tuple[Array, Array]:
        rows = inputs.astype(np.float32)
        trees = np.array([tree.predict(rows, check_input=False) for tree in self._model.estimators_])
        return trees.mean(axis=0), trees.std(axis=0) + 1e-6


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
