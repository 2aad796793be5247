"""Panels of error against the value of each dimension."""

import math
import statistics
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from halving.history import Evaluation, History
from halving.report.canvas import ACCENT, INK, MUTED, Scale, drawable, limits, place, round_numbers, thinned
from halving.report.marks import blank, crosses, dots
from halving.report.tables import header_of, real, winner
from halving.tracking.wording import cut, metric_label, number, short, value_text
from halving.trial import Value

COLUMNS = 4


def draw_dimensions(figure: Figure, history: History) -> None:
    """Draw a panel for each dimension of the study, and one legend above them all."""
    header = header_of(history)
    across, down = (float(inches * 72) for inches in figure.get_size_inches())
    last = {trial.trial: evaluation for trial, evaluation in history.finished if math.isfinite(evaluation.error)}
    if not last or not header.dimensions:
        blank(place(figure, 0, 0, across, down), "no dimension was searched" if last else "no trial has survived")
        return
    scale = Scale.over((evaluation.error for evaluation in last.values()), metric_label(header), header.maximize)
    levels = sorted({evaluation.resource for evaluation in last.values()})
    step = (across - 48 - 20) / COLUMNS
    titles = short(header.dimensions)
    for i, name in enumerate(header.dimensions):
        axes = place(figure, 48 + i % COLUMNS * step, 66 + i // COLUMNS * 225, step - 42, 150)
        _draw_dimension(axes, name, history, last, scale)
        axes.set_title(tail(lettered(titles[name]), 30), pad=10)
        axes.tick_params(axis="y", labelleft=i % COLUMNS == 0)
    _legend(figure, scale, levels, header.unit)


def _draw_dimension(axes: Axes, name: str, history: History, last: Mapping[int, Evaluation], scale: Scale) -> None:
    best = winner(history)
    having = [trial for trial in history.trials.values() if name in trial.configuration]
    trials = [trial for trial in having if trial.trial in last]
    lost = [trial for trial in having if trial.state == "failed" and trial.trial not in last]
    places = positions(axes, [trial.configuration[name] for trial in (*trials, *lost)])
    points = {t.trial: (x, scale.height(last[t.trial].error)) for t, x in zip(trials, places, strict=False)}
    levels = sorted({evaluation.resource for evaluation in last.values()})
    scale.apply(axes)
    for level in levels:
        here = [(trial, point) for trial, point in points.items() if last[trial].resource == level]
        dots(axes, here, s=20, color=ACCENT, alpha=strength(level, levels), linewidths=0, zorder=3)
    if best is not None and best[0].trial in points:
        axes.scatter(*points[best[0].trial], s=62, facecolors="none", edgecolors=INK, linewidths=1.2, zorder=6)
    crosses(axes, places[len(trials) :], [trial.trial for trial in lost], scale)


def _legend(figure: Figure, scale: Scale, levels: Sequence[int], unit: str) -> None:
    """One line above the panels: the vertical axis, and the colour of each resource reached."""
    across = float(figure.get_size_inches()[0] * 72)
    axes = place(figure, 0, 0, across, 30)
    axes.set_axis_off()
    axes.set_xlim(0, across)
    axes.set_ylim(0, 30)
    entries = [(level, strength(level, levels)) for level in thinned(levels, 1.5)[-7:]]
    left = 14 + 6.4 * len(scale.title) + 24
    axes.text(14, 15, scale.title, color=MUTED, va="center")
    axes.text(left, 15, f"{unit} reached:", color=MUTED, va="center")
    left += 6.4 * len(unit) + 70
    for level, opacity in entries:
        axes.scatter(left, 15, s=26, color=ACCENT, alpha=opacity, linewidths=0)
        axes.text(left + 8, 15, str(level), color=MUTED, va="center")
        left += 34 + 7 * len(str(level))
    axes.text(left, 15, "ring: the winner \N{MIDDLE DOT} \N{MULTIPLICATION SIGN} failed", color=MUTED, va="center")


def strength(level: int, levels: Sequence[int]) -> float:
    """The opacity of a resource: equal steps from the least to the most."""
    return 1.0 if len(levels) == 1 else 0.35 + 0.65 * levels.index(level) / (len(levels) - 1)


def positions(axes: Axes, values: Sequence[Value]) -> list[float]:
    """Set the horizontal axis for these values, and return where each lies: numbers to scale, others by category."""
    numbers = [drawable(found) for value in values if (found := real(value)) is not None]
    distinct = sorted(set(numbers))
    few = len(distinct) <= 6 and len(values) >= 2 * len(distinct)
    if len(numbers) < len(values):
        return _categories(axes, list(dict.fromkeys(map(_text, values))), [_text(value) for value in values])
    whole = all(isinstance(value, int) for value in values)
    if few:
        _category_ticks(axes, [_text(value) for value in distinct])
        return [float(distinct.index(value)) for value in numbers]
    low, high = distinct[0], distinct[-1]
    if low > 0 and _logarithmic(low, statistics.median(numbers), high):
        numbers = [drawable(value, log=True) for value in numbers]
        ends = limits(drawable(low, log=True), high, log=True)
        ticks = [tick for tick in round_numbers(*ends) if not whole or tick.is_integer()]
        axes.set_xscale("log")
        axes.set_xlim(ends)
        axes.xaxis.set_major_locator(FixedLocator(ticks[:: max(1, -(-len(ticks) // 4))]))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(limits(low, high))
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=whole))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    return numbers


def _logarithmic(low: float, median: float, high: float) -> bool:
    """Whether positive numbers span more than three powers of ten, or more than one and crowd at the lower end."""
    ratio = high / low
    return ratio > 1000 or (ratio > 10 and (median / low) ** 2 < math.sqrt(ratio) * (1 + ratio) / 2)


def _categories(axes: Axes, categories: Sequence[str], values: Sequence[str]) -> list[float]:
    _category_ticks(axes, categories)
    # Spread within a category, the same at every drawing: by the golden ratio, so that neighbours lie apart.
    return [categories.index(value) + 0.36 * (i * 0.618034 % 1 - 0.5) for i, value in enumerate(values)]


def _category_ticks(axes: Axes, categories: Sequence[str]) -> None:
    shown = range(0, len(categories), 1 + len(categories) // 9)
    room = max(3, 30 // max(1, min(len(categories), 8)))
    heads = [cut(category, room) for category in categories]
    labels = heads if len(set(heads)) == len(categories) else [tail(category, room) for category in categories]
    axes.set_xticks(list(shown), [labels[i] for i in shown])
    axes.set_xlim(-0.6, max(len(categories) - 0.4, 0.6))


def _text(value: Value) -> str:
    return lettered(value_text(value))


def lettered(text: str) -> str:
    """Return a text with undecoded bytes, which fonts do not know, as escapes."""
    return text.encode(errors="backslashreplace").decode()


def tail(text: str, length: int) -> str:
    return text if len(text) <= length else "\N{HORIZONTAL ELLIPSIS}" + text[1 - length :]
