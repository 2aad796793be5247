"""The time line of a study: what ran when, and when workers were idle."""

from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from halving.history import History
from halving.report.canvas import ACCENT, HAIR, INK, MUTED, PAPER, link, place
from halving.report.marks import annotate, blank
from halving.report.tables import header_of, time_unit, winner
from halving.report.workers import Bar, bars, workers

_TALLEST, _ALL = 18, 320  # pixels of a lane, and of all of them together


def height(history: History) -> int:
    """Return how many pixels the figure takes."""
    return 30 + min(_ALL, _TALLEST * max(1, workers(history, bars(history)))) + 50


def draw_timeline(figure: Figure, history: History) -> None:
    """Draw a lane for each worker: on it the evaluations, failures and restarts marked; what is empty was idle."""
    across, down = (float(inches * 72) for inches in figure.get_size_inches())
    axes = place(figure, 48, 30, across - 48 - 20, down - 80)
    drawn, best = bars(history), winner(history)
    if not drawn or history.seconds <= 0:
        blank(axes, "nothing has run yet")
        return
    count = workers(history, drawn)
    unit, divisor = time_unit(history.seconds)
    end = history.seconds / divisor
    axes.set_xlim(0, end)
    axes.set_ylim(count, 0)
    axes.hlines([lane + 0.5 for lane in range(count)], 0, end, color=HAIR, linewidth=min(3, _ALL / count / 6))
    won = best[0].trial if best else None
    failed = [bar for bar in drawn if bar.failed]
    for colour, own in ((MUTED, False), (ACCENT, True)):
        for confirms in (False, True):
            here = [bar for bar in drawn if (bar.trial == won, bar.confirms) == (own, confirms) and not bar.failed]
            _fill(axes, here, divisor, *((PAPER, colour) if confirms else (colour, PAPER)))
    _fill(axes, failed, divisor, INK, PAPER)
    _mark(axes, [(bar.ended / divisor, bar.lane, bar.trial) for bar in failed], "x", INK)
    again = [(at / divisor, bar.lane, bar.trial) for bar in drawn for at in bar.restarted]
    _mark(axes, again, "<", PAPER, INK)
    axes.set_yticks([0.5, count - 0.5] if count > 1 else [0.5], ["1", str(count)] if count > 1 else ["1"])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.set_xlabel(f"{unit} since the start", loc="left")
    together = header_of(history).provenance.batch > 1
    axes.set_title("trials at a time" if together else "worker", pad=8)
    notes = ["hollow: confirmation"] * any(bar.confirms for bar in drawn)
    notes += ["\N{MULTIPLICATION SIGN} failed"] * bool(failed)
    notes += ["\N{BLACK LEFT-POINTING TRIANGLE} began again"] * bool(again)
    annotate(
        axes, " \N{MIDDLE DOT} ".join(["thin: idle", *notes]), (1, 1), (0, 8), "axes fraction", ha="right", size=11
    )


def _fill(axes: Axes, here: Sequence[Bar], divisor: float, face: str, edge: str) -> None:
    """Draw bars, each at least one pixel wide."""
    least = axes.get_xlim()[1] / (axes.bbox.width or 1)
    boxes: list[list[tuple[float, float]]] = []
    for bar in here:
        left, low, high = bar.started / divisor, bar.lane + 0.14, bar.lane + 0.86
        right = max(bar.ended / divisor, left + least)
        boxes.append([(left, low), (right, low), (right, high), (left, high)])
    shapes = PolyCollection(
        boxes, facecolors=face, edgecolors=edge, linewidths=min(0.8, _ALL / axes.get_ylim()[0] / 10), zorder=3
    )
    link(shapes, [bar.trial for bar in here])
    axes.add_collection(shapes)


def _mark(
    axes: Axes, points: Iterable[tuple[float, int, int]], marker: str, face: str, edge: str | None = None
) -> None:
    """Mark moments on lanes, above the bars."""
    found = list(points)
    x, y = [at for at, _, _ in found], [lane + 0.5 for _, lane, _ in found]
    dots = axes.scatter(
        x, y, marker=marker, s=30, facecolors=face, edgecolors=edge, linewidths=1.1, zorder=5, clip_on=False
    )
    link(dots, [trial for _, _, trial in found])
