"""Other settings, replayed on recorded curves: which would be best, and can cheap rungs be trusted?"""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import kendalltau, rankdata, t

from halving.curves.simulation import simulate
from halving.curves.table import Curves, row_of
from halving.history import History
from halving.review.comparison import Array
from halving.schedulers import ASHA, FIFO, AsyncHyperband, ConcordantASHA, Hyperband, Scheduler, SuccessiveHalving
from halving.schedulers.successive_halving import ladder
from halving.study import planned_cost
from halving.tuner import Budget

_SCHEDULERS = {
    "fifo": FIFO,
    "sha": SuccessiveHalving,
    "asha": ASHA,
    "concordant_asha": ConcordantASHA,
    "hyperband": Hyperband,
    "async_hyperband": AsyncHyperband,
}
_TRUSTED = 0.5


@dataclass(frozen=True)
class Setting:
    """A scheduler's option with its own settings, and how many workers there are."""

    scheduler: str
    options: tuple[tuple[str, int], ...] = ()
    workers: int = 1

    def __str__(self) -> str:
        return " ".join([self.scheduler, *(f"{name}={value}" for name, value in self.options)])

    @property
    def overrides(self) -> str:
        """The setting as it is typed."""
        typed = (f"scheduler.n={value}" if name == "n" else f"{name}={value}" for name, value in self.options)
        return " ".join([f"scheduler={self.scheduler}", *typed])


@dataclass(frozen=True)
class Result:
    """The regret of a setting at the deadline: one number per seed."""

    setting: Setting
    regret: Array

    @property
    def mean(self) -> float:
        return float(self.regret.mean())

    @property
    def interval(self) -> float:
        """Half the width of the 95 % interval of the mean (Student's t)."""
        return half_width(self.regret)


@dataclass(frozen=True)
class Trust:
    """How well the errors at resource `low` tell the order at `high`, with 95 % bootstrap intervals over the rows.

    `tau` is Kendall's tau-b; `recall` the share of the best one in eta at `high` that are among the best one in eta at
    `low`, which by chance is 1 / eta. `kept` says whether the best row at the last level is among them.
    """

    low: int
    high: int
    tau: float
    tau_interval: tuple[float, float]
    recall: float
    recall_interval: tuple[float, float]
    kept: bool

    @property
    def trusted(self) -> bool:
        """Whether the best row would pass, and at least half of the good ones for all that the interval says."""
        return self.kept and self.recall_interval[0] >= _TRUSTED


