"""Other settings, replayed on recorded curves: which would be best, and can cheap rungs be trusted?"""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, rankdata

from halving.app.simulation import simulate
from halving.comparison import Array
from halving.curves.table import Curves, row_of
from halving.errors import UserError
from halving.history import History
from halving.schedulers import ASHA, FIFO, AsyncHyperband, ConcordantASHA, Hyperband, Scheduler, SuccessiveHalving
from halving.schedulers.successive_halving import ladder
from halving.tuner import Budget

_SCHEDULERS = {
    "fifo": FIFO,
    "sha_repeated": SuccessiveHalving,
    "asha": ASHA,
    "concordant_asha": ConcordantASHA,
    "hyperband_repeated": Hyperband,
    "async_hyperband": AsyncHyperband,
}
_TRUSTED = 0.5


@dataclass(frozen=True)
class Setting:
    """A scheduler's option with its own settings, and how many workers there are; one that goes on to the deadline."""

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
    """The regret of a setting at the deadline, shape (tables, seeds)."""

    setting: Setting
    regret: Array

    @property
    def mean(self) -> float:
        return float(self.regret.mean())

    @property
    def by_table(self) -> Array:
        """The mean regret on each table, shape (tables,)."""
        return self.regret.mean(axis=1)


@dataclass(frozen=True)
class Judged:
    """Settings chosen on samples of the rows and judged on those left out.

    `best` are those that all samples together put first, and the first that was tried. `chosen` is the mean regret
    that each sample's own choice comes to on the rows left out of it, none of which had a part in that choice;
    `apparent` what the same choices had on the rows that made them.
    """

    best: Sequence[Result]
    chosen: Array
    apparent: Array


@dataclass(frozen=True)
class Agreement:
    """How well the errors at resource `low` tell the order at `high`, with 95 % bootstrap intervals over the rows.

    `tau` is Kendall's tau-b, 0 where all are equal; `recall` the share of the best one in eta at `low` that are as good
    as the best one in eta at `high`, by chance 1 / eta: of equal rows at `low` the lot decides. `kept` says whether the
    best row at the last level is among them, whatever the lot.
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
                found.append(Setting("sha_repeated", (*options, ("n", n)), workers))
            for scheduler in ("asha", "concordant_asha", "hyperband_repeated", "async_hyperband"):
                found.append(Setting(scheduler, options, workers))
    return found


def deadline(curves: Curves, resource: float, workers: int) -> float:
    """Return the seconds in which `workers` that never idle spend `resource` units."""
    if curves.seconds is None:
        return resource / workers
    full = np.isfinite(curves.error[:, -1])
    return resource / workers * float(np.mean(curves.seconds[full, -1])) / float(curves.resource[-1])


def regret(curves: Curves, setting: Setting, seed: int, resource: float) -> float:
    """Return the regret of a setting at the deadline, for one seed's draws: the most there is, without a winner."""
    last = int(curves.resource[-1])
    seconds = deadline(curves, resource, setting.workers)
    history = simulate(
        curves,
        partial(_endless, setting.scheduler, dict(setting.options), last, seed),
        workers=setting.workers,
        seed=seed,
        reuse=True,
        budget=Budget(seconds=seconds),
    )
    return _regret_at(history, curves, seconds)


def regrets(
    tables: Sequence[Curves],
    tried: Iterable[Setting],
    seeds: Sequence[int],
    resource: float,
    processes: int | None = None,
) -> list[Result]:
    """Replay every setting on every table with every seed, on all cores unless told otherwise."""
    tried = list(tried)
    jobs = [(setting, table) for setting in tried for table in range(len(tables))]
    workers = processes or os.cpu_count() or 1
    run = partial(_regrets_remembered, seeds=seeds, resource=resource)
    if workers == 1:
        _remember(tables)
        found = list(map(run, jobs))
    else:
        with ProcessPoolExecutor(workers, initializer=_remember, initargs=(tables,)) as pool:
            found = list(pool.map(run, jobs, chunksize=10))
    values = np.array(found).reshape(len(tried), len(tables), len(seeds))
    return [Result(setting, own) for setting, own in zip(tried, values, strict=True)]


def samples(curves: Curves, n: int, seed: int = 0) -> list[tuple[Curves, Curves]]:
    """Return bootstrap samples of the rows, each with a table of as many rows drawn from those it left out.

    Any of these tables has a row that does not diverge. Raises UserError where fewer than two of the rows do not.
    """
    survives, every = _survives(curves), np.arange(len(curves))
    rng, found = np.random.default_rng(seed), list[tuple[Curves, Curves]]()
    while len(found) < n:
        rows = rng.choice(every, len(every))
        left = np.setdiff1d(every, rows)
        again = rng.choice(left, len(every)) if len(left) else left
        if survives[rows].any() and survives[again].any():
            found.append((curves.of_rows(rows), curves.of_rows(again)))
    return found


