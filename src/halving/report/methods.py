"""What a comparison says of methods, in cells: how each did on a task, every two of them, and their ranks."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halving.comparison import Pair, Run, by_method, by_regret, by_task, common_end, ranks, untested
from halving.report.confirmation import half_width
from halving.tracking.wording import count, digits, duration, number


@dataclass(frozen=True)
class Table:
    """Rows of text below their heads; `words` is how many columns, from the first on, hold words and no numbers."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1


def methods_table(runs: Sequence[Run]) -> Table:
    """Return how each method of a task did after the most that all have spent."""
    end, sign = common_end(runs), -1 if runs[0].maximize else 1
    rank = ranks(runs)
    regret = not all(math.isnan(run.regret) for run in runs)
    heads = [
        "method",
        "seeds",
        f"mean {runs[0].metric}",
        "median (quartiles)",
        f"incumbents' {runs[0].unit}",
        "mean rank by regret" if by_regret(runs) else "mean rank",
    ]
    heads += ["mean spent", "mean time", *(["regret at its end"] if regret else [])]
    rows: list[tuple[str, ...]] = []
    for method, own in by_method(runs).items():
        of_method = list(own.values())
        errors = sign * np.array([float(run.at(end)) for run in of_method])
        low, middle, high = (digits(value, _error(errors)) for value in _quartiles(errors, sign))
        cells = [method, str(len(own)), mean_and_error(errors), f"{middle} ({low} to {high})", _levels(of_method, end)]
        cells += [f"{rank[method][0][0]:.2f}" if method in rank else ""]
        cells += [number(float(np.mean([run.spent for run in of_method])))]
        cells += [duration(float(np.mean([run.elapsed for run in of_method])))]
        rows.append((*cells, *([mean_and_error(np.array([run.regret for run in of_method]))] if regret else [])))
    return Table(tuple(heads), tuple(rows))


def notes(runs: Sequence[Run]) -> list[str]:
    """Say what a task's comparison rests on: where it ends and through whom, and what its incumbents have in common."""
    end, unit = common_end(runs), runs[0].unit
    least, most = min(runs, key=lambda run: run.spent), max(run.spent for run in runs)
    said: list[str] = []
    if most > 1.1 * end:
        said.append(f"{least.method} with seed {least.seed} ended there; others went on to {number(most)}.")
    levels = {level for run in runs if (level := run.level_at(end)) is not None}
    if len(levels) > 1:
        said.append(
            f"Errors are those of the incumbents at that time, which had been trained to {min(levels)} to "
            f"{count(max(levels), unit)}: one trained for longer may be better for that reason alone."
        )
    if not all(math.isnan(run.regret) for run in runs):
        said.append(
            "Seeds draw from the same recorded rows: standard errors and tests are of this table, and other rows would "
            "differ by more."
        )
    for method, own in by_method(runs).items():
        if lost := sum(not len(run.error) for run in own.values()):
            said.append(f"{method}: no trial survived with {lost} of {count(len(own), 'seeds')}, which count as worst.")
    if apart := untested(runs):
        names = "; ".join(f"{first} and {second}" for first, second in apart)
        said.append(
            f"Not tested, as their winners were not trained to the same {unit}: {names}. confirm.top=1 trains each "
            "winner again, to r_max."
        )
    return said


def pairs_table(tested: Sequence[Pair], sign: int) -> Table:
    """Return the paired tests of a task's methods; `sign` is -1 where the metric is maximised."""
    heads = (
        "first",
        "second",
        "what",
        "pairs",
        "wins",
        "losses",
        "ties",
        "median difference",
        "effect",
        "p",
        "p (Holm)",
    )
    rows = (
        (
            *(pair.first, pair.second, pair.basis, str(pair.n), str(pair.wins), str(pair.losses)),
            str(pair.n - pair.wins - pair.losses),
            digits(sign * pair.difference, _error(np.array(pair.differences))) if abs(pair.difference) < 1e300 else "-",
            *(f"{pair.effect:+.2f}", f"{pair.p:.2g}", f"{pair.p_holm:.2g}"),
        )
        for pair in tested
    )
    return Table(heads, tuple(rows), 3)


def too_few(tested: Sequence[Pair], of: str = "pairs", more: str = "run more seeds") -> str:
    """Say where there are so few pairs that no difference could be told from chance."""
    fewest = min((pair.n for pair in tested), default=6)
    return f"With {count(fewest, of)} p is never below {2.0 ** (1 - fewest):g}: {more}." if fewest < 6 else ""


def across_table(tested: Sequence[Pair]) -> Table:
    """Return the tests of methods over tasks, with the t interval over tasks of what each counts by."""
    heads = ("first", "second", "tasks", "better on", "worse on", "seeds won minus lost, 95 %", "p", "p (Holm)")
    rows = (
        (
            *(pair.first, pair.second, str(pair.n), str(pair.wins), str(pair.losses)),
            _interval([-each for each in pair.differences]),
            *(f"{pair.p:.2g}", f"{pair.p_holm:.2g}"),
        )
        for pair in tested
    )
    return Table(heads, tuple(rows), 2)


def across_words(tested: Sequence[Pair]) -> str:
    """Say what the tests of methods over tasks ask, and where there are too few tasks to tell."""
    asked = (
        "Wilcoxon's test over tasks, by Holm corrected for all pairs: each task counts once, by the share of its seeds "
        "that the first method wins minus the share that it loses. It asks whether the first is better on tasks such "
        "as these, which tests within them do not."
    )
    return f"{asked} {too_few(tested, 'tasks', 'that it is better on others cannot be told from so few')}".rstrip()


def ranks_table(runs: Sequence[Run]) -> Table:
    """Return each method's mean rank over the tasks that have all methods, the best first."""
    found = sorted(ranks(runs).items(), key=lambda item: item[1][0][0])
    spread = ((method, float(mean[0]), float(error[0])) for method, (mean, error) in found)
    rows = (
        (method, f"{mean:.2f}{f' ± {error:.2f}' if math.isfinite(error) else ''}") for method, mean, error in spread
    )
    over = "tasks" if len(by_task(runs)) > 1 else "seeds"
    return Table(("method", f"mean rank, ± standard error over {over}"), tuple(rows))


def mean_and_error(values: Sequence[float] | NDArray[np.float64]) -> str:
    """Return "mean ± standard error", with the digits that this allows; a single value has four."""
    error = _error(np.asarray(values))
    mean = digits(float(np.mean(values)), error)
    return f"{mean} ± {digits(error, error)}" if error is not None else mean


def _interval(values: list[float]) -> str:
    half, mean = half_width(values), float(np.mean(values))
    return f"{mean:+.2f} ± {half:.2f}" if half > 0 else f"{mean:+.2f}"


def _error(values: NDArray[Any]) -> float | None:
    """Return the standard error of the mean, None where it cannot be told."""
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    # Of equal values it is 0, which rounding need not be.
    return float(values.std(ddof=1) / math.sqrt(len(values))) if np.ptp(values) else 0.0


def _quartiles(errors: NDArray[Any], sign: int) -> NDArray[Any]:
    """Return the quartiles, not finite where they lie at or beside a study without an incumbent, which is worst."""
    with np.errstate(invalid="ignore"):
        return np.quantile(np.where(np.isnan(errors), sign * np.inf, errors), (0.25, 0.5, 0.75))


def _levels(runs: Iterable[Run], end: float) -> str:
    levels = [level for run in runs if (level := run.level_at(end)) is not None]
    if not levels:
        return ""
    return str(levels[0]) if len(set(levels)) == 1 else f"{min(levels)} to {max(levels)}"
