"""A small panel for each dimension of a one-at-a-time study."""

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from halving.history import History
from halving.report.canvas import ACCENT, INK, MUTED, PAPER, Scale, link, place
from halving.report.dimensions import COLUMNS, lettered, positions, tail
from halving.report.marks import blank, crosses, dots
from halving.report.sensitivity import Effect, Point, Sensitivity, sensitivity, value_text, verdict
from halving.report.tables import header_of, real
from halving.tracking.wording import metric_label, short

TOP, ROW = 30, 240
_FEW = 4  # values that have room for their names below an axis


def height(history: History) -> int:
    """Return how high the figure is, in pixels."""
    found = sensitivity(history)
    return TOP + ROW * max(1, math.ceil(len(found.effects) / COLUMNS) if found else 1)


def draw_sensitivity(figure: Figure, history: History) -> None:
    """Draw a panel for each dimension over one axis of errors: every seed, the means, and what is noise."""
    header, found = header_of(history), sensitivity(history)
    across, down = (float(inches * 72) for inches in figure.get_size_inches())
    survived = [error for point in _points(found) for error in point.survived]
    if found is None or not survived:
        blank(place(figure, 0, 0, across, down), "no trial has survived" if found else "the base has no error yet")
        return
    scale = Scale.over(survived, metric_label(header), header.maximize, found.noise)
    step = (across - 48 - 20) / COLUMNS
    titles = short(effect.dimension for effect in found.effects)
    for i, effect in enumerate(found.effects):
        axes = place(figure, 48 + i % COLUMNS * step, 82 + i // COLUMNS * ROW, step - 42, 150)
        _draw_effect(axes, effect, scale)
        strong: dict[str, Any] = {"weight": "bold", "color": INK} if effect.matters else {"color": MUTED}
        axes.set_title(tail(lettered(titles[effect.dimension]), 30), pad=26, **strong)
        axes.annotate(
            tail(verdict(effect), 34), (0, 1), (0, 12), "axes fraction", "offset points", color=MUTED, size=11
        )
        axes.tick_params(axis="y", labelleft=i % COLUMNS == 0)
    _legend(figure, scale, found)


def _points(found: Sensitivity | None) -> list[Point]:
    return [point for effect in found.effects for point in effect.points] if found is not None else []


def _draw_effect(axes: Axes, effect: Effect, scale: Scale) -> None:
    each = [
        (point, error, trial)
        for point in effect.points
        for error, trial in zip(point.errors, point.trials, strict=True)
    ]
    numbers = all(real(point.value) is not None for point in effect.points)
    values = [point.value for point in effect.points]
    if numbers:  # to scale, however few
        middles = dict(zip(map(id, effect.points), positions(axes, values), strict=True))
        places = [middles[id(point)] for point, *_ in each]
        if len(values) <= _FEW:
            axes.set_xticks(list(middles.values()), list(map(value_text, values)))
    else:
        places = positions(axes, [point.value for point, *_ in each])
        middles = {id(point): round(x) for (point, *_), x in zip(each, places, strict=True)}
    scale.apply(axes)
    if math.isfinite(effect.limit) and effect.base.complete:
        ends = (scale.height(effect.base.mean + sign * effect.limit) for sign in (-1, 1))
        axes.axhspan(*ends, color=ACCENT, alpha=0.13, linewidth=0, zorder=1)
    drawn = [(trial, x, error) for (_, error, trial), x in zip(each, places, strict=True)]
    seen = [(trial, (x, scale.height(error))) for trial, x, error in drawn if math.isfinite(error)]
    dots(axes, seen, s=16, color=MUTED, alpha=0.6, linewidths=0, zorder=3)
    lost = [(x, trial) for trial, x, error in drawn if not math.isfinite(error)]
    crosses(axes, [x for x, _ in lost], [trial for _, trial in lost], scale)
    means = [(middles[id(point)], scale.height(point.mean)) for point in effect.points if point.survived]
    if numbers:
        axes.plot(*zip(*means, strict=True), color=ACCENT, linewidth=1.6, zorder=4)
    marks = axes.scatter(*zip(*means, strict=True), s=30, color=ACCENT, edgecolors=PAPER, linewidths=0.6, zorder=5)
    link(marks, [point.trials[0] for point in effect.points if point.survived])
    if effect.base.survived:
        ring = {"s": 84, "facecolors": "none", "edgecolors": INK, "linewidths": 1.3, "zorder": 6}
        axes.scatter(middles[id(effect.base)], scale.height(effect.base.mean), **ring)


def _legend(figure: Figure, scale: Scale, found: Sensitivity) -> None:
    axes = place(figure, 0, 0, float(figure.get_size_inches()[0] * 72), TOP)
    axes.set_axis_off()
    beyond = scale.beyond(error for point in _points(found) for error in point.survived)
    words = [
        scale.title,
        "grey: one seed each",
        "blue: their mean",
        "ring: the base",
        *(["band: as far from it as seeds alone put a mean"] if found.seeds > 1 else []),
        *(["\N{MULTIPLICATION SIGN} failed"] if any(point.failed for point in _points(found)) else []),
        *([f"{beyond} worse than {scale.number(scale.worst)}, drawn there"] if beyond else []),
    ]
    axes.text(
        14 / float(figure.get_size_inches()[0] * 72), 0.5, " \N{MIDDLE DOT} ".join(words), color=MUTED, va="center"
    )
