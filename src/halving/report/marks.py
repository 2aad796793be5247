"""Marks that the figures of a study share: the winner's name, crosses for failures, notes above the axes."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from halving.report.canvas import ACCENT, INK, MUTED, Scale
from halving.report.tables import number


def crosses(axes: Axes, x: Sequence[float], scale: Scale) -> None:
    """Mark failed trials, which have no error, by crosses on the edge where the worst would be."""
    edge = 1.0 if scale.sign > 0 else 0.0
    axes.scatter(
        x, [edge] * len(x), s=30, marker="x", color=INK, linewidths=1.1, clip_on=False, zorder=6,
        transform=axes.get_xaxis_transform(),
    )  # fmt: skip


def name_winner(axes: Axes, trial: int, point: tuple[float, float]) -> None:
    """Name the winner and the height of its last point, beside that point."""
    text = f"trial {trial}\n{number(point[1])}"
    annotate(axes, text, point, (9, 0), color=ACCENT, va="center", weight="bold")


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
