"""Which evaluations ran side by side, and how busy workers were."""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from halving.history import History
from halving.provenance import Provenance
from halving.report.tables import header_of
from halving.tracking.wording import come_and_go


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
    free, taken, laid = list[int](), list[tuple[float, int]](), list[Bar]()
    for bar in sorted(found, key=lambda bar: (bar.started, bar.trial)):
        while taken and taken[0][0] <= bar.started:
            heapq.heappush(free, heapq.heappop(taken)[1])
        lane = heapq.heappop(free) if free else len(taken)
        heapq.heappush(taken, (max(bar.ended, bar.started), lane))
        laid.append(replace(bar, lane=lane))
    return laid


def workers(history: History, drawn: Sequence[Bar]) -> int:
    """Return how many workers there were: as many as were set, and at least as many as were busy at once.

    On other machines they come and go, and what was set is only what was asked for.
    """
    at_once = max((bar.lane + 1 for bar in drawn), default=0)
    match header_of(history).provenance.config:
        case {"executor": {"workers": int(asked)}} if asked <= 1000 and not come_and_go(header_of(history)):
            return max(at_once, asked)
        case _:
            return at_once


def idle(history: History) -> float | None:
    """Return the share of the workers' time in which they had nothing to do; None where that is not known.

    Of those that train many trials at a time it is what no trial counts as its share. Where workers come and go, their
    time is that from the first to the last thing on each lane.
    """
    _, spent, there = _busy(history)
    return max(0.0, 1 - spent / there) if there > 0 else None


def busy(history: History) -> str:
    """Say how many workers there were and how much of their time they were busy; nothing where that is not known."""
    count, spent, there = _busy(history)
    if there <= 0:
        return ""
    who = "The one worker was" if count == 1 else f"The {count} workers were"
    return f"{who} busy {100 * min(1.0, spent / there):.0f} % of the time."


def _busy(history: History) -> tuple[int, float, float]:
    """Return how many workers there were, and the seconds that they had something to do, and were there, together."""
    header, drawn = header_of(history), bars(history)
    count = workers(history, drawn)
    spent = sum(bar.ended - bar.started for bar in drawn)
    match header.provenance:
        case Provenance(workers=int(count), batch=int(batch)) if batch > 1:
            again = [each.confirmed.seconds for each in history.confirmations.values() if each.confirmed is not None]
            return count, history.train_seconds + sum(again), count * history.seconds
        case _ if come_and_go(header):
            first, last = {bar.lane: bar.started for bar in reversed(drawn)}, {bar.lane: bar.ended for bar in drawn}
            return count, spent, sum(last.values()) - sum(first.values())
        case _:
            return count, spent, count * history.seconds
