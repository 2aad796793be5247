"""From studies that trained to a table of recorded curves, on which others can be simulated."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from halving.curves.table import ROW, Curves
from halving.errors import UserError
from halving.history import Evaluation, Header, History, Trial
from halving.trial import Configuration


@dataclass
class _Curve:
    """A trial's errors and cumulative seconds by resource; `diverged` and `crashed` say how it ended early."""

    configuration: Configuration
    errors: dict[int, float] = field(default_factory=dict[int, float])
    seconds: dict[int, float] = field(default_factory=dict[int, float])
    diverged: bool = False
    crashed: bool = False


def record(
    histories: Iterable[History], until: int | None = None, meta: Mapping[str, Any] | None = None
) -> tuple[Curves, dict[str, int]]:
    """Return the table of all trials that reached `until` (by default the most that any reached) or diverged before.

    Its levels are those that all of these measured. Trials that were stopped or crashed earlier are left out, and
    counted by reason: NaN in a table means divergence. After halving that leaves a selection of good trials; a study
    with `scheduler=fifo` leaves all.

    Raises UserError if no trial is left, and for studies that have no metric in common or trained nothing.
    """
    histories = list(histories)
    headers = [_header(history) for history in histories]
    if len({(header.metric, header.maximize, header.unit) for header in headers}) > 1:
        raise UserError("the studies differ in their metric or their unit of resource: record them one by one")
    if any(ROW in header.dimensions for header in headers):
        raise UserError("a simulated study trained nothing: its table is the one that it was simulated on")
    curves = [_curve(trial) for history in histories for trial in history.trials.values() if trial.evaluations]
    top = until if until is not None else max((max(curve.errors, default=0) for curve in curves), default=0)
    complete = [curve for curve in curves if top in curve.errors]
    if not complete:
        raise UserError(f"no trial reached {top}: train some in full (scheduler=fifo), or give a lower --until")
    levels = sorted(r for r in set.intersection(*(set(curve.errors) for curve in complete)) if r <= top)
    kept, left_out = list[_Curve](), Counter[str]()
    for curve in curves:
        if reason := _reason(curve, levels):
            left_out[reason] += 1
        else:
            kept.append(curve)
    error = np.array([[curve.errors.get(level, math.nan) for level in levels] for curve in kept])
    seconds = np.array([[curve.seconds.get(level, math.nan) for level in levels] for curve in kept])
    about = {"source": "halving", "metric": headers[0].metric, "resource": headers[0].unit, "seconds": "cumulative"}
    about |= {"note": "the metric with its sign flipped"} if headers[0].maximize else {}
    table = Curves(error, np.array(levels), seconds, [c.configuration for c in kept], about | dict(meta or {}))
    return table, dict(left_out)


def _reason(curve: _Curve, levels: list[int]) -> str:
    """Why a curve is no row of a table with these levels, or nothing."""
    if levels[-1] in curve.errors:
        return "" if curve.errors.keys() >= set(levels) else "measured at other levels"
    if curve.crashed:
        return f"crashed before {levels[-1]}"
    if not curve.diverged:
        return f"stopped before {levels[-1]}"
    last = max(curve.errors, default=0)
    return "" if all(level in curve.errors for level in levels if level <= last) else "measured at other levels"


def _curve(trial: Trial) -> _Curve:
    curve = _Curve(trial.configuration)
    for evaluation in trial.evaluations:
        if evaluation.finished is not None:
            _extend(curve, evaluation)
    return curve


def _extend(curve: _Curve, evaluation: Evaluation) -> None:
    finished = evaluation.finished
    assert finished is not None
    outcome, since = finished.outcome, evaluation.since
    lost = not math.isfinite(outcome.rank_error)
    if lost:
        curve.diverged = not outcome.failed or finished.cause.startswith("diverged")
        curve.crashed = not curve.diverged
    errors = {outcome.resource - len(outcome.curve) + i: error for i, error in enumerate(outcome.curve, start=1)}
    errors = errors or {outcome.resource: outcome.error}
    # What started anew at this rung took its seconds from nothing.
    before = curve.seconds.get(since, 0.0) if finished.cost <= outcome.resource - since else 0.0
    laps = {epoch.epoch: epoch.metrics.get("seconds", math.nan) for epoch in evaluation.epochs}
    timed = before > 0 or since == 0
    exact = timed and all(math.isfinite(laps.get(r, math.nan)) for r in range(since + 1, outcome.resource + 1))
    for resource, error in sorted(errors.items()):
        if not math.isfinite(error) or (lost and resource == outcome.resource):
            break
        curve.errors[resource] = error
        if exact:
            spent = sum(laps[r] for r in range(since + 1, resource + 1))
        else:
            begun = since if timed else 0
            spent = finished.seconds * (resource - begun) / max(1, outcome.resource - begun)
        curve.seconds[resource] = max(before + spent, curve.seconds.get(since, 0.0))


def _header(history: History) -> Header:
    if history.header is None:
        raise UserError("a study has no header: its journal is empty, there is nothing to record")
    return history.header
