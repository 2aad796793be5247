"""What each dimension alone does to the error around a base: the numbers of a one-at-a-time study."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, median

from scipy.stats import chi2, studentized_range

from halving.history import History
from halving.report.tables import header_of, real
from halving.tracking.wording import count, digits, metric_label, value_text
from halving.trial import Configuration, Value

_SEARCHERS = ("one_at_a_time", "OneAtATimeSearcher")
_LAST_DIGITS = 1e-9  # of an error, which are arithmetic's and no noise
_LEVEL = 0.05  # how often some dimension is said to matter where none does


@dataclass(frozen=True)
class Point:
    """One value of a dimension: a trial and its error, minimised, for each seed that counts; +inf is a failure."""

    value: Value
    trials: tuple[int, ...]
    errors: tuple[float, ...]

    @property
    def survived(self) -> list[float]:
        return [error for error in self.errors if math.isfinite(error)]

    @property
    def failed(self) -> int:
        return len(self.errors) - len(self.survived)

    @property
    def complete(self) -> bool:
        """Whether every seed came to an error, so that its mean compares."""
        return not self.failed

    @property
    def mean(self) -> float:
        """The mean error; +inf where no seed came to one."""
        return fmean(self.survived) if self.survived else math.inf


@dataclass(frozen=True)
class Effect:
    """What changing one dimension of the base does.

    `points` are in the order of their values, the base's own, `base`, among them. `limit` is by how much their means
    would differ in one of twenty studies whose dimensions do nothing; NaN where nothing tells.
    """

    dimension: str
    base: Point
    points: tuple[Point, ...]
    limit: float

    @property
    def known(self) -> tuple[Point, ...]:
        """The points whose means compare, the best first."""
        return tuple(sorted((point for point in self.points if point.complete), key=lambda point: point.mean))

    @property
    def range(self) -> float:
        """The greatest difference of two means."""
        known = self.known
        if not known or math.isclose(known[-1].mean, known[0].mean, rel_tol=_LAST_DIGITS):
            return 0.0
        return known[-1].mean - known[0].mean

    @property
    def matters(self) -> bool | None:
        """Whether its means differ by more than seeds make them, or some value fails; None where nothing tells."""
        if any(point.failed for point in self.points if point is not self.base):
            return True
        return None if math.isnan(self.limit) else self.range > self.limit

    @property
    def better(self) -> Point | None:
        """The best point, where it is better than the base by more than seeds make it."""
        known = self.known
        return known[0] if self.base.complete and known and self.base.mean - known[0].mean > self.limit else None


@dataclass(frozen=True)
class Sensitivity:
    """The effects of all dimensions, in the space's order.

    `spread` is the standard deviation of one training over `seeds`, `noise` what is left of it once what a seed has in
    common for all points is taken out. Both are typical of all points: of their variances the median.
    """

    base: Point
    seeds: int
    spread: float
    noise: float
    effects: tuple[Effect, ...]


def sensitivity(history: History) -> Sensitivity | None:
    """Return what a study around a base came to; None of any other study, and before its base was trained.

    Points count that have been trained, and of their seeds those that all of these have. A dimension matters where the
    range of its means is beyond the quantile of the studentised range (Tukey's test) for so many means, at 5 % over all
    dimensions together (Bonferroni), times the noise of a mean.
    """
    header = header_of(history)
    if header.searcher not in _SEARCHERS or len({each.until for _, each in history.finished}) != 1:
        return None
    groups: dict[str, dict[int, int]] = {}
    for trial in history.trials.values():
        own = {name: value for name, value in trial.configuration.items() if name in header.dimensions}
        repeats = groups.setdefault(repr(own), {})
        repeats[len(repeats)] = trial.trial
    errors = {trial.trial: evaluation.error for trial, evaluation in history.finished}
    trained = [each for each in groups.values() if not errors.keys().isdisjoint(each.values())]
    whole = sorted(set.intersection(*({seed for seed, t in each.items() if t in errors} for each in trained)))
    if not whole or trained[0] is not groups[next(iter(groups))]:
        return None

    def point(trials: Mapping[int, int], name: str = "") -> Point:
        own = tuple(trials[seed] for seed in whole)
        return Point(history.trials[own[0]].configuration.get(name), own, tuple(errors[trial] for trial in own))

    first, *others = trained
    base, by_name = history.trials[first[0]].configuration, dict[str, list[Point]]()
    for trials in others:
        name = _changed(header.dimensions, base, history.trials[trials[0]].configuration)
        by_name.setdefault(name, []).append(point(trials, name))
    rows = [each.errors for each in map(point, trained) if each.complete]
    spread, noise, freedom = _noise(rows)
    effects: list[Effect] = []
    for name in (name for name in header.dimensions if name in by_name):
        own = point(first, name)
        points = tuple(sorted((own, *by_name[name]), key=lambda each: _place(each.value)))
        means = sum(each.complete for each in points)
        limit = math.nan
        if means > 1 and freedom:
            limit = _quantile(_LEVEL / len(by_name), means, freedom) * noise / math.sqrt(len(whole))
        effects.append(Effect(name, own, points, limit))
    return Sensitivity(point(first), len(whole), spread, noise, tuple(effects))


def _changed(dimensions: Sequence[str], base: Configuration, other: Configuration) -> str:
    """Return which dimension differs: the first, as those that an option or value brings with it come after it."""
    common = (name for name in dimensions if name in base and name in other)
    return next(name for name in common if repr(base[name]) != repr(other[name]))


def _noise(rows: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Return spread and noise, given a row of errors for each point, and the noise's degrees of freedom.

    Points at which training is unstable do not count more than others, as they would in a mean. Where most points have
    the same error with every seed, as errors over few examples may be, it is the mean of the variances all the same.
    """
    free = len(rows[0]) - 1 if rows else 0
    if free < 1 or len(rows) < 2:
        return math.nan, math.nan, 0.0
    deviations = [[error - fmean(row) for error in row] for row in rows]
    shared = [median(column) for column in zip(*deviations, strict=True)]
    rests = [[d - s + fmean(shared) for d, s in zip(row, shared, strict=True)] for row in deviations]
    middle = float(chi2.median(free))

    def typical(table: Sequence[Sequence[float]]) -> float:
        squares = [sum(each**2 for each in row) for row in table]
        found = math.sqrt(median(squares) / middle or fmean(squares) / free)
        return found if found > _LAST_DIGITS * max(abs(error) for row in rows for error in row) else 0.0

    # The asymptotic variance of a median of chi-squared variables, as degrees of freedom.
    freedom = 8 * len(rows) * (middle * float(chi2.pdf(middle, free))) ** 2
    return typical(deviations), typical(rests), freedom


@cache
def _quantile(level: float, means: int, freedom: float) -> float:
    """Return what the range of so many means over their standard error exceeds with this probability."""
    return float(studentized_range.isf(level, means, freedom))


def _place(value: Value) -> tuple[bool, float, str]:
    found = real(value)
    return (True, 0.0, repr(value)) if found is None else (False, found, "")


def told(history: History) -> list[tuple[str, ...]]:
    """Return a row of words for each dimension: its name, the base, best and worst, range, limit and the verdict."""
    found = sensitivity(history)
    sign = header_of(history).sign
    if found is None:
        return []
    step = found.noise / math.sqrt(found.seeds)

    def mean(point: Point) -> str:
        return f"{value_text(point.value)}: {digits(sign * point.mean, step)}"

    return [
        (
            effect.dimension,
            value_text(effect.base.value),
            *((mean(effect.known[0]), mean(effect.known[-1])) if effect.known else ("", "")),
            digits(effect.range, step) if len(effect.known) > 1 else "",
            digits(effect.limit, step) if math.isfinite(effect.limit) else "",
            verdict(effect),
        )
        for effect in found.effects
    ]


def verdict(effect: Effect) -> str:
    """Say in words whether a dimension matters."""
    failing = [
        f"{value_text(point.value)}{'' if not point.survived else f' ({point.failed} of {len(point.errors)} seeds)'}"
        for point in effect.points
        if point.failed
    ]
    if failing:
        return f"matters: fails at {', '.join(failing)}"
    if effect.matters is None:
        return "one seed cannot tell" if len(effect.base.errors) < 2 else "cannot be told"
    if effect.better is not None:
        return f"matters: better at {value_text(effect.better.value)}"
    return "matters" if effect.matters else "within noise"


def headline(history: History) -> str:
    """Return what a one-at-a-time study came to in a sentence or two; nothing of any other."""
    found = sensitivity(history)
    if found is None:
        return ""
    header = header_of(history)
    step = found.spread / math.sqrt(found.seeds)
    error = digits(header.sign * found.base.mean, step)
    text = f"The base has a mean {metric_label(header)} of {error} over {count(found.seeds, 'seeds')}"
    if math.isfinite(found.noise):
        varies = max(found.spread, found.noise)  # where seeds have nothing in common, either may come out larger
        text += f"; over seeds one training varies by {digits(varies, varies)} (standard deviation)"
        if found.noise < found.spread:
            text += f", beside others of the same seed by {digits(found.noise, found.noise)}"
    matter = [effect.dimension for effect in sorted(found.effects, key=_rank) if effect.matters]
    rest = [effect.dimension for effect in found.effects if effect.matters is False]
    text += f". What matters: {', '.join(matter)}" if matter else ""
    text += f". Within noise: {', '.join(rest)}" if rest else ""
    tried = {effect.dimension for effect in found.effects}
    base = history.trials[found.base.trials[0]].configuration
    alone = [name for name in header.dimensions if name in base and name not in tried]
    text += f". No other value has been tried of: {', '.join(alone)}" if alone else ""
    return f"{text}."


def _rank(effect: Effect) -> tuple[bool, float]:
    return not any(point.failed for point in effect.points), -effect.range


def lines(history: History) -> list[str]:
    """Return the headline and the table for a terminal; nothing of any other study."""
    if not (text := headline(history)):
        return []
    rows = [("dimension", "base", "best", "worst", "range", "noise alone", ""), *told(history)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [text, *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)]
