"""Figures of a study, drawn from its history alone."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from halving.history import Evaluation, Header, History, Trial
from halving.report.canvas import ACCENT, FAINT, HAIR, INK, MUTED, PAPER, Scale, number, place, png, svg, thinned
from halving.report.tables import header_of, last_epochs, winner
from halving.trial import Value

WIDTH, HEIGHT = 540, 380
COLUMNS = 4


def rung_scatter(history: History) -> str:
    """Return the SVG of every evaluation: error by resource, a line along the rungs that a trial has passed."""
    return svg("rungs", "Error of every trial at every rung", WIDTH, HEIGHT, lambda f: _draw_rungs(_panel(f), history))


def learning_curves(history: History) -> str:
    """Return the SVG of the validation error by epoch, one curve per trial; its length is what the trial has cost."""
    return svg("curves", "Learning curve of every trial", WIDTH, HEIGHT, lambda f: _draw_curves(_panel(f), history))


def incumbent(history: History) -> str:
    """Return the SVG of the incumbent's error, against the resource spent and against the seconds since the start."""
    return svg(
        "incumbent",
        "Error of the incumbent over resource and time",
        2 * WIDTH,
        250,
        lambda f: _draw_incumbent(f, history),
    )


def hyperparameters(history: History) -> str:
    """Return the SVG of error against each dimension's value, one panel each; colour is the resource reached."""
    rows = max(1, math.ceil(len(header_of(history).dimensions) / COLUMNS))
    return svg(
        "values", "Error against the value of each hyperparameter", 2 * WIDTH, 30 + 225 * rows,
        lambda figure: _draw_dimensions(figure, history),
    )  # fmt: skip


def figure_png(history: History, path: Path) -> None:
    """Write rung scatter and learning curves side by side as a PNG, two pixels to a point."""

    def draw(figure: Figure) -> None:
        _draw_rungs(_panel(figure), history)
        _draw_curves(_panel(figure, WIDTH), history)

    png(path, 2 * WIDTH, HEIGHT, draw)


def metric_label(header: Header) -> str:
    """Return the metric in words: "validation error" for error and val_error."""
    name = header.metric.removeprefix("val_").replace("_", " ")
    return f"validation {name}" if header.metric.startswith("val_") or header.metric == "error" else name


def _panel(figure: Figure, left: int = 0) -> Axes:
    return place(figure, left + 48, 40, WIDTH - 48 - 92, HEIGHT - 40 - 58)


def _draw_rungs(axes: Axes, history: History) -> None:
    header, best = header_of(history), winner(history)
    evaluations = [evaluation for _, evaluation in history.finished]
    errors = [evaluation.error for evaluation in evaluations]
    if all(map(math.isinf, errors)):
        _blank(axes, "no trial has survived" if errors else "no trial has finished yet")
        return
    scale = Scale.over(errors, metric_label(header), header.maximize)
    scale.apply(axes)
    levels = sorted({evaluation.until for evaluation in evaluations})
    single = len(levels) == 1

    def points(trial: Trial) -> list[tuple[float, float]]:
        survived = [evaluation for evaluation in trial.evaluations if math.isfinite(evaluation.error)]
        return [(trial.trial if single else e.until, scale.height(e.error)) for e in survived]

    paths = [points(trial) for trial in history.trials.values()]
    axes.add_collection(LineCollection([p for p in paths if len(p) > 1], colors=MUTED, linewidths=1.0, alpha=0.55))
    ended = [path[-1] for path in paths if path]
    promoted = [point for path in paths for point in path[:-1]]
    axes.scatter(*_columns(ended), s=22, color=FAINT, edgecolors=PAPER, linewidths=0.6, zorder=3)
    axes.scatter(*_columns(promoted), s=26, color=MUTED, edgecolors=PAPER, linewidths=0.6, zorder=4)
    lost = [(t.trial if single else e.until, e) for t, e in history.finished if not math.isfinite(e.error)]
    _crosses(axes, [x for x, _ in lost], scale)
    if best is not None:
        path = points(best[0])
        axes.plot(
            *_columns(path), color=ACCENT, linewidth=2.2, marker="o", markersize=6, markeredgecolor=PAPER, zorder=5
        )
        _name_winner(axes, best[0].trial, path[-1])
    if single:
        axes.set_xlabel(f"trial, each trained for {levels[0]} {header.unit}")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.margins(x=0.06)
    else:
        _level_ticks(axes, levels, evaluations, header.unit)
    _notes(axes, scale, errors, [f"\N{MULTIPLICATION SIGN} {len(lost)} failed"] if lost else [])


