"""Learning curves of single trainings over each other: a line each, over epochs or over the seconds of training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from halving.history import History
from halving.report.canvas import LARGEST, Scale, place, png, round_numbers, svg, tick
from halving.report.comparison import LEFT, PAGE, PANEL, WIDTH, Style, legend, styled
from halving.report.marks import annotate
from halving.report.tables import header_of, last_epochs
from halving.tracking.wording import measure

Across = Literal["epoch", "seconds"]
Trainings = Mapping[str, Sequence[History]]  # those of one name differ in their seeds
GAP, DOWN = 60, 210


@dataclass(frozen=True)
class Panel:
    """A metric of every epoch over epochs, or over the seconds that training has taken, on a logarithmic axis."""

    metric: str
    across: Across = "epoch"

    @property
    def said(self) -> str:
        """What the panel shows, in words."""
        return f"{measure(self.metric)} over {'epochs' if self.across == 'epoch' else 'seconds of training'}"


def panels_of(trainings: Trainings) -> list[Panel]:
    """Return what to show of single trainings: the metric, and the learning rate where a schedule moves it."""
    histories = [history for own in trainings.values() for history in own]
    metric = header_of(histories[0]).metric
    moved = any(len(set(_curve(history, Panel("lr")).values())) > 1 for history in histories)
    return [Panel(metric), Panel(metric, "seconds"), *([Panel("lr")] if moved else [])]


def overlay_figures(trainings: Trainings) -> list[tuple[str, str]]:
    """Return the panels as SVG for a page, each with what it shows."""
    styles = styled(trainings)

    def drawn(i: int, panel: Panel) -> str:
        def draw(figure: Figure) -> None:
            _draw(place(figure, 44, 34, PAGE - 44 - 12, 200), trainings, panel, styles)

        return svg(f"curves-{i}", panel.said, PAGE, 280, draw)

    return [(drawn(i, panel), panel.said) for i, panel in enumerate(panels_of(trainings))]


def overlay_png(trainings: Trainings, panels: Sequence[Panel], path: Path) -> None:
    """Write panels side by side, three to a row, below the names of the lines."""
    styles = styled(trainings)
    top, rows, columns = legend(None, styles), math.ceil(len(panels) / 3), min(3, len(panels))
    across = (3 * PANEL + 2 * GAP - (columns - 1) * GAP) // columns

    def draw(figure: Figure) -> None:
        legend(figure, styles)
        for i, panel in enumerate(panels):
            row, column = divmod(i, 3)
            axes = place(figure, LEFT + column * (across + GAP), top + 30 + row * (DOWN + 90), across, DOWN)
            _draw(axes, trainings, panel, styles)

    png(path, WIDTH, top + rows * (DOWN + 90), draw)


def _draw(axes: Axes, trainings: Trainings, panel: Panel, styles: Mapping[str, Style]) -> None:
    curves = [(name, _curve(history, panel)) for name, own in trainings.items() for history in own]
    header = header_of(next(iter(trainings.values()))[0])
    maximize = header.maximize and panel.metric == header.metric
    sign = -1 if maximize else 1
    values = [sign * y for _, curve in curves for y in curve.values()]
    starts = [next(iter(curve.values())) for _, curve in curves if curve]
    if panel.metric == "lr":  # a schedule is known by its shape
        scale = Scale(measure("lr"), 1, False, 0.0, max(values, default=1.0))
    else:
        scale = _whole(Scale.over(values, measure(panel.metric), maximize), [sign * y for y in starts], values)
    for i, (name, curve) in enumerate(curves):
        colour, dash = styles[name]
        heights = [scale.height(sign * y) for y in curve.values()]
        marked, width = ("o", 1.7) if len(trainings[name]) == 1 else ("", 1.0)
        later = {other for other, each in curves[i + 1 :] if other != name and _same(curve, each)}
        width += 2.4 * len(later)  # so that none hides another
        axes.plot(list(curve), heights, color=colour, linestyle=dash, linewidth=width, marker=marked, markersize=2.6)
    scale.apply(axes)
    axes.set_title(scale.title, pad=12)
    if beyond := scale.beyond(values):
        said = f"{beyond} worse, drawn at the edge"
        annotate(axes, said, (1, 0), (0, -32), "axes fraction", ha="right", va="center", size=11)
    ends = [x for _, curve in curves for x in curve if x > 0]
    if panel.across == "seconds" and ends:
        axes.set_xscale("log")
        low, high = min(ends) / 1.15, max(ends) * 1.15
        axes.set_xlim(low, high)
        axes.xaxis.set_major_locator(FixedLocator(round_numbers(low, high)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
        axes.set_xlabel("seconds of training (log scale)", loc="left")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.set_xlabel("epoch", loc="left")


def _whole(scale: Scale, starts: Sequence[float], values: Sequence[float]) -> Scale:
    """Return a scale on which a training is seen from its start; only what is far worse lies beyond."""
    if not starts or not math.isfinite(2 * (start := median(starts))):
        return scale
    bound = start * start / scale.best if scale.log else 2 * start - scale.best
    return replace(scale, worst=max([scale.worst, *(value for value in values if value <= min(bound, LARGEST))]))


def _same(curve: Mapping[float, float], other: Mapping[float, float]) -> bool:
    """Whether one line would hide another."""
    return curve.keys() == other.keys() and all(math.isclose(y, other[x], rel_tol=1e-3) for x, y in curve.items())


def _curve(history: History, panel: Panel) -> dict[float, float]:
    """Return the finite values of a metric by the epoch, or by the seconds of training until its end."""
    (trial,) = history.trials.values()
    epochs = last_epochs(epoch for _, epoch in trial.epochs)
    seconds = accumulate(epochs[number].metrics.get("seconds", 0.0) for number in sorted(epochs))
    across = dict(zip(sorted(epochs), seconds, strict=True))
    found = {number: epochs[number].metrics.get(panel.metric, math.nan) for number in sorted(epochs)}
    return {
        float(number) if panel.across == "epoch" else across[number]: value
        for number, value in found.items()
        if math.isfinite(value)
    }
