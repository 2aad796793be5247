"""Which evaluations ran side by side, and how busy workers were."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from halving.history import History
from halving.report.tables import header_of


@dataclass(frozen=True)
class Bar:
    """Something that ran, on its lane, in seconds since the start; `restarted` are the moments when it began anew."""

    lane: int
    trial: int
    started: float
    ended: float
    failed: bool
    restarted: tuple[float, ...] = ()
    confirms: bool = False


def bars(history: History) -> list[Bar]:
    """Lay all that ran on the first lane that was free: a journal tells when it ran, not which worker did it.

    What is still running, or was cut off, lasts until the study's last event.
    """
    found = [
        Bar(0, trial.trial, each.started, each.ended if each.finished else history.seconds,
            each.finished is not None and math.isinf(each.error), tuple(each.restarted))
        for trial in history.trials.values()
        for each in trial.evaluations
    ]  # fmt: skip
    found += [
        Bar(0, each.asked.trial, each.started, each.ended if each.confirmed else history.seconds,
            each.confirmed is not None and math.isinf(each.confirmed.error), confirms=True)
        for each in history.confirmations.values()
    ]  # fmt: skip
    free: list[float] = []
    laid: list[Bar] = []
    for bar in sorted(found, key=lambda bar: (bar.started, bar.trial)):
        lane = next((lane for lane, since in enumerate(free) if since <= bar.started), len(free))
        free[lane : lane + 1] = [max(bar.ended, bar.started)]
        laid.append(replace(bar, lane=lane))
    return laid


def workers(history: History, drawn: Sequence[Bar]) -> int:
    """Return how many workers there were: as many as were set, and at least as many as were busy at once."""
    at_once = max((bar.lane + 1 for bar in drawn), default=0)
    match header_of(history).settings.get("config"):
        case {"executor": {"workers": int(asked)}} if asked <= 1000:
            return max(at_once, asked)
        case _:
            return at_once


def idle(history: History) -> float | None:
    """Return the share of the workers' time in which they had nothing to do; None where that is not known.

    Of those that train many trials at a time it is what no trial counts as its share.
    """
    count, spent = _busy(history)
    if not count or history.seconds <= 0:
        return None
    return max(0.0, 1 - spent / (count * history.seconds))


def busy(history: History) -> str:
    """Say how many workers there were and how much of their time they were busy; nothing where that is not known."""
    if (share := idle(history)) is None:
        return ""
    count, _ = _busy(history)
    who = "The one worker was" if count == 1 else f"The {count} workers were"
    return f"{who} busy {100 * (1 - share):.0f} % of the time."


def _busy(history: History) -> tuple[int, float]:
    """Return how many workers there were, and the seconds in which they had something to do, of all together."""
    match header_of(history).settings:
        case {"workers": int(count), "batch": int(batch)} if batch > 1:
            again = [each.confirmed.seconds for each in history.confirmations.values() if each.confirmed is not None]
            return count, history.train_seconds + sum(again)
        case _:
            drawn = bars(history)
            return workers(history, drawn), sum(bar.ended - bar.started for bar in drawn)
