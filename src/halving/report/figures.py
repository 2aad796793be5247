"""Figures of a study, drawn from its history alone."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from halving.history import Evaluation, History, Trial
from halving.report.canvas import ACCENT, FAINT, HAIR, MUTED, PAPER, Scale, place, png, svg, thinned
from halving.report.confirmation import reviewed
from halving.report.confirmation_plot import draw_confirmations
from halving.report.dimensions import COLUMNS, draw_dimensions
from halving.report.learning_curves import by_epoch
from halving.report.marks import annotate, blank, caption, crosses, dots, lines, mark_winner, sparse
from halving.report.over_time import draw_over_time
from halving.report.parallel import draw_parallel
from halving.report.selection import selected
from halving.report.sensitivity_plot import draw_sensitivity
from halving.report.sensitivity_plot import height as panels
from halving.report.tables import header_of, time_unit, uncertainty, winner
from halving.report.timeline import draw_timeline, height
from halving.tracking.wording import count, metric_label, number

WIDTH, HEIGHT = 540, 380
_MOST_POINTS = 20_000  # of all curves together


def rung_scatter(history: History) -> str:
    """Return the SVG of every evaluation: error by resource, a line along the rungs that a trial has passed."""
    return svg("rungs", "Error of every trial at every rung", WIDTH, HEIGHT, lambda f: _draw_rungs(_panel(f), history))


def learning_curves(history: History) -> str:
    """Return the SVG of the validation error by epoch, one curve per trial; its length is what the trial has cost."""
    return svg("curves", "Learning curve of every trial", WIDTH, HEIGHT, lambda f: _draw_curves(_panel(f), history))


def over_time(history: History) -> str:
    """Return the SVG of the learning curves over the seconds since the start."""
    return svg(
        "clock",
        "Learning curve of every trial over time",
        2 * WIDTH,
        320,
        lambda figure: draw_over_time(figure, history),
    )


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
        lambda figure: draw_dimensions(figure, history),
    )  # fmt: skip


def parallel(history: History) -> str:
    """Return the SVG of all trials as lines through the values of their dimensions to their error."""
    return svg(
        "parallel", "Every trial as a line through its hyperparameters to its error", 2 * WIDTH, 350,
        lambda figure: draw_parallel(figure, history),
    )  # fmt: skip


def timeline(history: History) -> str:
    """Return the SVG of what ran when on how many workers."""
    return svg(
        "timeline", "What the workers did over time", 2 * WIDTH, height(history),
        lambda figure: draw_timeline(figure, history),
    )  # fmt: skip


def confirmations(history: History) -> str:
    """Return the SVG of what the best trials came to with fresh seeds, beside what the study had measured."""
    review = reviewed(history)
    return svg(
        "confirmed", "Errors of the best trials with fresh seeds", 2 * WIDTH,
        100 + 34 * (len(review.rows) if review else 1), lambda figure: draw_confirmations(figure, history),
    )  # fmt: skip


def sensitivity(history: History) -> str:
    """Return the SVG of what each dimension alone does to the error around the base of a one-at-a-time study."""
    return svg(
        "sensitivity", "Error against the value of one hyperparameter at a time", 2 * WIDTH, panels(history),
        lambda figure: draw_sensitivity(figure, history),
    )  # fmt: skip


def sensitivity_png(history: History, path: Path) -> None:
    """Write the same as a PNG, two pixels to a point."""
    png(path, 2 * WIDTH, panels(history), lambda figure: draw_sensitivity(figure, history))


def figure_png(history: History, path: Path) -> None:
    """Write rung scatter and learning curves side by side as a PNG, two pixels to a point."""
    history = selected(history)

    def draw(figure: Figure) -> None:
        _draw_rungs(_panel(figure), history)
        _draw_curves(_panel(figure, WIDTH), history)

    png(path, 2 * WIDTH, HEIGHT, draw)


def over_time_png(history: History, path: Path) -> None:
    """Write the learning curves over the seconds since the start as a PNG, two pixels to a point."""
    png(path, 2 * WIDTH, 320, lambda figure: draw_over_time(figure, selected(history)))


def pictures(history: History, directory: Path) -> dict[str, Path]:
    """Write the figures of a study as PNG files, and return them by name."""
    history = selected(history)
    rows = max(1, math.ceil(len(header_of(history).dimensions) / COLUMNS))
    files = {f"figures/{name}": directory / f"{name}.png" for name in ("trials", "incumbent", "hyperparameters")}
    figure_png(history, files["figures/trials"])
    png(files["figures/incumbent"], 2 * WIDTH, 250, lambda figure: _draw_incumbent(figure, history))
    png(files["figures/hyperparameters"], 2 * WIDTH, 30 + 225 * rows, lambda figure: draw_dimensions(figure, history))
    return files


def _panel(figure: Figure, left: int = 0) -> Axes:
    return place(figure, left + 48, 40, WIDTH - 48 - 92, HEIGHT - 40 - 58)


def _draw_rungs(axes: Axes, history: History) -> None:
    header, best = header_of(history), winner(history)
    evaluations = [evaluation for _, evaluation in history.finished]
    errors = [evaluation.error for evaluation in evaluations]
    if all(map(math.isinf, errors)):
        blank(axes, "no trial has survived" if errors else "no trial has finished yet")
        return
    scale = Scale.over(errors, metric_label(header), header.maximize, uncertainty(history))
    scale.apply(axes)
    levels = sorted({evaluation.until for evaluation in evaluations})
    single = len(levels) == 1

    def points(trial: Trial) -> list[tuple[float, float]]:
        survived = [evaluation for evaluation in trial.evaluations if math.isfinite(evaluation.error)]
        return [(trial.trial if single else e.until, scale.height(e.error)) for e in survived]

    paths = {trial.trial: path for trial in history.trials.values() if (path := points(trial))}
    climbed = {trial: path for trial, path in paths.items() if len(path) > 1}
    lines(axes, climbed, color=MUTED, linewidth=1.0, alpha=0.55)
    ended = [(trial, path[-1]) for trial, path in paths.items()]
    promoted = [(trial, point) for trial, path in climbed.items() for point in path[:-1]]
    dots(axes, ended, s=22, color=FAINT, edgecolors=PAPER, linewidths=0.6, zorder=3)
    dots(axes, promoted, s=26, color=MUTED, edgecolors=PAPER, linewidths=0.6, zorder=4)
    lost = [(t.trial if single else e.until, t.trial) for t, e in history.finished if not math.isfinite(e.error)]
    crosses(axes, [x for x, _ in lost], [trial for _, trial in lost], scale)
    if best is not None:
        mark_winner(axes, best[0].trial, paths[best[0].trial], scale.number(best[1].error), every=True)
    if single:
        axes.set_xlabel(f"trial, each trained for {count(levels[0], header.unit)}")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlim(-0.6, max(history.trials) + 0.6)
    else:
        _level_ticks(axes, levels, evaluations, header.unit)
    caption(axes, scale, errors, [f"\N{MULTIPLICATION SIGN} {len(lost)} failed"] if lost else [])


def _level_ticks(axes: Axes, levels: Sequence[int], evaluations: Sequence[Evaluation], unit: str) -> None:
    """Rungs at equal distances for equal ratios, and how many trials finished each."""
    axes.set_xscale("log")
    axes.set_xlim(levels[0] / 1.25, levels[-1] * 1.15)
    shown = thinned(levels, (levels[-1] / levels[0]) ** 0.1)
    counts = {level: sum(evaluation.until == level for evaluation in evaluations) for level in shown}
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(shown, [f"{level}\n{count(counts[level], 'trials')}" for level in shown])
    axes.set_xlabel(unit, loc="left")


def _draw_curves(axes: Axes, history: History) -> None:
    best = winner(history)
    label, maximize, curves = by_epoch(history)
    if not curves:
        blank(axes, "no learning curves were recorded")
        return
    scale = Scale.over((y for curve in curves.values() for _, y in curve), label, maximize, uncertainty(history))
    scale.apply(axes)
    most = max(10, _MOST_POINTS // len(curves))
    drawn = {trial: [(x, scale.height(y)) for x, y in sparse(curve, most)] for trial, curve in curves.items()}
    far = {trial: line for trial, line in drawn.items() if history.trials[trial].state == "completed"}
    near = {trial: line for trial, line in drawn.items() if trial not in far}
    lines(axes, near, color=FAINT, linewidth=0.9, alpha=0.7)
    lines(axes, far, color=MUTED, linewidth=1.1, alpha=0.9)
    dots(axes, [(t, line[-1]) for t, line in near.items()], s=9, color=FAINT, linewidths=0, zorder=3)
    dots(axes, [(t, line[-1]) for t, line in far.items()], s=14, color=MUTED, linewidths=0, zorder=3)
    longest = max(x for line in drawn.values() for x, _ in line)
    if best is not None and (line := drawn.get(best[0].trial)):
        mark_winner(axes, best[0].trial, line, scale.number(scale.sign * line[-1][1]))
    ends = sorted({line[-1][0] for line in drawn.values()})
    if 3 <= len(ends) <= 8:
        axes.set_xticks([x for x, after in zip(ends, [*ends[1:], math.inf], strict=True) if after - x > longest / 30])
        axes.grid(axis="x", color=HAIR, linewidth=0.6)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, min_n_ticks=1))
    axes.set_xlim(min(1.0, longest / 2) - 0.02 * longest, longest * 1.02)
    axes.set_xlabel("epoch", loc="left")
    others = far.keys() - {best[0].trial if best else None}
    notes = ["stronger: trained to the end"] if others else []
    if any(len(drawn[trial]) < len(curve) for trial, curve in curves.items()):
        notes.append("of long curves the extremes")
    caption(axes, scale, [y for curve in curves.values() for _, y in curve], notes)


def _draw_incumbent(figure: Figure, history: History) -> None:
    header, found = header_of(history), history.incumbents
    panels = [place(figure, left, 40, WIDTH - 48 - 92, 160) for left in (48, 48 + WIDTH)]
    if not found:
        panels[1].set_axis_off()
        blank(panels[0], "no trial has survived")
        return
    label = f"incumbent's {metric_label(header)}"
    scale = Scale.over((e.error for _, e in found), label, header.maximize, uncertainty(history))
    unit, divisor = time_unit(history.seconds)
    _draw_steps(panels[0], found, [e.spent for _, e in found], history.spent, scale)
    _draw_steps(panels[1], found, [e.ended / divisor for _, e in found], history.seconds / divisor, scale)
    panels[0].set_xlabel(f"{header.unit} spent by all trials", loc="left")
    panels[1].set_xlabel(f"{unit} since the start", loc="left")


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
            annotate(axes, str(reached), point, (3, 5 * scale.sign), va=side, size=11)
    text = f"{scale.number(last.error)} at {last.resource}"
    annotate(axes, text, (end, y[-1]), (8, 0), color=ACCENT, va="center")
    caption(axes, scale, [evaluation.error for _, evaluation in found], [])
