"""Methods in pairs: signed-rank tests on the seeds that both have, and over tasks."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from halving.comparison.runs import Array, Axis, Run, by_method, by_regret, by_task, common_end, worst_if_none
from halving.tracking.wording import count, duration


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


def paired(first: Array, second: Array, task: str = "", name: str = "", other: str = "", basis: str = "") -> Pair:
    """Test two methods' errors on the same seeds, shape (n,) each (Wilcoxon 1945; Kerby 2014 for the effect).

    Where a method has no incumbent (NaN) it is worse than by any number. Equal pairs are left out; without any other
    pair p is 1 and the effect 0. Errors are equal, and so are differences, that agree to nine digits: those of rates,
    such as 0.3 - 0.2 and 0.6 - 0.5, differ in their last bits.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.nan_to_num(worst_if_none(first) - worst_if_none(second), nan=0.0)
        median = float(np.median(difference))
        close = np.isclose(first, second, rtol=1e-9, atol=0.0) | np.isclose(second, first, rtol=1e-9, atol=0.0)
    unequal = difference[(difference != 0) & ~close]
    wins, losses = int((unequal < 0).sum()), int((unequal > 0).sum())
    each = tuple(float(d) if abs(d) < 1e300 else math.copysign(math.inf, d) for d in np.sort(difference))
    if not len(unequal):
        return Pair(task, name, other, len(difference), 0, 0, median, 0.0, 1.0, differences=each, basis=basis)
    weights = rankdata([float(f"{abs(each):.9g}") for each in unequal])
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
        spent = count(end, unit) if axis == "resource" else duration(end)
        return lambda run: float(run.at(end, axis)), f"{both[0].metric}{trained} after {spent}"
    retrained = [run for run in both if math.isfinite(run.confirmed)]
    if len({run.until for run in retrained}) == 1 and all(run in retrained or not len(run.error) for run in both):
        until = count(retrained[0].until, unit)
        return lambda run: run.confirmed, f"{both[0].metric} of fresh seeds at {until}"
    return None


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
