"""What the best trials came to with fresh seeds, drawn beside what the study had measured."""

import math

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from halving.history import Header, History
from halving.report.canvas import ACCENT, HAIR, INK, MUTED, PAPER, link, place
from halving.report.confirmation import Row, mean_text, reviewed
from halving.report.marks import annotate, blank
from halving.report.tables import header_of
from halving.tracking.wording import metric_label, number


def draw_confirmations(figure: Figure, history: History) -> None:
    """Draw a line for each trial, the best mean on top: its seeds, their mean and its interval."""
    header, review = header_of(history), reviewed(history)
    across, down = (float(inches * 72) for inches in figure.get_size_inches())
    axes = place(figure, 78, 36, across - 78 - 150, down - 92)
    if review is None or not any(row.errors for row in review.rows):
        blank(axes, "no confirmation has come to an error yet")
        return
    sign = header.sign
    axes.set_ylim(len(review.rows) - 0.4, -0.6)
    axes.grid(axis="x", color=HAIR, linewidth=0.6)
    axes.set_axisbelow(True)
    for height, row in enumerate(review.rows):
        colour = ACCENT if row.trial == review.chosen else MUTED
        seeds = axes.scatter([sign * error for error in row.errors], [height] * len(row.errors), s=22, color=colour,
                             alpha=0.55, linewidths=0, zorder=4)  # fmt: skip
        link(seeds, [row.trial] * len(row.errors))
        if row.curse is not None:
            style = {"s": 58, "facecolors": "none", "edgecolors": INK, "linewidths": 1.2, "zorder": 3}
            axes.scatter([sign * row.study_error], [height], **style)
        if math.isfinite(row.low) and math.isfinite(row.high):
            (bar,) = axes.plot(
                [sign * row.low, sign * row.high], [height, height], color=colour, linewidth=2.2, zorder=2
            )
            link(bar, [row.trial])
        if math.isfinite(row.mean):
            style = {"s": 46, "marker": "D", "color": colour, "edgecolors": PAPER, "zorder": 5}
            link(axes.scatter([sign * row.mean], [height], **style), [row.trial])
        axes.annotate(
            _words(row, header), (1, height), (12, 0), axes.get_yaxis_transform(), "offset points", va="center",
            color=colour, annotation_clip=False,
        )  # fmt: skip
    axes.set_yticks(range(len(review.rows)), [f"trial {row.trial}" for row in review.rows])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.set_xlabel(metric_label(header), loc="left")
    annotate(
        axes, "ring: in the study \N{MIDDLE DOT} diamond: mean", (1, 1), (0, 10), "axes fraction", ha="right", size=11
    )


def _words(row: Row, header: Header) -> str:
    if row.failed or not row.errors:
        return f"{row.failed} failed" if row.failed else "running"
    return mean_text(header, row)
