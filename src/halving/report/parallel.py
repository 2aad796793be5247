"""Parallel coordinates: every trial as a line through the values of its dimensions to its error."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from halving.history import History, Trial
from halving.report.canvas import FAINT, HAIR, INK, MUTED, Scale, place
from halving.report.dimensions import lettered, positions, strength, tail
from halving.report.marks import blank, lines, mark_winner
from halving.report.tables import AXES, header_of, uncertainty, winner
from halving.tracking.wording import metric_label, short

TOP, BOTTOM, ASIDE = 54.0, 300.0, 326.0  # the ends of an axis, and where what has no place on it goes
_LEFT, _RIGHT = 60.0, 96.0


def draw_parallel(figure: Figure, history: History) -> None:
    """Draw an axis for each of the first dimensions and one for the error, and through them a line for each trial.

    An axis is named `axis-<number of the dimension>` or `axis-error`: by that the page's script finds it.
    """
    header, best = header_of(history), winner(history)
    across, down = (float(inches * 72) for inches in figure.get_size_inches())
    axes = place(figure, 0, 0, across, down)
    last = {trial.trial: evaluation for trial, evaluation in history.finished if math.isfinite(evaluation.error)}
    trials = [trial for trial in history.trials.values() if trial.trial in last or trial.state == "failed"]
    if not last or not header.dimensions:
        blank(axes, "no dimension was searched" if last else "no trial has survived")
        return
    axes.set_axis_off()
    axes.set_xlim(0, across)
    axes.set_ylim(down, 0)
    names = header.dimensions[:AXES]
    step = (across - _LEFT - _RIGHT) / len(names)
    titles = short(names)
    columns: list[dict[int, float]] = []
    for i, name in enumerate(names):
        having = [trial for trial in trials if name in trial.configuration]
        scratch = Figure().add_subplot()
        values = positions(scratch, [trial.configuration[name] for trial in having]) if having else []
        found = _heights(scratch.xaxis, values)
        raised = 15 * (i % 2) if step < 110 else 0  # where titles lie close
        _draw_axis(axes, _LEFT + i * step, tail(lettered(titles[name]), max(14, int(step / 7))), str(i), raised)
        aside = "not used" if len(having) < len(trials) else ""
        _draw_ticks(axes, _LEFT + i * step, scratch.xaxis if having else None, aside)
        columns.append({trial.trial: height for trial, height in zip(having, found, strict=True)})
    scale = Scale.over(
        (evaluation.error for evaluation in last.values()), metric_label(header), header.maximize, uncertainty(history)
    )
    scratch = Figure().add_subplot()
    scale.apply(scratch)
    heights = _heights(scratch.yaxis, [scale.height(evaluation.error) for evaluation in last.values()])
    x = _LEFT + len(names) * step
    _draw_axis(axes, x, tail(lettered(scale.label), 24), "error", 15 * (len(names) % 2) if step < 110 else 0)
    _draw_ticks(axes, x, scratch.yaxis, "failed" if len(last) < len(trials) else "")
    columns.append(dict(zip(last, heights, strict=True)))
    _draw_trials(axes, [_LEFT + i * step for i in range(len(columns))], columns, trials, history)
    if best is not None:
        path = [(_LEFT + i * step, column.get(best[0].trial, ASIDE)) for i, column in enumerate(columns)]
        mark_winner(axes, best[0].trial, path, scale.number(best[1].error), every=True)


def _draw_trials(
    axes: Axes, x: Sequence[float], columns: Sequence[dict[int, float]], trials: Sequence[Trial], history: History
) -> None:
    """The further a trial was trained, the stronger its line; many lines are fainter, so that they do not fill all."""
    levels = sorted({evaluation.resource for _, evaluation in history.finished})
    last = {trial.trial: evaluation.resource for trial, evaluation in history.finished}
    paths = {t.trial: [(at, column.get(t.trial, ASIDE)) for at, column in zip(x, columns, strict=True)] for t in trials}
    full = min(1.0, math.sqrt(60 / len(trials)))
    for level in levels:
        here = {trial: path for trial, path in paths.items() if last.get(trial) == level}
        lines(axes, here, color=MUTED, linewidth=1.0, alpha=full * (0.35 + 0.6 * strength(level, levels) ** 2))


def _draw_axis(axes: Axes, x: float, title: str, name: str, raised: float = 0.0) -> None:
    (drawn,) = axes.plot([x, x], [TOP, BOTTOM], color=FAINT, linewidth=1.0, zorder=2, solid_capstyle="butt")
    drawn.set_gid(f"axis-{name}")
    axes.text(x, TOP - 22 - raised, title, ha="center", va="center", color=INK)


def _draw_ticks(axes: Axes, x: float, axis: Axis | None, aside: str) -> None:
    if axis is not None:
        low, high = sorted(axis.get_view_interval())
        ticks = [float(tick) for tick in axis.get_major_locator()() if low <= tick <= high]
        labels = axis.get_major_formatter().format_ticks(ticks)
        for label, height in zip(labels, _heights(axis, ticks), strict=True):
            axes.plot([x - 3, x], [height, height], color=FAINT, linewidth=0.8)
            axes.text(x - 6, height, label, ha="right", va="center", color=MUTED, size=11, zorder=7)
    if aside:
        axes.plot([x - 3, x + 3], [ASIDE, ASIDE], color=HAIR, linewidth=1.0)
        axes.text(x - 6, ASIDE, aside, ha="right", va="center", color=MUTED, size=11, zorder=7)


def _heights(axis: Axis, values: Sequence[float]) -> list[float]:
    """Return where values lie between BOTTOM and TOP, as they do between the ends of an axis."""
    transform: Any = axis.get_transform()
    low, high, *places = map(float, transform.transform([*axis.get_view_interval(), *values]))
    return [BOTTOM + (place - low) / (high - low) * (TOP - BOTTOM) for place in places]
