"""Methods compared over tasks and seeds: incumbents at any time, ranks, paired tests, regret."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from halving.curves.table import Curves, load, row_of
from halving.errors import UserError
from halving.history import Header, History
from halving.tracking.wording import count

Axis = Literal["resource", "seconds"]
Array = NDArray[np.float64]

# Of the overrides that differ between studies, these change what is optimised, the first of them so much that errors do
# not compare; of the others, these change nothing.
_APART = ("data", "fidelity", "metric", "experiment", "name", "executor.curves")
_TASK = (*_APART, "model", "optimizer", "lr_schedule", "averaging", "space", "epochs")
_NOTHING = ("seed", "tracker", "notes", "resume", "device", "data_dir", "hydra", "trusted_packages")


@dataclass(frozen=True)
class Run:
    """One study as a comparison sees it.

    From `resource[i]` units spent and `seconds[i]` on, `error[i]` is the error of the incumbent: of the trial that is
    best at the highest resource that any has reached, which is `level[i]`. `spent` and `elapsed` are what the whole
    study took. `regret` is what the winner's error at the end of a full training exceeds the least possible one by,
    where that is known: infinite if no trial survived. `confirmed` is the winner's mean error over fresh seeds, all
    trained to `until`.
    """

    task: str
    method: str
    seed: int
    resource: Array
    seconds: Array
    error: Array
    spent: float
    elapsed: float
    unit: str = "units"
    metric: str = "error"
    maximize: bool = False
    regret: float = math.nan
    level: NDArray[np.int64] | None = None
    confirmed: float = math.nan
    until: int = 0

    def at(self, x: Array | float, axis: Axis = "resource") -> Array:
        """Return the incumbent's error when `x` had been spent, NaN before there was one."""
        steps = self.resource if axis == "resource" else self.seconds
        found = np.searchsorted(steps, x, side="right")
        return np.concatenate(([math.nan], self.error))[found]

    def level_at(self, x: float, axis: Axis = "resource") -> int | None:
        """Return to which resource the incumbent had been trained when `x` had been spent, where that is known."""
        steps = self.resource if axis == "resource" else self.seconds
        found = int(np.searchsorted(steps, x, side="right"))
        return int(self.level[found - 1]) if self.level is not None and found else None

    def end(self, axis: Axis) -> float:
        """Return what the study took."""
        return self.spent if axis == "resource" else self.elapsed


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


@dataclass(frozen=True)
class Pair:
    """The paired test of two methods on the same seeds; `basis` says of what.

    `difference` is the median of first - second, negative where the first is better. `effect` is the matched-pairs
    rank-biserial correlation: the share of rank sums in favour of the first minus that of the second, from -1 to 1.
    `p` is Wilcoxon's, two-sided; `p_holm` is corrected for all pairs of the task. `differences` are those of the seeds,
    ascending, infinite where only one method has an incumbent.
    """

    task: str
    first: str
    second: str
    n: int
    wins: int
    losses: int
    difference: float
    effect: float
    p: float
    p_holm: float = math.nan
    differences: tuple[float, ...] = ()
    basis: str = ""


def run_of(history: History, task: str, method: str, curves: Curves | None = None) -> Run:
    """Return a finished study's incumbents; with the table that it was simulated on, also its regret."""
    header = _header(history)
    spent, total = dict[int, float](), 0.0
    for _, evaluation in history.finished:
        total += evaluation.finished.cost if evaluation.finished else 0.0
        spent[id(evaluation)] = total
    found = history.incumbents
    regret = math.nan
    if curves is not None:
        regret = float(curves.final[row_of(found[-1][0].configuration)]) - curves.optimum if found else math.inf
    confirmed, until = _confirmed(history)
    return Run(
        task,
        method,
        header.seed,
        np.array([spent[id(evaluation)] for _, evaluation in found]),
        np.array([evaluation.ended for _, evaluation in found]),
        np.array([evaluation.error for _, evaluation in found]),
        history.spent,
        history.seconds,
        header.unit,
        header.metric,
        header.maximize,
        regret,
        np.array([evaluation.resource for _, evaluation in found], dtype=np.int64),
        confirmed,
        until,
    )