def judged(
    curves: Curves,
    tried: Sequence[Setting],
    seeds: int,
    resource: float,
    processes: int | None = None,
    draws: int = 20,
    keep: int = 5,
) -> Judged:
    """Choose settings on bootstrap samples of the rows, by so many seeds each, and judge them on the rows left out."""
    inside, outside = zip(*samples(curves, draws), strict=True)
    screened = regrets(inside, tried, range(seeds), resource, processes)
    choice = np.array([result.by_table for result in screened]).argmin(axis=0)
    best = sorted(range(len(tried)), key=lambda i: screened[i].mean)[:keep]
    again = list(dict.fromkeys((*best, 0, *choice.tolist())))
    checked = regrets(outside, [tried[i] for i in again], range(seeds, 2 * seeds), resource, processes)
    by_table = dict(zip(again, checked, strict=True))
    return Judged(
        [by_table[i] for i in dict.fromkeys((*best, 0))],
        np.array([by_table[i].by_table[table] for table, i in enumerate(choice.tolist())]),
        np.array([screened[i].by_table[table] for table, i in enumerate(choice.tolist())]),
    )


def agreements(
    curves: Curves, eta: int = 3, r_min: int | None = None, draws: int = 200, seed: int = 0
) -> list[Agreement]:
    """Return how far each rung of a ladder tells the order at each higher one; trials that diverged rank last.

    Raises UserError where fewer than two of the rows do not.
    """
    levels = ladder(eta, int(curves.resource[0]) if r_min is None else r_min, int(curves.resource[-1]))
    errors = np.array([np.nan_to_num(curves.error[:, curves.level(r)], nan=np.inf) for r in levels])
    best, keep = _survives(curves) & (curves.final == curves.optimum), max(1, len(curves) // eta)
    n = len(curves)
    rng = np.random.default_rng(seed)
    samples = [rng.integers(0, n, n) for _ in range(draws)]
    found: list[Agreement] = []
    for i, low in enumerate(levels):
        for j, high in list(enumerate(levels))[i + 1 :]:
            taus = [_tau(errors[i, rows], errors[j, rows]) for rows in samples]
            recalls = [_recall(errors[i, rows], errors[j, rows], eta) for rows in samples]
            kept = bool((errors[i, ~best] <= errors[i, best].min()).sum() < keep)
            tau, recall = _tau(errors[i], errors[j]), _recall(errors[i], errors[j], eta)
            found.append(Agreement(low, high, tau, middle(taus), recall, middle(recalls), kept))
    return found


def middle(values: Sequence[float] | Array) -> tuple[float, float]:
    """Return between what the middle 95 % of values lie: over bootstrap samples, the interval over tables."""
    low, high = np.quantile(np.asarray(values), (0.025, 0.975))
    return float(low), float(high)


def _endless(name: str, options: dict[str, Any], r_max: int, seed: int, searcher: Any) -> Scheduler:
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
            return scheduler(searcher, r_max=r_max, rounds=None, **options)


def _regret_at(history: History, curves: Curves, seconds: float) -> float:
    found = [trial for trial, evaluation in history.incumbents if evaluation.ended <= seconds]
    final = float(curves.final[row_of(found[-1].configuration)]) if found else float(curves.final.max())
    return final - curves.optimum


_remembered: list[Sequence[Curves]] = []


def _remember(tables: Sequence[Curves]) -> None:
    _remembered[:] = [tables]


def _regrets_remembered(job: tuple[Setting, int], seeds: Sequence[int], resource: float) -> list[float]:
    setting, table = job
    return [regret(_remembered[0][table], setting, seed, resource) for seed in seeds]


def _survives(curves: Curves) -> NDArray[np.bool_]:
    survives = np.isfinite(curves.error[:, -1])
    if survives.sum() < 2:
        raise UserError("the table needs two rows that do not diverge: one that may choose and one that may judge")
    return survives


def _tau(low: Array, high: Array) -> float:
    if np.ptp(ranks := rankdata(low)) == 0 or np.ptp(others := rankdata(high)) == 0:
        return 0.0
    return float(kendalltau(ranks, others).statistic)  # pyright: ignore[reportAttributeAccessIssue]


def _recall(low: Array, high: Array, eta: int) -> float:
    keep = max(1, len(low) // eta)
    cut, good = np.sort(low)[keep - 1], np.isfinite(high) & (high <= np.sort(high)[keep - 1])
    ahead, level = low < cut, low == cut
    return float(good[ahead].sum() + (keep - ahead.sum()) * good[level].mean()) / keep
