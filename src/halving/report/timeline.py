"""When which evaluations ran, and what workers did meanwhile."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from halving.history import Evaluation, History, Trial
from halving.report.canvas import ACCENT, HAIR, INK, MUTED, PAPER, link, place
from halving.report.marks import annotate, blank
from halving.report.tables import header_of, time_unit, winner

_TALLEST, _ALL = 18, 320  # pixels of a lane, and of all of them together


@dataclass(frozen=True)
class Bar:
    """An evaluation on its lane, in seconds since the start."""

    lane: int
    trial: Trial
    evaluation: Evaluation
    end: float


def bars(history: History) -> list[Bar]:
    """Lay each evaluation on the first lane that was free: a journal tells when something ran, not which worker did it.

    One that is still running, or was cut off, lasts until the study's last event.
    """
    free: list[float] = []
    found: list[Bar] = []
    each = [(trial, evaluation) for trial in history.trials.values() for evaluation in trial.evaluations]
    for trial, evaluation in sorted(each, key=lambda pair: (pair[1].started, pair[0].trial)):
        end = max(evaluation.ended if evaluation.finished is not None else history.seconds, evaluation.started)
        lane = next((lane for lane, since in enumerate(free) if since <= evaluation.started), len(free))
        free[lane : lane + 1] = [end]
        found.append(Bar(lane, trial, evaluation, end))
    return found


def workers(history: History, drawn: Sequence[Bar]) -> int:
    """Return how many workers there were: as many as were set, and at least as many as were busy at once."""
    executor = header_of(history).settings.get("config", {}).get("executor", {})
    asked = executor.get("workers") if isinstance(executor, dict) else None
    return max(
        [bar.lane + 1 for bar in drawn] + ([asked] if isinstance(asked, int) and asked <= 1000 else []), default=0
    )


def busy(history: History) -> str:
    """Say how many workers there were and how much of their time they were busy; nothing where that is not known."""
    drawn = bars(history)
    count = workers(history, drawn)
    if not count or history.seconds <= 0:
        return ""
    share = sum(bar.end - bar.evaluation.started for bar in drawn) / (count * history.seconds)
    return (
        f"{'The one worker was' if count == 1 else f'The {count} workers were'} busy {min(share, 1):.0%} of the time."
    )


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
    for lane in range(count):
        axes.fill_between([0, end], lane + 0.42, lane + 0.58, color=HAIR, linewidth=0)
    won = best[0].trial if best else None
    failed = [bar for bar in drawn if bar.evaluation.finished is not None and not math.isfinite(bar.evaluation.error)]
    kinds = (
        (MUTED, 0.75, [bar for bar in drawn if bar.trial.trial != won and bar not in failed]),
        (ACCENT, 1.0, [bar for bar in drawn if bar.trial.trial == won and bar not in failed]),
        (INK, 1.0, failed),
    )
    for colour, alpha, here in kinds:
        boxes = [_box(bar, divisor, end / (across - 68)) for bar in here]
        shapes = PolyCollection(boxes, facecolors=colour, alpha=alpha, edgecolors=PAPER, linewidths=0.6, zorder=3)
        link(shapes, [bar.trial.trial for bar in here])
        axes.add_collection(shapes)
    _mark(axes, [(bar.end / divisor, bar.lane, bar.trial.trial) for bar in failed], "x", INK)
    again = [(at / divisor, bar.lane, bar.trial.trial) for bar in drawn for at in bar.evaluation.restarted]
    _mark(axes, again, "<", ACCENT)
    axes.set_yticks([0.5, count - 0.5] if count > 1 else [0.5], ["1", str(count)] if count > 1 else ["1"])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.set_xlabel(f"{unit} since the start", loc="left")
    axes.set_title("worker", pad=8)
    notes = ["\N{MULTIPLICATION SIGN} failed"] * bool(failed)
    notes += ["\N{BLACK LEFT-POINTING TRIANGLE} began again"] * bool(again)
    annotate(
        axes, " \N{MIDDLE DOT} ".join(["thin: idle", *notes]), (1, 1), (0, 8), "axes fraction", ha="right", size=11
    )


def _box(bar: Bar, divisor: float, least: float) -> list[tuple[float, float]]:
    left, low, high = bar.evaluation.started / divisor, bar.lane + 0.14, bar.lane + 0.86
    right = max(bar.end / divisor, left + least)  # one pixel
    return [(left, low), (right, low), (right, high), (left, high)]


def _mark(axes: Axes, points: Iterable[tuple[float, int, int]], marker: str, colour: str) -> None:
    """Mark moments on lanes, at their upper edge where a bar does not hide them."""
    found = list(points)
    x, y = [at for at, _, _ in found], [lane + 0.5 for _, lane, _ in found]
    dots = axes.scatter(x, y, marker=marker, s=26, color=colour, linewidths=1.1, zorder=5, clip_on=False)
    link(dots, [trial for _, _, trial in found])
