"""Which dimensions mattered: permutation importance under a random forest (Breiman 2001)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halving.errors import UserError
from halving.history import History
from halving.report.tables import header_of, real
from halving.trial import Configuration

_FEWEST = 8


@dataclass(frozen=True)
class Importance:
    """How much of the differences between trials a forest no longer explains without a dimension.

    `share` is the loss of R² when the dimension's values are shuffled, 0 for one that does not matter; `deviation` is
    its standard deviation over bootstrap samples of the trials.
    """

    dimension: str
    share: float
    deviation: float


@dataclass(frozen=True)
class Importances:
    """The dimensions, the most important first, and what they rest on.

    `explained` is the forest's R² on trials that it was not fitted to: near or below 0 the rest says nothing.
    """

    resource: int
    trials: int
    explained: float
    dimensions: tuple[Importance, ...]


def importances(history: History, resource: int | None = None, samples: int = 20, seed: int = 0) -> Importances:
    """Estimate each dimension's importance for the rank of a trial's error at one resource.

    By default at the one that the most trials have reached, and of several the highest: higher rungs hold only the
    selected. Failures rank last.

    Raises UserError for fewer than 8 trials there.
    """
    from sklearn.ensemble import RandomForestRegressor  # pyright: ignore
    from sklearn.inspection import permutation_importance  # pyright: ignore

    counts = Counter(evaluation.resource for _, evaluation in history.finished)
    if resource is None:
        resource = max(counts, key=lambda r: (counts[r], r), default=0)
    errors = {trial.trial: each.error for trial, each in history.finished if each.resource == resource}
    errors |= {trial.trial: float("inf") for trial in history.trials.values() if trial.state == "failed"}
    if len(errors) < _FEWEST:
        raise UserError(
            f"importance: {len(errors)} trials at resource {resource} are too few to tell; it takes at least {_FEWEST}"
        )
    dimensions = header_of(history).dimensions
    inputs = _columns([history.trials[trial].configuration for trial in errors], dimensions)
    ranks = _ranks(np.array(list(errors.values())))

    rng = np.random.default_rng(seed)
    explained: list[float] = []
    losses: list[NDArray[np.float64]] = []
    for _ in range(samples):
        drawn = rng.integers(len(ranks), size=len(ranks))
        left = np.setdiff1d(np.arange(len(ranks)), drawn)
        if len(left) < 2 or np.ptp(ranks[left]) == 0:
            continue
        state = int(rng.integers(2**31))
        forest: Any = RandomForestRegressor(50, random_state=state, n_jobs=1).fit(inputs[drawn], ranks[drawn])
        shuffled: Any = permutation_importance(forest, inputs[left], ranks[left], n_repeats=3, random_state=state)
        explained.append(float(forest.score(inputs[left], ranks[left])))
        losses.append(shuffled.importances_mean)
    if not losses:
        raise UserError(f"importance: all {len(errors)} trials at resource {resource} have the same error")
    rows = [
        Importance(name, float(mean), float(deviation))
        for name, mean, deviation in zip(dimensions, np.mean(losses, axis=0), np.std(losses, axis=0), strict=True)
    ]
    ordered = tuple(sorted(rows, key=lambda row: (-row.share, row.dimension)))
    return Importances(resource, len(errors), float(np.mean(explained)), ordered)


def _columns(configurations: Sequence[Configuration], dimensions: Sequence[str]) -> NDArray[np.float64]:
    """Return one column per dimension: numbers by their rank, other values by their place, -1 where there is none."""
    columns: list[list[float]] = []
    for name in dimensions:
        values = [configuration.get(name) for configuration in configurations]
        present = [value for configuration, value in zip(configurations, values, strict=True) if name in configuration]
        numbers = [found for value in present if (found := real(value)) is not None]
        if len(numbers) == len(present):  # by rank: a forest sees no more of them, and computes in single precision
            ranks = iter(_ranks(np.array(numbers)).tolist())
            columns.append([next(ranks) if name in configuration else -1.0 for configuration in configurations])
        else:
            known = sorted({repr(value) for value in present})
            columns.append(
                [
                    float(known.index(repr(value))) if name in configuration else -1.0
                    for configuration, value in zip(configurations, values, strict=True)
                ]
            )
    return np.array(columns, dtype=np.float64).reshape(len(dimensions), len(configurations)).T


def _ranks(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks scaled to [0, 1]; equal errors share their mean rank."""
    _, places, counts = np.unique(errors, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts + 1) / 2
    return middle[places] / max(len(errors) - 1, 1)