def _level_ticks(axes: Axes, levels: Sequence[int], evaluations: Sequence[Evaluation], unit: str) -> None:
    """Rungs at equal distances for equal ratios, and how many trials finished each."""
    axes.set_xscale("log")
    axes.set_xlim(levels[0] / 1.25, levels[-1] * 1.15)
    shown = thinned(levels, (levels[-1] / levels[0]) ** 0.1)
    counts = {level: sum(evaluation.until == level for evaluation in evaluations) for level in shown}
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(shown, [f"{level}\n{counts[level]} trial{'s' * (counts[level] != 1)}" for level in shown])
    axes.set_xlabel(unit, loc="left")


def _draw_curves(axes: Axes, history: History) -> None:
    best = winner(history)
    label, maximize, curves = _curves(history)
    if not curves:
        _blank(axes, "no learning curves were recorded")
        return
    scale = Scale.over((y for curve in curves.values() for _, y in curve), label, maximize)
    scale.apply(axes)
    lines = {trial: [(x, scale.height(y)) for x, y in curve] for trial, curve in curves.items()}
    far = {trial for trial in lines if history.trials[trial].state == "completed"}
    near = lines.keys() - far
    axes.add_collection(LineCollection([lines[t] for t in near], colors=FAINT, linewidths=0.9, alpha=0.7))
    axes.add_collection(LineCollection([lines[t] for t in far], colors=MUTED, linewidths=1.1, alpha=0.9))
    axes.scatter(*_columns([lines[t][-1] for t in near]), s=9, color=FAINT, linewidths=0, zorder=3)
    axes.scatter(*_columns([lines[t][-1] for t in far]), s=14, color=MUTED, linewidths=0, zorder=3)
    longest = max(x for line in lines.values() for x, _ in line)
    if best is not None and (line := lines.get(best[0].trial)):
        axes.plot(*_columns(line), color=ACCENT, linewidth=2.2, zorder=5)
        axes.plot(*line[-1], color=ACCENT, marker="o", markersize=6, markeredgecolor=PAPER, zorder=6)
        _name_winner(axes, best[0].trial, line[-1])
    ends = sorted({line[-1][0] for line in lines.values()})
    if 3 <= len(ends) <= 8:
        axes.set_xticks([x for x, after in zip(ends, [*ends[1:], math.inf], strict=True) if after - x > longest / 30])
        axes.grid(axis="x", color=HAIR, linewidth=0.6)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.set_xlim(min(1.0, longest / 2) - 0.02 * longest, longest * 1.02)
    axes.set_xlabel("epoch", loc="left")
    others = far - {best[0].trial if best else None}
    _notes(
        axes, scale, [y for curve in curves.values() for _, y in curve], ["dark: trained to the end"] if others else []
    )


def _curves(history: History) -> tuple[str, bool, dict[int, list[tuple[int, float]]]]:
    """The label, whether it was maximised, and (epoch, error) of each trial; errors are minimised."""
    header = header_of(history)
    seen = {name for trial in history.trials.values() for _, epoch in trial.epochs for name in epoch.metrics}
    own = next((name for name in (header.metric, f"val_{header.metric}") if name in seen), None)
    if own is None and any(e.finished and e.finished.outcome.curve for _, e in history.finished):
        curves = {t.trial: _objective_curve(t) for t in history.trials.values()}
        label, maximize = metric_label(header), header.maximize
    else:
        name = own or "val_error"
        label, maximize = (metric_label(header), header.maximize) if own else ("validation error", False)
        curves = {t.trial: _metric_curve(t, name, -1 if maximize else 1) for t in history.trials.values()}
    return label, maximize, {trial: curve for trial, curve in curves.items() if curve}


def _metric_curve(trial: Trial, name: str, sign: int) -> list[tuple[int, float]]:
    epochs = last_epochs(epoch for _, epoch in trial.epochs)
    values = ((number, sign * epoch.metrics.get(name, math.nan)) for number, epoch in sorted(epochs.items()))
    return [(number, value) for number, value in values if math.isfinite(value)]


def _objective_curve(trial: Trial) -> list[tuple[int, float]]:
    """What an objective reported by itself, at the last units of each assignment."""
    outcomes = [e.finished.outcome for e in trial.evaluations if e.finished is not None]
    points = {o.resource - len(o.curve) + i: error for o in outcomes for i, error in enumerate(o.curve, start=1)}
    return [(x, error) for x, error in sorted(points.items()) if math.isfinite(error)]


