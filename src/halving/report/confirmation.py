"""Whether a winner is real: what its retrainings with fresh seeds came to."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t

from halving.confirming import ranked
from halving.errors import noted
from halving.history import Chosen, Confirm, Confirmation, Header, History
from halving.report.tables import finite, header_of, is_rate, test_names
from halving.tracking.wording import digits
from halving.trial import Job


@dataclass(frozen=True)
class Row:
    """The confirmations of one trial: errors, by repeat, are minimised; `failed` counts those that came to none.

    `resource` and `study_error` are what the study knew. `low` and `high` are the ends of the 95 % t interval of the
    mean; `curse` is how much worse the mean is than the study's error, None where that was measured at less resource.
    """

    trial: int
    resource: int
    study_error: float
    by_repeat: Mapping[int, float]
    failed: int
    curse: float | None

    @property
    def errors(self) -> tuple[float, ...]:
        return tuple(self.by_repeat.values())

    @property
    def mean(self) -> float:
        """The mean error: +inf if any seed failed, as none can stand for it."""
        return fmean(self.errors) if self.errors and not self.failed else math.inf

    @property
    def spread(self) -> float:
        """The standard deviation over seeds; NaN of fewer than two."""
        return stdev(self.errors) if len(self.errors) > 1 else math.nan

    @property
    def standard_error(self) -> float:
        return self.spread / math.sqrt(len(self.errors)) if self.errors else math.nan

    @property
    def low(self) -> float:
        return self.mean - half_width(self.errors)

    @property
    def high(self) -> float:
        return self.mean + half_width(self.errors)


@dataclass(frozen=True)
class Difference:
    """The mean error of the second trial minus the first's, over shared seeds, with its paired 95 % t interval.

    `seeds_needed` is about how many seeds would make that interval leave out 0, if mean and spread stayed: None where
    it does so already, or never would.
    """

    first: int
    second: int
    mean: float
    low: float
    high: float
    seeds_needed: int | None


@dataclass(frozen=True)
class Tested:
    """The chosen trial on the test set: an error for each seed, and the ensemble's where there is one.

    `seed_error` is the standard error of the mean over seeds, `sampling_error` that of a test set of this size (None
    where it is not an error rate), `combined` both: the seeds share one test set, so it does not shrink with them.
    """

    name: str
    errors: tuple[float, ...]
    samples: int | None
    ensemble: float | None

    @property
    def mean(self) -> float:
        return fmean(self.errors)

    @property
    def seed_error(self) -> float:
        return stdev(self.errors) / math.sqrt(len(self.errors)) if len(self.errors) > 1 else math.nan

    @property
    def sampling_error(self) -> float | None:
        if not self.samples or not 0 <= self.mean <= 1:
            return None
        return math.sqrt(self.mean * (1 - self.mean) / self.samples)

    @property
    def combined(self) -> float:
        return math.hypot(self.seed_error, self.sampling_error or 0.0)


@dataclass(frozen=True)
class Review:
    """What the confirmations of a study say: a row for each trial, the best mean first; ties go to the study's order.

    One with a single seed, as of confirmations that were broken off, comes last: that may be luck again. `own` is the
    study's own choice, `chosen` the trial with the best confirmed mean, None where none came to one.
    """

    rows: tuple[Row, ...]
    own: int
    vary: str
    seeds: int
    until: int
    finished: bool
    test: Tested | None

    @property
    def chosen(self) -> int | None:
        best = self.rows[0]
        return best.trial if math.isfinite(best.mean) and len(best.errors) > 1 else None

    @cached_property
    def difference(self) -> Difference | None:
        """The second trial against the first, None unless both have two seeds in common."""
        if len(self.rows) < 2:
            return None
        first, second = self.rows[:2]
        shared = first.by_repeat.keys() & second.by_repeat.keys()
        differences = [second.by_repeat[repeat] - first.by_repeat[repeat] for repeat in sorted(shared)]
        if first.failed or second.failed or len(differences) < 2:
            return None
        mean, half = fmean(differences), half_width(differences)
        return Difference(
            first.trial,
            second.trial,
            mean,
            mean - half,
            mean + half,
            seeds_needed(mean, stdev(differences), len(differences)),
        )


def reviewed(history: History, kind: tuple[str, int] | None = None) -> Review | None:
    """Return what confirmations came to, None where there are none.

    `kind` is what they vary and the resource to which they were trained: by default those that were chosen by, else the
    newest.
    """
    if not history.confirmations:
        return None
    *_, last = history.confirmations.values()
    by = history.chosen
    newest = (by.vary, by.until) if by is not None and by.vary else (last.asked.vary, last.asked.until)
    vary, until = kind or newest
    of: dict[int, list[Confirmation]] = defaultdict(list)
    for each in history.confirmations.values():
        if (each.asked.vary, each.asked.until) == (vary, until):
            of[each.asked.trial].append(each)
    order = [(trial.trial, evaluation) for trial, evaluation in ranked(history)]
    rows: list[Row] = []
    for trial, evaluation in order:
        if own := sorted(of.get(trial, ()), key=lambda each: each.asked.repeat):
            ended = {each.asked.repeat: each.confirmed.error for each in own if each.confirmed is not None}
            errors = {repeat: error for repeat, error in ended.items() if math.isfinite(error)}
            comparable = errors and evaluation.resource == until
            rows.append(
                Row(
                    trial,
                    evaluation.resource,
                    evaluation.error,
                    errors,
                    len(ended) - len(errors),
                    fmean(errors.values()) - evaluation.error if comparable else None,
                )
            )
    if not rows:
        return None
    return Review(
        tuple(sorted(rows, key=lambda row: (len(row.errors) < 2, row.mean))),
        order[0][0],
        vary,
        max(len(own) for own in of.values()),
        until,
        history.chosen is not None,
        _tested(history),
    )


def confirmed_winner(history: History) -> Row | None:
    """Return what the winner came to with fresh seeds, None where it was not chosen by them."""
    review = reviewed(history)
    if review is None or not review.finished or history.ended is None or review.chosen != history.ended.best:
        return None
    return review.rows[0]


def mean_text(header: Header, row: Row) -> str:
    """Say a mean over fresh seeds, as people know the metric, and half of its 95 % interval where there is one."""
    mean, half = header.sign * row.mean, row.high - row.mean
    return digits(mean, row.standard_error) + (f" ± {digits(half, row.standard_error)}" if math.isfinite(half) else "")


def cost(history: History) -> float:
    """Return the resource that confirmations spent."""
    return sum(each.confirmed.cost for each in history.confirmations.values() if each.confirmed is not None)


def half_width(values: list[float] | tuple[float, ...]) -> float:
    """Return half of the 95 % t interval of a mean; NaN of fewer than two values."""
    n = len(values)
    return _half(stdev(values), n) if n > 1 else math.nan


def seeds_needed(mean: float, spread: float, n: int) -> int | None:
    """Return about how many seeds make a 95 % t interval of this mean and spread leave out 0.

    None where `n` do already, and where no number up to a million does.
    """
    if mean == 0 or abs(mean) > _half(spread, n):
        return None
    needed = max(n + 1, math.ceil((1.95 * spread / mean) ** 2))  # t is above 1.95 for any number
    if needed > 1_000_000:
        return None
    while abs(mean) <= _half(spread, needed):
        needed += 1
    return needed


def _half(spread: float, n: int) -> float:
    return float(t.ppf(0.975, n - 1)) * spread / math.sqrt(n)


def _tested(history: History) -> Tested | None:
    chosen = history.chosen
    if chosen is None or not chosen.tests:
        return None
    every = list(chosen.tests.values())
    names = test_names(header_of(history).metric)
    name = next((each for each in names if all(each in one for one in every)), None)
    if name is None:
        return None
    errors = tuple(one[name] for one in every)
    samples = every[0].get("test_samples") if is_rate(name) else None
    return Tested(name, errors, int(samples) if samples else None, chosen.ensemble.get(name))


def chosen(
    history: History,
    vary: str,
    until: int,
    job: Callable[[Confirm], Job],
    test: Callable[[Job], Mapping[str, float]],
    ensemble: Callable[[Sequence[Job]], Mapping[str, float]],
) -> Chosen:
    """Choose the best mean of one kind of confirmations, and measure it alone on the test set: each seed, then all."""
    review = reviewed(history, (vary, until))
    if review is None or review.chosen is None:
        return Chosen(None, vary=vary, until=until)
    own = [each.asked for each in history.confirmations.values() if each.asked.trial == review.chosen]
    jobs = {str(each.repeat): job(each) for each in own if (each.vary, each.until) == (review.vary, review.until)}
    problems: list[str] = []
    tests: dict[str, Mapping[str, float]] = {}
    together: Mapping[str, float] = {}
    with noted("the confirmed trial's test failed", problems):
        tests = {repeat: measured for repeat, each in jobs.items() if (measured := test(each))}
        together = ensemble(list(jobs.values()))
    return Chosen(review.chosen, tests, together, "; ".join(problems), vary, until)


def checkpoint(history: History, trial: int, run_dir: Path) -> tuple[int, str | None]:
    """Return whose checkpoint the winning `trial` has, and which: one of its confirmations' if they alone went as far.

    It is the first that is there: those of trials that were not chosen at the time are deleted.
    """
    own, review = history.incumbent, reviewed(history)
    if review is None or history.chosen is None or history.chosen.trial != trial:
        return trial, history.trials[trial].checkpoint
    if own is not None and own[0].trial == trial and own[1].resource >= review.until:
        return trial, own[0].checkpoint
    kept = [
        (-number, each.confirmed.checkpoint)
        for number, each in history.confirmations.items()
        if (each.asked.trial, each.asked.vary, each.asked.until) == (trial, review.vary, review.until)
        if each.confirmed is not None and each.confirmed.checkpoint is not None
    ]
    return next((each for each in kept if (run_dir / each[1]).exists()), kept[0] if kept else (trial, None))


def mean_test(chosen: Chosen) -> dict[str, float]:
    """Return the mean of the chosen trial's test metrics over its seeds."""
    every = list(chosen.tests.values())
    return {name: fmean(one[name] for one in every) for name in every[0]} if every else {}