def settings(curves: Curves, etas: Sequence[int] = (2, 3, 4), workers: int = 1, depth: int = 5) -> list[Setting]:
    """Return the settings to try: no early stopping, and for every eta the ladders of up to `depth` halvings.

    r_min is the last level's resource over a power of eta, but not below the first level's. Successive halving is tried
    with the number of trials that fills its ladder and with half of it; Hyperband's brackets follow from r_min.
    """
    first, last = int(curves.resource[0]), int(curves.resource[-1])
    found = [Setting("fifo", (), workers)]
    for eta in etas:
        for halvings in range(1, depth + 1):
            if (r_min := last // eta**halvings) < first:
                break
            options = (("eta", eta), ("r_min", r_min))
            fills = eta ** (len(ladder(eta, r_min, last)) - 1)
            for n in (fills, max(1, fills // 2)):
                found.append(Setting("sha", (*options, ("n", n)), workers))
            for scheduler in ("asha", "concordant_asha", "hyperband", "async_hyperband"):
                found.append(Setting(scheduler, options, workers))
    return found


def deadline(curves: Curves, resource: float, workers: int) -> float:
    """Return the seconds in which `workers` that never idle spend `resource` units."""
    if curves.seconds is None:
        return resource / workers
    full = np.isfinite(curves.error[:, -1])
    return resource / workers * float(np.mean(curves.seconds[full, -1])) / float(curves.resource[-1])


def replay(curves: Curves, setting: Setting, seed: int, resource: float) -> float:
    """Return the regret of a setting at the deadline, for one seed's draws: the most there is, without a winner."""
    last = int(curves.resource[-1])
    seconds = deadline(curves, resource, setting.workers)
    history = simulate(
        curves,
        partial(_endless, setting.scheduler, dict(setting.options), last, resource, seed),
        workers=setting.workers,
        seed=seed,
        reuse=True,
        budget=Budget(seconds=seconds),
    )
    return _regret_at(history, curves, seconds)


def replay_all(
    curves: Curves, tried: Iterable[Setting], seeds: Sequence[int], resource: float, processes: int | None = None
) -> list[Result]:
    """Replay every setting with every seed, on all cores unless told otherwise."""
    tried = list(tried)
    workers = processes or os.cpu_count() or 1
    if workers == 1:
        return [Result(s, np.array([replay(curves, s, seed, resource) for seed in seeds])) for s in tried]
    jobs = [(setting, list(part)) for setting in tried for part in _parts(seeds, 25)]
    with ProcessPoolExecutor(workers, initializer=_remember, initargs=(curves, resource)) as pool:
        done = list(pool.map(_replay_remembered, jobs))
    regrets: dict[Setting, list[float]] = {}
    for (setting, _), values in zip(jobs, done, strict=True):
        regrets.setdefault(setting, []).extend(values)
    return [Result(setting, np.array(regrets[setting])) for setting in tried]


def trust(curves: Curves, eta: int = 3, r_min: int | None = None, draws: int = 200, seed: int = 0) -> list[Trust]:
    """Return how far each rung of a ladder tells the order at each higher one; trials that diverged rank last."""
    levels = ladder(eta, int(curves.resource[0]) if r_min is None else r_min, int(curves.resource[-1]))
    errors = np.array([np.nan_to_num(curves.error[:, curves.level(r)], nan=np.inf) for r in levels])
    n = len(curves)
    rng = np.random.default_rng(seed)
    samples = [rng.integers(0, n, n) for _ in range(draws)]
    best = int(np.argmin(curves.final))
    found: list[Trust] = []
    for i, low in enumerate(levels):
        for j, high in list(enumerate(levels))[i + 1 :]:
            taus = [_tau(errors[i, rows], errors[j, rows]) for rows in samples]
            recalls = [_recall(errors[i, rows], errors[j, rows], eta) for rows in samples]
            kept = bool((errors[i] < errors[i, best]).sum() < max(1, n // eta))
            tau, recall = _tau(errors[i], errors[j]), _recall(errors[i], errors[j], eta)
            found.append(Trust(low, high, tau, _interval(taus), recall, _interval(recalls), kept))
    return found


def half_width(values: Array) -> float:
    """Return half the width of the 95 % interval of a mean (Student's t), NaN for a single value."""
    n = len(values)
    if n < 2:
        return math.nan
    return float(t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n))


def _endless(name: str, options: dict[str, Any], r_max: int, resource: float, seed: int, searcher: Any) -> Scheduler:
    """A scheduler that goes on for longer than the deadline lets it."""
    scheduler = _SCHEDULERS[name]
    match name:
        case "fifo":
            return scheduler(searcher, r_max)
        case "async_hyperband":
            return scheduler(searcher, r_max=r_max, seed=seed, **options)
        case "asha" | "concordant_asha":
            return scheduler(searcher, r_max=r_max, **options)
        case _:
            once = planned_cost(scheduler(searcher, r_max=r_max, **options).plan, lambda since, until: until - since)
            rounds = 2 + 4 * math.ceil(resource / (once or 1.0))  # trials that diverge leave time for more
            return scheduler(searcher, r_max=r_max, rounds=rounds, **options)


def _regret_at(history: History, curves: Curves, seconds: float) -> float:
    found = [trial for trial, evaluation in history.incumbents if evaluation.ended <= seconds]
    final = float(curves.final[row_of(found[-1].configuration)]) if found else float(curves.final.max())
    return final - curves.optimum


def _parts(seeds: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (seeds[i : i + size] for i in range(0, len(seeds), size))


_remembered: list[tuple[Curves, float]] = []


def _remember(curves: Curves, resource: float) -> None:
    _remembered.append((curves, resource))


def _replay_remembered(job: tuple[Setting, list[int]]) -> list[float]:
    curves, resource = _remembered[-1]
    return [replay(curves, job[0], seed, resource) for seed in job[1]]


def _tau(low: Array, high: Array) -> float:
    return float(kendalltau(rankdata(low), rankdata(high)).statistic)  # pyright: ignore[reportAttributeAccessIssue]


def _recall(low: Array, high: Array, eta: int) -> float:
    """The share of the best one in eta at the high level that are in the best one in eta at the low one."""
    keep = max(1, len(low) // eta)
    kept, good = (set[int](np.argsort(errors, kind="stable")[:keep].tolist()) for errors in (low, high))
    return len(kept & good) / keep


def _interval(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(np.array(values), (0.025, 0.975))
    return float(low), float(high)
