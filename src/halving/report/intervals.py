"""Means with their intervals, one below the other."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from halving.report.canvas import ACCENT, FAINT, HAIR, INK, place, png
from halving.report.confirmation import Row
from halving.tracking.wording import number

WIDTH, LEFT, ROW = 720, 150, 34


def intervals_png(rows: Mapping[str, Row], label: str, path: Path) -> None:
    """Write each mean over fresh seeds, the seeds as dots and the 95 % t interval as a bar, the least mean on top."""
    ordered = sorted(rows.items(), key=lambda item: item[1].mean)
    png(path, WIDTH, 40 + ROW * len(ordered) + 50, lambda figure: _draw(figure, ordered, label))


def _draw(figure: Figure, rows: Sequence[tuple[str, Row]], label: str) -> None:
    axes = place(figure, LEFT, 34, WIDTH - LEFT - 30, ROW * len(rows))
    for at, (_, row) in enumerate(rows):
        axes.plot([row.low, row.high], [at, at], color=INK, linewidth=1.4)
        axes.scatter(row.errors, [at] * len(row.errors), s=18, color=FAINT, linewidths=0, zorder=3)
        axes.scatter([row.mean], [at], s=44, color=ACCENT, linewidths=0, zorder=4)
    errors = [error for _, row in rows for error in row.errors]
    room = max(errors, default=0.0) - min(errors, default=0.0)
    if room > 0:  # an interval of two seeds is wider than all that there is to see
        ends = [end for _, row in rows for end in (row.low, row.high, *row.errors) if math.isfinite(end)]
        low, high = max(min(ends), min(errors) - room), min(max(ends), max(errors) + room)
        axes.set_xlim(low - 0.03 * (high - low), high + 0.03 * (high - low))
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=HAIR, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.set_title(f"{label}: mean over fresh seeds, and its 95 % interval", pad=10)