def labelled(histories: Mapping[Path, History], curves: Mapping[str, Curves] | None = None) -> list[Run]:
    """Return runs whose task and method are named after what differs between the studies.

    A method is its scheduler, its searcher where that differs, and the overrides that differ; data, model, space and
    recorded curves make tasks. Of single trainings, and of one method tried on several models or spaces, these compete:
    they are the methods, as far as errors compare. `curves` maps the paths of tables to them, for the regret. Raises
    UserError where two studies are the same task, method and seed.
    """
    typed = {path: _typed(_header(history)) for path, history in histories.items()}
    names = {name for settings in typed.values() for name in settings if not _within(name, _NOTHING)}
    varied = sorted(n for n in names if len({settings.get(n) for settings in typed.values()}) > 1)
    searchers = {_header(history).searcher for history in histories.values()}
    kinds = {
        (
            _header(history).scheduler,
            _header(history).searcher,
            *(typed[path].get(n) for n in varied if not _within(n, _TASK)),
        )
        for path, history in histories.items()
    }
    compete = len(kinds) == 1 or all(len(history.trials) == 1 for history in histories.values())
    makes_tasks = _APART if compete else _TASK
    runs: list[Run] = []
    seen: dict[tuple[str, str, int], Path] = {}
    for path, history in histories.items():
        header, own = _header(history), [(name, typed[path][name]) for name in varied if name in typed[path]]
        tasks = [Path(value).stem for name, value in own if _within(name, makes_tasks)]
        options = [f"{n}={v}" for n, v in own if not _within(n, makes_tasks) and n not in ("scheduler", "searcher")]
        said = [header.scheduler, *([header.searcher] if len(searchers) > 1 else [])]
        method = options if compete and options else [*said, *options]
        table = (curves or {}).get(curves_of(history))
        run = run_of(history, " ".join(tasks) or header.name, " ".join(method), table)
        key = (run.task, run.method, run.seed)
        if key in seen:
            raise UserError(f"{seen[key]} and {path}: both are {run.method} on {run.task} with seed {run.seed}")
        seen[key] = path
        runs.append(run)
    return runs


def curves_of(history: History) -> str:
    """Return the path of the table that a study was simulated on, or nothing."""
    return str(_header(history).provenance.config.get("executor", {}).get("curves", ""))


def tables(histories: Iterable[History]) -> dict[str, Curves]:
    """Return the tables that studies were simulated on, by their paths, as far as they are still there."""
    paths = {curves_of(history) for history in histories}
    return {path: load(path) for path in sorted(paths) if path and Path(path).is_file()}