def _draw_incumbent(figure: Figure, history: History) -> None:
    header, found = header_of(history), history.incumbents
    panels = [place(figure, left, 40, WIDTH - 48 - 92, 160) for left in (48, 48 + WIDTH)]
    if not found:
        panels[1].set_axis_off()
        _blank(panels[0], "no trial has survived")
        return
    scale = Scale.over((e.error for _, e in found), f"incumbent's {metric_label(header)}", header.maximize)
    total, spent = 0.0, dict[int, float]()
    for _, evaluation in history.finished:
        total += evaluation.finished.cost if evaluation.finished else 0.0
        spent[id(evaluation)] = total
    unit, divisor = _time_unit(history.seconds)
    _draw_steps(panels[0], found, [spent[id(e)] for _, e in found], total, scale)
    _draw_steps(panels[1], found, [e.ended / divisor for _, e in found], history.seconds / divisor, scale)
    panels[0].set_xlabel(f"{header.unit} spent by all trials", loc="left")
    panels[1].set_xlabel(f"{unit} since the start", loc="left")


def _time_unit(seconds: float) -> tuple[str, int]:
    return ("hours", 3600) if seconds > 7200 else ("minutes", 60) if seconds > 300 else ("seconds", 1)


def _draw_steps(
    axes: Axes, found: Sequence[tuple[Trial, Evaluation]], x: Sequence[float], end: float, scale: Scale
) -> None:
    y = [scale.height(evaluation.error) for _, evaluation in found]
    reached, last = 0, found[-1][1]
    end = max(end, x[-1])
    scale.apply(axes)
    axes.set_xlim(0, end * 1.02 or 1)
    axes.step([*x, end], [*y, y[-1]], where="post", color=ACCENT, linewidth=1.6)
    axes.scatter(x, y, s=14, color=ACCENT, linewidths=0, zorder=3)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    side = "bottom" if scale.sign > 0 else "top"
    for (_, evaluation), point in zip(found, zip(x, y, strict=True), strict=True):
        if reached < evaluation.resource < last.resource:
            reached = evaluation.resource
            _annotate(axes, str(reached), point, (3, 5 * scale.sign), va=side, size=11)
    text = f"{scale.number(last.error)} at {last.resource}"
    _annotate(axes, text, (end, y[-1]), (8, 0), color=ACCENT, va="center")
    _notes(axes, scale, [evaluation.error for _, evaluation in found], [])


