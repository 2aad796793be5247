"""Marks that the figures of a study share: the winner's name, crosses for failures, notes above the axes."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from halving.report.canvas import ACCENT, INK, MUTED, PAPER, Scale, link

Path = Sequence[tuple[float, float]]


def crosses(axes: Axes, x: Sequence[float], trials: Sequence[int], scale: Scale) -> None:
    """Mark failed trials, which have no error, by crosses on the edge where the worst would be."""
    edge = 1.0 if scale.sign > 0 else 0.0
    marks = axes.scatter(
        x, [edge] * len(x), s=30, marker="x", color=INK, linewidths=1.1, clip_on=False, zorder=6,
        transform=axes.get_xaxis_transform(),
    )  # fmt: skip
    link(marks, trials)


def lines(axes: Axes, paths: Mapping[int, Path], color: str, linewidth: float, alpha: float) -> None:
    """Draw a line for each trial."""
    drawn = LineCollection(list(paths.values()), colors=color, linewidths=linewidth, alpha=alpha)
    link(drawn, paths)
    axes.add_collection(drawn)


def dots(axes: Axes, points: Sequence[tuple[int, tuple[float, float]]], **style: Any) -> None:
    """Draw a dot for each trial and point."""
    link(axes.scatter(*columns([point for _, point in points]), **style), [trial for trial, _ in points])


def mark_winner(axes: Axes, trial: int, path: Path, text: str, every: bool = False) -> None:
    """Draw the winner's line, dots at `every` point or the last one, and there its name and error."""
    (line,) = axes.plot(*columns(path), color=ACCENT, linewidth=2.2, zorder=5)
    style = {"marker": "o", "markersize": 6, "markeredgecolor": PAPER, "linewidth": 0, "zorder": 6}
    (points,) = axes.plot(*columns(path if every else path[-1:]), color=ACCENT, **style)
    link(line, [trial])
    link(points, [trial])
    annotate(axes, f"trial {trial}\n{text}", path[-1], (9, 0), color=ACCENT, va="center", weight="bold")


def sparse(path: Path, most: int) -> Path:
    """Return at most so many points of a line, or two more: its ends, and lowest and highest of equal parts."""
    if len(path) <= most:
        return path
    bounds = [len(path) * part // (most // 2) for part in range(most // 2 + 1)]
    kept = {0, len(path) - 1}
    for low, high in pairwise(bounds):
        kept |= {end(range(low, high), key=lambda i: path[i][1]) for end in (min, max)}
    return [path[i] for i in sorted(kept)]


def annotate(
    axes: Axes,
    text: str,
    point: tuple[float, float],
    offset: tuple[float, float],
    coordinates: str = "data",
    **style: Any,
) -> None:
    """Write a text at a point, moved by `offset` pixels."""
    style = {"color": MUTED, "xytext": offset, "textcoords": "offset points", "annotation_clip": False} | style
    axes.annotate(text, point, xycoords=coordinates, **style)


def caption(axes: Axes, scale: Scale, errors: Sequence[float], notes: Sequence[str]) -> None:
    """Say above the axes what the vertical axis shows, and what a reader must know of it."""
    beyond = scale.beyond(errors)
    clipped = [f"{beyond} worse than {scale.number(scale.worst)}, drawn there"] if beyond else []
    axes.set_title(scale.title, pad=14)
    annotate(axes, " \N{MIDDLE DOT} ".join((*notes, *clipped)), (1, 1), (84, 14), "axes fraction", ha="right", size=11)


def columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Return the abscissae and the ordinates of points."""
    return [x for x, _ in points], [y for _, y in points]


def blank(axes: Axes, text: str) -> None:
    """Write in place of a figure why there is none."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=MUTED)
