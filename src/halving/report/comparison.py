"""The figure of a comparison: incumbents at any time, one colour per method, one row of panels per task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from halving.comparison import Band, Run, band, by_method, by_task, grid, ranks
from halving.report.canvas import HAIR, INK, MUTED, Scale, place, png, svg
from halving.report.tables import number
from halving.tracking.wording import count

COLOURS = ("#0a66c2", "#d9480f", "#2b8a3e", "#862e9c", "#b08900", "#0b7285", "#c2255c", "#495057")
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
WIDTH, ROW, LEFT, GAP = 1080, 290, 56, 60
PANEL = (WIDTH - LEFT - 24 - 2 * GAP) // 3
# The vertical axis holds what methods differ in from this share of the end on; what is worse before lies beyond it.
SHOWN_FROM = 0.2

Style = tuple[str, Any]


def comparison_figure(runs: Sequence[Run], directory: Path) -> tuple[Path, Path]:
    """Write comparison.png and comparison.svg: mean and standard error, median and quartiles, ranks over tasks.

    A line begins where every seed of its method has an incumbent.
    """
    tasks = by_task(runs)
    top = _legend(None, _styles(runs))
    height = top + ROW * (len(tasks) + (len(tasks) > 1))
    files = directory / "comparison.png", directory / "comparison.svg"
    png(files[0], WIDTH, height, lambda figure: _draw(figure, runs))
    drawn = svg("comparison", "Incumbents of each method at any time", WIDTH, height, lambda f: _draw(f, runs))
    files[1].write_text(drawn.replace("<svg", '<svg style="background: white"', 1), encoding="utf-8")
    return files


def _styles(runs: Sequence[Run]) -> dict[str, Style]:
    methods = dict.fromkeys(run.method for run in runs)
    return {m: (COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]) for i, m in enumerate(methods)}


def _draw(figure: Figure, runs: Sequence[Run]) -> None:
    styles = _styles(runs)
    top = _legend(figure, styles) + 26
    tasks = by_task(runs)
    for row, (task, of_task) in enumerate(tasks.items()):
        _draw_task(figure, task if len(tasks) > 1 else "", of_task, styles, top + ROW * row)
    if len(tasks) > 1:
        axes = place(figure, LEFT, top + ROW * len(tasks), 3 * PANEL + 2 * GAP, ROW - 26 - 52)
        _draw_ranks(axes, runs, styles)


def _draw_task(figure: Figure, task: str, runs: Sequence[Run], styles: Mapping[str, Style], top: int) -> None:
    methods = by_method(runs)
    spent = [band(name, list(own.values()), grid(runs, "resource"), "resource") for name, own in methods.items()]
    timed = [band(name, list(own.values()), grid(runs, "seconds"), "seconds") for name, own in methods.items()]
    late = [part[each.x >= SHOWN_FROM * each.x[-1]] for each in spent for part in (each.mean, each.lower, each.upper)]
    metric = runs[0].metric.removeprefix("val_").replace("_", " ")
    scale = Scale.over(map(float, np.concatenate(late)), f"incumbent's {metric}", runs[0].maximize)
    counts = sorted({len(own) for own in methods.values()})
    seeds = f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    clock, divisor = _clock(timed[0].x[-1])
    columns = (
        (f"{task}: {scale.title}" if task else scale.title, INK, spent, 1, f"{runs[0].unit} spent by all trials"),
        (f"left and here: mean and standard error, {seeds}", MUTED, timed, divisor, clock),
        ("median and quartiles", MUTED, spent, 1, f"{runs[0].unit} spent by all trials"),
    )
    for column, (title, colour, bands, unit, label) in enumerate(columns):
        axes = place(figure, LEFT + column * (PANEL + GAP), top, PANEL, ROW - 26 - 52)
        for each in bands:
            _draw_band(axes, each, unit, scale, styles[each.method], quartiles=column == 2)
        scale.apply(axes)
        axes.set_xlim(0, bands[0].x[-1] / unit * 1.01)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axes.set_xlabel(label, loc="left")
        axes.set_title(title, pad=12, color=colour, fontsize=12 if colour == INK else 11)


def _draw_band(axes: Axes, each: Band, unit: float, scale: Scale, style: Style, quartiles: bool) -> None:
    error = np.nan_to_num(each.standard_error)
    middle = each.median if quartiles else each.mean
    low, high = (each.lower, each.upper) if quartiles else (each.mean - error, each.mean + error)
    shown = np.isfinite(middle)
    x = each.x[shown] / unit
    colour, dash = style
    axes.fill_between(
        x, scale.sign * low[shown], scale.sign * high[shown], color=colour, alpha=0.13, linewidth=0, step="post"
    )
    axes.step(x, scale.sign * middle[shown], where="post", color=colour, linestyle=dash, linewidth=1.7)


def _clock(seconds: float) -> tuple[str, int]:
    return ("hours", 3600) if seconds > 7200 else ("minutes", 60) if seconds > 300 else ("seconds", 1)


def _draw_ranks(axes: Axes, runs: Sequence[Run], styles: Mapping[str, Style]) -> None:
    fractions = np.linspace(0.02, 1.0, 99)
    found = ranks(runs, fractions)
    for method, (mean, error) in found.items():
        colour, dash = styles[method]
        axes.fill_between(fractions, mean - error, mean + error, color=colour, alpha=0.08, linewidth=0)
        axes.plot(fractions, mean, color=colour, linestyle=dash, linewidth=1.7)
    axes.set_ylim(max(2, len(found)) + 0.2, 0.8)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    axes.set_xlim(0.0, 1.01)
    axes.grid(axis="y", color=HAIR, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=3)
    axes.set_title(f"mean rank over {count(len(by_task(runs)), 'tasks')}, 1 the best, and its standard error", pad=12)
    axes.set_xlabel("of the resource that every study has spent", loc="left")


def _legend(figure: Figure | None, styles: Mapping[str, Style]) -> int:
    """Name the methods above the panels, in as many lines as they need; return the height that takes."""
    places: list[tuple[float, int]] = []
    left, line = float(LEFT), 22
    for method in styles:
        needed = 36 + 6.8 * len(method) + 22
        if left + needed > WIDTH and left > LEFT:
            left, line = float(LEFT), line + 20
        places.append((left, line))
        left += needed
    height = line + 22
    if figure is not None:
        axes = place(figure, 0, 0, WIDTH, height)
        axes.set_axis_off()
        axes.set_xlim(0, WIDTH)
        axes.set_ylim(height, 0)
        for (left, line), (method, (colour, dash)) in zip(places, styles.items(), strict=True):
            axes.plot([left, left + 26], [line, line], color=colour, linestyle=dash, linewidth=2.2)
            axes.text(left + 33, line, method, va="center", color=INK)
    return height
