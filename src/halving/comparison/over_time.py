"""Methods at any time: their incumbents over seeds, and their ranks over tasks."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from halving.comparison.runs import Array, Axis, Run, by_method, by_regret, by_task, common_end, worst_if_none


@dataclass(frozen=True)
class Band:
    """A method's incumbents at each `x`, over `n` seeds; NaN while a seed has none yet."""

    method: str
    n: int
    x: Array
    mean: Array
    standard_error: Array
    median: Array
    lower: Array
    upper: Array


def band(method: str, runs: Sequence[Run], x: Array, axis: Axis) -> Band:
    """Return mean, standard error, median and quartiles of a method's incumbents over its seeds while any runs."""
    over = x > max(run.end(axis) for run in runs) * (1 + 1e-9)
    errors = np.array([np.where(over, math.nan, run.at(x, axis)) for run in runs])
    n = len(runs)
    deviation = errors.std(axis=0, ddof=1) if n > 1 else np.full_like(x, math.nan)
    lower, median, upper = np.quantile(errors, (0.25, 0.5, 0.75), axis=0)
    return Band(method, n, x, errors.mean(axis=0), deviation / math.sqrt(n), median, lower, upper)


def grid(runs: Iterable[Run], axis: Axis, points: int = 400) -> Array:
    """Return as many points, at equal distances up to where the last run ended, and the ends of the methods."""
    ends = [max(run.end(axis) for run in own.values()) for own in by_method(runs).values()]
    return np.union1d(np.arange(1, points) * (max(ends) / points), ends)


def ranks(runs: Sequence[Run], fractions: Array | None = None) -> dict[str, tuple[Array, Array]]:
    """Return each method's mean rank over tasks, and its standard error, at fractions of the common resource.

    Without fractions it is that at the end, and by regret on a task of which a table knows it. Methods are ranked on
    each task and seed that all of them have, from 1 for the best, ties sharing the mean of their ranks; then averaged
    over the seeds of a task, then over tasks. With one task the standard error is over its seeds.
    """
    means: dict[str, list[Array]] = {run.method: [] for run in runs}
    for of_task in by_task(runs).values():
        methods = by_method(of_task)
        seeds = sorted(set.intersection(*(set(own) for own in methods.values())))
        if len(methods) < len(means) or not seeds:
            continue
        x = (np.ones(1) if fractions is None else fractions) * common_end(of_task)
        if fractions is None and by_regret(of_task):
            errors = np.array([[[own[seed].regret] for seed in seeds] for own in methods.values()])
        else:
            errors = np.array([[worst_if_none(own[seed].at(x)) for seed in seeds] for own in methods.values()])
        ranked = rankdata(errors, axis=0)
        for method, own in zip(methods, ranked, strict=True):
            means[method].append(own)
    tasks = {method: np.array([own.mean(axis=0) for own in found]) for method, found in means.items() if found}
    if len(next(iter(tasks.values()), ())) == 1:
        tasks = {method: means[method][0] for method in tasks}
    return {method: (own.mean(axis=0), _standard_error(own)) for method, own in tasks.items()}


def _standard_error(values: Array) -> Array:
    """The standard error of the mean over the first axis, NaN for a single value."""
    if len(values) < 2:
        return np.full(values.shape[1:], math.nan)
    return values.std(axis=0, ddof=1) / math.sqrt(len(values))