def _draw_dimensions(figure: Figure, history: History) -> None:
    header = header_of(history)
    across, down = (float(inches * 72) for inches in figure.get_size_inches())
    last = {trial.trial: evaluation for trial, evaluation in history.finished if math.isfinite(evaluation.error)}
    if not last or not header.dimensions:
        _blank(place(figure, 0, 0, across, down), "no dimension was searched" if last else "no trial has survived")
        return
    scale = Scale.over((evaluation.error for evaluation in last.values()), metric_label(header), header.maximize)
    levels = sorted({evaluation.resource for evaluation in last.values()})
    step = (across - 48 - 20) / COLUMNS
    for i, name in enumerate(header.dimensions):
        axes = place(figure, 48 + i % COLUMNS * step, 66 + i // COLUMNS * 225, step - 42, 150)
        _draw_dimension(axes, name, history, last, scale)
        axes.tick_params(axis="y", labelleft=i % COLUMNS == 0)
    _legend(figure, scale, levels, header.unit)


def _draw_dimension(axes: Axes, name: str, history: History, last: Mapping[int, Evaluation], scale: Scale) -> None:
    best = winner(history)
    having = [trial for trial in history.trials.values() if name in trial.configuration]
    trials = [trial for trial in having if trial.trial in last]
    lost = [trial for trial in having if trial.state == "failed" and trial.trial not in last]
    positions = _positions(axes, [trial.configuration[name] for trial in (*trials, *lost)])
    points = {t.trial: (x, scale.height(last[t.trial].error)) for t, x in zip(trials, positions, strict=False)}
    levels = sorted({evaluation.resource for evaluation in last.values()})
    scale.apply(axes)
    for level in levels:
        here = [point for trial, point in points.items() if last[trial].resource == level]
        axes.scatter(*_columns(here), s=20, color=ACCENT, alpha=_strength(level, levels), linewidths=0, zorder=3)
    if best is not None and best[0].trial in points:
        axes.scatter(*points[best[0].trial], s=62, facecolors="none", edgecolors=INK, linewidths=1.2, zorder=6)
    _crosses(axes, positions[len(trials) :], scale)
    axes.set_title(_shortened(name, 30), pad=10)


def _legend(figure: Figure, scale: Scale, levels: Sequence[int], unit: str) -> None:
    """One line above the panels: the vertical axis, and the colour of each resource reached."""
    across = float(figure.get_size_inches()[0] * 72)
    axes = place(figure, 0, 0, across, 30)
    axes.set_axis_off()
    axes.set_xlim(0, across)
    axes.set_ylim(0, 30)
    entries = [(level, _strength(level, levels)) for level in thinned(levels, 1.5)[-7:]]
    left = 14 + 6.4 * len(scale.title) + 24
    axes.text(14, 15, scale.title, color=MUTED, va="center")
    axes.text(left, 15, f"{unit} reached:", color=MUTED, va="center")
    left += 6.4 * len(unit) + 70
    for level, strength in entries:
        axes.scatter(left, 15, s=26, color=ACCENT, alpha=strength, linewidths=0)
        axes.text(left + 8, 15, str(level), color=MUTED, va="center")
        left += 34 + 7 * len(str(level))
    axes.text(left, 15, "ring: the winner \N{MIDDLE DOT} \N{MULTIPLICATION SIGN} failed", color=MUTED, va="center")


def _strength(level: int, levels: Sequence[int]) -> float:
    """The opacity of a resource: equal steps from the least to the most."""
    return 1.0 if len(levels) == 1 else 0.25 + 0.75 * levels.index(level) / (len(levels) - 1)


def _positions(axes: Axes, values: Sequence[Value]) -> list[float]:
    """Set the horizontal axis for these values, and return where each lies: numbers to scale, others by category."""
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]
    distinct = sorted(set(numbers))
    few = len(distinct) <= 6 and len(values) >= 2 * len(distinct)
    if len(numbers) < len(values):
        return _categories(axes, list(dict.fromkeys(map(_text, values))), [_text(value) for value in values])
    if few:
        return _categories(axes, [_text(value) for value in distinct], [_text(value) for value in numbers])
    low, high = distinct[0], distinct[-1]
    if low > 0 and high > 100 * low:
        first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
        powers = [10.0**power for power in range(first, last + 1)]
        margin = (high / low) ** 0.05
        axes.set_xscale("log")
        axes.set_xlim(low / margin, high * margin)
        axes.xaxis.set_major_locator(FixedLocator(powers[:: 1 + (last - first) // 5]))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        margin = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
        axes.set_xlim(low - margin, high + margin)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    return numbers


def _categories(axes: Axes, categories: Sequence[str], values: Sequence[str]) -> list[float]:
    most = min(len(categories), 8)
    shown = range(0, len(categories), 1 + len(categories) // 9)
    axes.set_xticks(list(shown), [_shortened(categories[i], max(3, 30 // max(1, most))) for i in shown])
    axes.set_xlim(-0.6, max(len(categories) - 0.4, 0.6))
    # Spread within a category, the same at every drawing: by the golden ratio, so that neighbours lie apart.
    return [categories.index(value) + 0.36 * (i * 0.618034 % 1 - 0.5) for i, value in enumerate(values)]


def _text(value: Value) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return number(value) if math.isfinite(value) else str(value)
        case str():
            return value


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _crosses(axes: Axes, x: Sequence[float], scale: Scale) -> None:
    """Failed trials have no error: crosses on the edge where the worst would be."""
    edge = 1.0 if scale.sign > 0 else 0.0
    axes.scatter(
        x, [edge] * len(x), s=30, marker="x", color=INK, linewidths=1.1, clip_on=False, zorder=6,
        transform=axes.get_xaxis_transform(),
    )  # fmt: skip


def _name_winner(axes: Axes, trial: int, point: tuple[float, float]) -> None:
    text = f"trial {trial}\n{number(point[1])}"
    _annotate(axes, text, point, (9, 0), color=ACCENT, va="center", weight="bold")


def _annotate(
    axes: Axes,
    text: str,
    point: tuple[float, float],
    offset: tuple[float, float],
    coordinates: str = "data",
    **style: Any,
) -> None:
    style = {"color": MUTED, "xytext": offset, "textcoords": "offset points", "annotation_clip": False} | style
    axes.annotate(text, point, xycoords=coordinates, **style)


def _notes(axes: Axes, scale: Scale, errors: Sequence[float], notes: Sequence[str]) -> None:
    """Above the axes: what the vertical axis shows, and what a reader must know of it."""
    beyond = scale.beyond(errors)
    clipped = [f"{beyond} worse than {scale.number(scale.worst)}, drawn there"] if beyond else []
    axes.set_title(scale.title, pad=14)
    _annotate(axes, " \N{MIDDLE DOT} ".join((*notes, *clipped)), (1, 1), (84, 14), "axes fraction", ha="right", size=11)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _blank(axes: Axes, text: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=MUTED)
