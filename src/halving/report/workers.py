"""Which evaluations ran side by side, and how busy workers were."""

from collections.abc import Sequence
from dataclasses import dataclass

from halving.history import Evaluation, History, Trial
from halving.report.tables import header_of


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
