"""Learning curves over the time on the clock: what was known when, and who waited."""

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from halving.history import History
from halving.report.canvas import FAINT, MUTED, Scale, place
from halving.report.learning_curves import by_time
from halving.report.marks import blank, caption, dots, lines, mark_winner, sparse
from halving.report.tables import time_unit, uncertainty, winner
from halving.tracking.wording import number

MOST = 20_000  # points of all curves together


def draw_over_time(figure: Figure, history: History) -> None:
    """Draw each trial's error when each epoch ended; a long straight stretch is a pause."""
    across, down = (float(inches * 72) for inches in figure.get_size_inches())
    axes = place(figure, 48, 40, across - 48 - 92, down - 40 - 50)
    label, maximize, curves = by_time(history)
    if not curves or history.seconds <= 0:
        blank(axes, "no learning curves were recorded")
        return
    scale = Scale.over((y for curve in curves.values() for _, y in curve), label, maximize, uncertainty(history))
    scale.apply(axes)
    unit, divisor = time_unit(history.seconds)
    most = max(10, MOST // len(curves))
    drawn = {trial: [(x / divisor, scale.height(y)) for x, y in sparse(curve, most)] for trial, curve in curves.items()}
    best = winner(history)
    lines(axes, drawn, color=FAINT, linewidth=0.9, alpha=0.8)
    dots(axes, [(trial, point) for trial, line in drawn.items() for point in line], s=8, color=MUTED, linewidths=0)
    if best is not None and (line := drawn.get(best[0].trial)):
        mark_winner(axes, best[0].trial, line, scale.number(scale.sign * line[-1][1]), every=True)
    axes.set_xlim(0, history.seconds / divisor * 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.set_xlabel(f"{unit} since the start", loc="left")
    caption(axes, scale, [y for curve in curves.values() for _, y in curve], [])
