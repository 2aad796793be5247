"""The figures of a comparison: incumbents at any time, one colour per method, paired differences, ranks."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from halving.comparison import Band, Pair, Run, band, by_method, by_task, grid, ranks
from halving.report.canvas import FAINT, HAIR, INK, MUTED, Scale, place, png, svg
from halving.report.derived import replace
from halving.report.tables import time_unit
from halving.tracking.wording import count, cut, number

COLOURS = ("#0a66c2", "#d9480f", "#2b8a3e", "#862e9c", "#b08900", "#0b7285", "#c2255c", "#495057")
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
WIDTH, ROW, LEFT, GAP = 1080, 290, 56, 60
PANEL = (WIDTH - LEFT - 24 - 2 * GAP) // 3
PAGE = 360  # the width of a figure on a page, and of a phone
# The vertical axis holds what methods differ in from this share of the end on; what is worse before lies beyond it.
SHOWN_FROM = 0.2

Style = tuple[str, Any]


def comparison_figure(runs: Sequence[Run], directory: Path) -> tuple[Path, Path]:
    """Write comparison.png and comparison.svg: mean and standard error, median and quartiles, ranks over tasks.

    A line begins where every seed of its method has an incumbent.
    """
    tasks = by_task(runs)
    top = legend(None, styles_of(runs))
    height = top + ROW * (len(tasks) + (len(tasks) > 1))
    files = directory / "comparison.png", directory / "comparison.svg"
    png(files[0], WIDTH, height, lambda figure: _draw(figure, runs))
    drawn = svg("comparison", "Incumbents of each method at any time", WIDTH, height, lambda f: _draw(f, runs))
    replace(files[1], drawn.replace("<svg", '<svg style="background: white"', 1))
    return files


def task_figures(name: str, runs: Sequence[Run], styles: Mapping[str, Style]) -> list[tuple[str, str]]:
    """Return the panels of a task as SVG for a page, each with what it shows."""
    scale, panels = _panels(runs)
    figures: list[tuple[str, str]] = []
    for i, panel in enumerate(panels):

        def draw(figure: Figure, panel: _Panel = panel) -> None:
            axes = place(figure, 44, 34, PAGE - 44 - 12, 200)
            panel.draw(axes, scale, styles)
            axes.set_title(scale.title, pad=12)

        said = f"{panel.title[0].upper()}{panel.title[1:]} over seeds, by {panel.across}"
        figures.append((svg(f"{name}-{i}", f"{scale.title}: {said}", PAGE, 280, draw), said))
    return figures


def ranks_figure(runs: Sequence[Run], styles: Mapping[str, Style]) -> list[tuple[str, str]]:
    """Return the mean ranks of methods as SVG for a page, with what it shows."""

    def draw(figure: Figure) -> None:
        axes = place(figure, 44, 34, PAGE - 44 - 12, 200)
        _draw_ranks(axes, runs, styles)
        axes.set_title("mean rank, 1 the best", pad=12)

    said = "Mean rank of each method, and its standard error, as the resource is spent"
    return [(svg("ranks", said, PAGE, 280, draw), said)]


def differences_figure(name: str, tested: Sequence[Pair], sign: int, metric: str) -> list[tuple[str, str]]:
    """Return the differences of each pair of methods, seed by seed, and their medians, as SVG with what it shows."""
    height = 40 + 38 * len(tested) + 34

    def draw(figure: Figure) -> None:
        axes = place(figure, 12, 10, PAGE - 24, height - 10 - 44)
        for row, pair in enumerate(tested):
            found = [sign * each for each in pair.differences if math.isfinite(each)]
            axes.scatter(found, [row] * len(found), s=26, color=FAINT, alpha=0.7, linewidths=0)
            if abs(pair.difference) < 1e300:
                axes.plot([sign * pair.difference] * 2, [row - 0.22, row + 0.22], color=INK, linewidth=2)
            text = cut(f"{pair.first} \N{MINUS SIGN} {pair.second}", 52)
            axes.text(0, row - 0.32, text, color=MUTED, size=11, transform=axes.get_yaxis_transform())
        axes.axvline(0, color=FAINT, linewidth=0.8, zorder=0)
        axes.set_ylim(len(tested) - 0.5, -0.85)
        axes.yaxis.set_visible(False)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axes.tick_params(length=3)
        axes.set_xlabel(f"difference in {metric}", loc="left")

    said = "Differences between every two methods on the same seed; a line is their median"
    return [(svg(name, said, PAGE, height, draw), said)]


def styles_of(runs: Iterable[Run]) -> dict[str, Style]:
    """Return the colour and the dashes of each method, the same in all figures."""
    return styled(run.method for run in runs)


def styled(names: Iterable[str]) -> dict[str, Style]:
    """Return a colour and dashes for each name, in the order given."""
    each = enumerate(dict.fromkeys(names))
    return {name: (COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]) for i, name in each}


def _draw(figure: Figure, runs: Sequence[Run]) -> None:
    styles = styles_of(runs)
    top = legend(figure, styles) + 26
    tasks = by_task(runs)
    for row, (task, of_task) in enumerate(tasks.items()):
        _draw_task(figure, task if len(tasks) > 1 else "", of_task, styles, top + ROW * row)
    if len(tasks) > 1:
        axes = place(figure, LEFT, top + ROW * len(tasks), 3 * PANEL + 2 * GAP, ROW - 26 - 52)
        _draw_ranks(axes, runs, styles)


def _panels(runs: Sequence[Run]) -> tuple[Scale, Sequence["_Panel"]]:
    methods = by_method(runs)
    spent = [band(name, list(own.values()), grid(runs, "resource"), "resource") for name, own in methods.items()]
    timed = [band(name, list(own.values()), grid(runs, "seconds"), "seconds") for name, own in methods.items()]
    late = [part[each.x >= SHOWN_FROM * each.x[-1]] for each in spent for part in (each.mean, each.lower, each.upper)]
    metric = runs[0].metric.removeprefix("val_").replace("_", " ")
    scale = Scale.over(map(float, np.concatenate(late)), f"incumbent's {metric}", runs[0].maximize)
    clock, divisor = time_unit(timed[0].x[-1])
    across = f"{runs[0].unit} spent by all trials"
    return scale, (
        _Panel("mean and standard error", spent, 1, across),
        _Panel("mean and standard error", timed, divisor, clock),
        _Panel("median and quartiles", spent, 1, across, quartiles=True),
    )


def _draw_task(figure: Figure, task: str, runs: Sequence[Run], styles: Mapping[str, Style], top: int) -> None:
    scale, panels = _panels(runs)
    counts = sorted({len(own) for own in by_method(runs).values()})
    seeds = f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    title = f"{task}: {scale.title}" if task else scale.title
    titles = (title, f"left and here: mean and standard error, {seeds}", "median and quartiles")
    for column, (panel, said) in enumerate(zip(panels, titles, strict=True)):
        axes = place(figure, LEFT + column * (PANEL + GAP), top, PANEL, ROW - 26 - 52)
        panel.draw(axes, scale, styles)
        axes.set_title(said, pad=12, color=MUTED if column else INK, fontsize=11 if column else 12)


@dataclass(frozen=True)
class _Panel:
    """Bands over what is spent, in `unit`s of their x."""

    title: str
    bands: Sequence[Band]
    unit: int
    across: str
    quartiles: bool = False

    def draw(self, axes: Axes, scale: Scale, styles: Mapping[str, Style]) -> None:
        for each in self.bands:
            _draw_band(axes, each, self.unit, scale, styles[each.method], self.quartiles)
        scale.apply(axes)
        axes.set_xlim(0, self.bands[0].x[-1] / self.unit * 1.01)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axes.set_xlabel(self.across, loc="left")


def _draw_band(axes: Axes, each: Band, unit: float, scale: Scale, style: Style, quartiles: bool) -> None:
    error = np.nan_to_num(each.standard_error)
    middle = each.median if quartiles else each.mean
    low, high = (each.lower, each.upper) if quartiles else (each.mean - error, each.mean + error)
    steps = np.array([middle, low, high])[:, np.isfinite(middle)]
    # A step is drawn where it begins, and the last one to its end.
    kept = np.append(True, (np.diff(steps) != 0).any(axis=0))[: steps.shape[1]]
    kept[-1:] = True
    x = each.x[np.isfinite(middle)][kept] / unit
    middle, low, high = scale.sign * steps[:, kept]
    colour, dash = style
    axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0, step="post")
    axes.step(x, middle, where="post", color=colour, linestyle=dash, linewidth=1.7)


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


def legend(figure: Figure | None, styles: Mapping[str, Style]) -> int:
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