def by_task(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Return the runs of each task, the tasks in order of appearance."""
    tasks: dict[str, list[Run]] = {}
    for run in runs:
        tasks.setdefault(run.task, []).append(run)
    return tasks


def by_method(runs: Iterable[Run]) -> dict[str, dict[int, Run]]:
    """Return one task's runs of each method by seed, the methods in order of appearance."""
    methods: dict[str, dict[int, Run]] = {}
    for run in runs:
        methods.setdefault(run.method, {})[run.seed] = run
    return methods


def by_regret(runs: Iterable[Run]) -> bool:
    """Whether what all winners come to at the end of a full training is known."""
    return not any(math.isnan(run.regret) for run in runs)


def common_end(runs: Iterable[Run], axis: Axis = "resource") -> float:
    """Return the most that every run has spent: up to there a comparison is fair."""
    return min(run.end(axis) for run in runs)


def grid(runs: Iterable[Run], axis: Axis, points: int = 400) -> Array:
    """Return as many points, at equal distances up to where the last run ended, and the ends of the methods."""
    ends = [max(run.end(axis) for run in own.values()) for own in by_method(runs).values()]
    return np.union1d(np.arange(1, points) * (max(ends) / points), ends)


def band(method: str, runs: Sequence[Run], x: Array, axis: Axis) -> Band:
    """Return mean, standard error, median and quartiles of a method's incumbents over its seeds while any runs."""
    over = x > max(run.end(axis) for run in runs) * (1 + 1e-9)
    errors = np.array([np.where(over, math.nan, run.at(x, axis)) for run in runs])
    n = len(runs)
    deviation = errors.std(axis=0, ddof=1) if n > 1 else np.full_like(x, math.nan)
    lower, median, upper = np.quantile(errors, (0.25, 0.5, 0.75), axis=0)
    return Band(method, n, x, errors.mean(axis=0), deviation / math.sqrt(n), median, lower, upper)


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
            errors = np.array([[_worst_if_none(own[seed].at(x)) for seed in seeds] for own in methods.values()])
        ranked = rankdata(errors, axis=0)
        for method, own in zip(methods, ranked, strict=True):
            means[method].append(own)
    tasks = {method: np.array([own.mean(axis=0) for own in found]) for method, found in means.items() if found}
    if len(next(iter(tasks.values()), ())) == 1:
        tasks = {method: means[method][0] for method in tasks}
    return {method: (own.mean(axis=0), _standard_error(own)) for method, own in tasks.items()}


def pairs(runs: Sequence[Run], axis: Axis = "resource") -> list[Pair]:
    """Test every two methods of each task on the seeds they share, where what they came to can be compared.

    That is the regret of their winners, where a table knows it; else the error of their incumbents at the most that
    each of both has spent, if all had been trained to the same resource by then; else that of winners which were
    trained again to the same resource. Other pairs are `untested`.
    """
    tested: list[Pair] = []
    for task, of_task in by_task(runs).items():
        found: list[Pair] = []
        for first, second, own in _shared(of_task):
            if (measured := _measured(own, axis)) is not None:
                value, basis = measured
                errors = [np.array([value(each[i]) for each in own]) for i in (0, 1)]
                found.append(paired(errors[0], errors[1], task, first, second, basis))
        corrected = holm([pair.p for pair in found])
        tested += [replace(pair, p_holm=p) for pair, p in zip(found, corrected, strict=True)]
    return tested


def across(tested: Sequence[Pair]) -> list[Pair]:
    """Test every two methods over tasks, from their tests within these, where two or more have one.

    Each task counts once, however many seeds it has, by the share of them that the first loses minus the share that it
    wins, so that the scales of errors do not matter. Wilcoxon's test over these shares, corrected by Holm, asks whether
    one is better on tasks such as these (Demšar 2006; Benavoli, Corani and Mangili 2016); those within a task ask for
    that task alone, however many seeds there are.
    """
    shares: dict[tuple[str, str], list[float]] = {}
    for pair in tested:
        lost = (pair.losses - pair.wins) / pair.n
        if (pair.second, pair.first) in shares:
            shares[pair.second, pair.first].append(-lost)
        else:
            shares.setdefault((pair.first, pair.second), []).append(lost)
    found = [
        paired(np.array(own), np.zeros(len(own)), "", first, second, "share of seeds lost minus won, by task")
        for (first, second), own in shares.items()
        if len(own) > 1
    ]
    return [replace(pair, p_holm=p) for pair, p in zip(found, holm([pair.p for pair in found]), strict=True)]


def untested(runs: Sequence[Run], axis: Axis = "resource") -> list[tuple[str, str]]:
    """Return every two methods of a task that `pairs` leaves out: their winners were trained to different resources."""
    return [(first, second) for first, second, own in _shared(runs) if _measured(own, axis) is None]


def _shared(runs: Sequence[Run]) -> Iterator[tuple[str, str, list[tuple[Run, Run]]]]:
    """Yield every two methods of a task with their runs on the seeds that both have."""
    methods = by_method(runs)
    for first, second in combinations(methods, 2):
        if seeds := sorted(methods[first].keys() & methods[second].keys()):
            yield first, second, [(methods[first][seed], methods[second][seed]) for seed in seeds]


def _measured(own: Sequence[tuple[Run, Run]], axis: Axis) -> tuple[Callable[[Run], float], str] | None:
    """Return by what two methods can be compared on the seeds that both have, and in words, or None."""
    both, unit = list(chain(*own)), own[0][0].unit
    if by_regret(both):
        return lambda run: run.regret, "regret at the end"
    end = common_end(both, axis)
    found = [run for run in both if not math.isnan(run.at(end, axis))]
    levels = {run.level_at(end, axis) for run in found}
    if len(levels) < 2:
        level = next(iter(levels), None)
        trained = f" at {count(level, unit)}" if level is not None else ""
        spent = count(end, unit) if axis == "resource" else f"{end:.3g} s"
        return lambda run: float(run.at(end, axis)), f"{both[0].metric}{trained} after {spent}"
    retrained = [run for run in both if math.isfinite(run.confirmed)]
    if len({run.until for run in retrained}) == 1 and all(run in retrained or not len(run.error) for run in both):
        until = count(retrained[0].until, unit)
        return lambda run: run.confirmed, f"{both[0].metric} of fresh seeds at {until}"
    return None


def paired(first: Array, second: Array, task: str = "", name: str = "", other: str = "", basis: str = "") -> Pair:
    """Test two methods' errors on the same seeds, shape (n,) each (Wilcoxon 1945; Kerby 2014 for the effect).

    Where a method has no incumbent (NaN) it is worse than by any number. Equal pairs are left out; without any other
    pair p is 1 and the effect 0.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.nan_to_num(_worst_if_none(first) - _worst_if_none(second), nan=0.0)
        median = float(np.median(difference))
    unequal = difference[difference != 0]
    wins, losses = int((unequal < 0).sum()), int((unequal > 0).sum())
    each = tuple(float(d) if abs(d) < 1e300 else math.copysign(math.inf, d) for d in np.sort(difference))
    if not len(unequal):
        return Pair(task, name, other, len(difference), 0, 0, median, 0.0, 1.0, differences=each, basis=basis)
    weights = rankdata(np.abs(unequal))
    effect = float((weights[unequal < 0].sum() - weights[unequal > 0].sum()) / weights.sum())
    p = _signed_rank_p(weights, unequal < 0)
    return Pair(task, name, other, len(difference), wins, losses, median, effect, p, differences=each, basis=basis)


def holm(p: Sequence[float]) -> list[float]:
    """Return p values that keep the chance of any false finding among all of them (Holm 1979)."""
    corrected, most = [1.0] * len(p), 0.0
    for place, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        most = max(most, min(1.0, (len(p) - place) * p[i]))
        corrected[i] = most
    return corrected


def _signed_rank_p(weights: Array, won: NDArray[np.bool_], exact: int = 50) -> float:
    """Return Wilcoxon's two-sided p of ranks, which may be tied: exact of so many, beyond that of the normal limit."""
    half = weights.sum() / 2
    least = min(weights[won].sum(), weights[~won].sum())
    if len(weights) > exact:
        return float(2 * norm.cdf((least - half) / math.sqrt((weights**2).sum() / 4)))
    below = np.ones(1)  # how likely each sum of doubled ranks is, if every sign is a coin's
    for rank in np.rint(2 * weights).astype(int):
        below = (np.pad(below, (0, rank)) + np.pad(below, (rank, 0))) / 2
    return min(1.0, 2 * float(below[: round(2 * least) + 1].sum()))


def _worst_if_none(errors: Array) -> Array:
    return np.where(np.isnan(errors), np.inf, errors)


def _standard_error(values: Array) -> Array:
    """The standard error of the mean over the first axis, NaN for a single value."""
    if len(values) < 2:
        return np.full(values.shape[1:], math.nan)
    return values.std(axis=0, ddof=1) / math.sqrt(len(values))


def _confirmed(history: History) -> tuple[float, int]:
    """Return the mean error of the chosen trial's confirmations and what they were trained to, NaN without any."""
    if (chosen := history.chosen) is None or chosen.trial is None:
        return math.nan, 0
    errors = [
        each.confirmed.error
        for each in history.confirmations.values()
        if each.confirmed is not None
        and (each.asked.trial, each.asked.vary, each.asked.until) == (chosen.trial, chosen.vary, chosen.until)
    ]
    return (float(np.mean(errors)), chosen.until) if errors else (math.nan, 0)


def _header(history: History) -> Header:
    if history.header is None:
        raise UserError("a study has no header: its journal is empty, there is nothing to compare")
    return history.header


def _typed(header: Header) -> dict[str, str]:
    """The overrides that a study was started with; without a command line, its name stands for its task."""
    split = [item.lstrip("+~").partition("=") for item in header.provenance.overrides]
    return {name: value for name, _, value in split} or {"name": header.name}


def _within(name: str, keys: Iterable[str]) -> bool:
    return any(name == key or name.startswith((f"{key}.", f"{key}@")) for key in keys)