def summarised(history: History) -> dict[str, Any]:
    """Return what confirmations came to as summary.json has it, the metric as people know it."""
    review, sign = reviewed(history), header_of(history).sign
    if review is None:
        return {}
    rows = [
        {
            "trial": row.trial,
            "study_error": sign * row.study_error,
            "errors": [sign * error for error in row.errors],
            "failed": row.failed,
            "mean": finite(sign * row.mean),
            "standard_error": finite(row.standard_error),
            "low": finite(min(sign * row.low, sign * row.high)),
            "high": finite(max(sign * row.low, sign * row.high)),
            "spread": finite(row.spread),
            "curse": row.curse,
        }
        for row in review.rows
    ]
    test, difference = review.test, review.difference
    return {
        "chosen": review.chosen if review.finished else None,
        "own": review.own,
        "vary": review.vary,
        "seeds": review.seeds,
        "until": review.until,
        "cost": cost(history),
        "trials": rows,
        "difference": None if difference is None else asdict(difference),
        "test": None
        if test is None
        else {
            "name": test.name,
            "errors": list(test.errors),
            "mean": test.mean,
            "seed_error": finite(test.seed_error),
            "sampling_error": test.sampling_error,
            "combined": finite(test.combined),
            "ensemble": test.ensemble,
        },
    }
