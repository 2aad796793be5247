"""The learning curves of a study's trials, by epoch and by the time at which each epoch ended."""

import math

from halving.history import History, Trial
from halving.report.tables import header_of, last_epochs
from halving.tracking.wording import metric_label

Curve = list[tuple[float, float]]


def by_epoch(history: History) -> tuple[str, bool, dict[int, Curve]]:
    """Return the label, whether it was maximised, and (epoch, error) of each trial; errors are minimised."""
    header, name = header_of(history), _metric(history)
    if name is None and any(e.finished and e.finished.outcome.curve for _, e in history.finished):
        curves = {t.trial: _objective_curve(t) for t in history.trials.values()}
        return metric_label(header), header.maximize, {trial: curve for trial, curve in curves.items() if curve}
    label, maximize, sign = _told(history)
    found: dict[int, Curve] = {}
    for trial in history.trials.values():
        epochs = last_epochs(epoch for _, epoch in trial.epochs)
        found[trial.trial] = [(n, sign * epochs[n].metrics.get(name or "val_error", math.nan)) for n in sorted(epochs)]
    return label, maximize, _finite(found)


def by_time(history: History) -> tuple[str, bool, dict[int, Curve]]:
    """Return the same with (seconds since the start, error), of what was trained twice both."""
    label, maximize, sign = _told(history)
    name = _metric(history) or "val_error"
    found = {
        trial.trial: [
            (at, sign * epoch.metrics.get(name, math.nan))
            for evaluation in trial.evaluations
            for at, epoch in zip(evaluation.heard, evaluation.epochs, strict=True)
        ]
        for trial in history.trials.values()
    }
    return label, maximize, _finite(found)


def _metric(history: History) -> str | None:
    """Return the name by which epochs tell what is optimised, None where they do not."""
    seen = {name for trial in history.trials.values() for _, epoch in trial.epochs for name in epoch.metrics}
    metric = header_of(history).metric
    return next((name for name in (metric, f"val_{metric}") if name in seen), None)


def _told(history: History) -> tuple[str, bool, int]:
    """Return the label of what epochs tell, whether that is maximised, and the sign that makes it an error."""
    header = header_of(history)
    if _metric(history) is None:
        return "validation error", False, 1
    return metric_label(header), header.maximize, header.sign


def _finite(curves: dict[int, Curve]) -> dict[int, Curve]:
    kept = {trial: [point for point in curve if math.isfinite(point[1])] for trial, curve in curves.items()}
    return {trial: curve for trial, curve in kept.items() if curve}


def _objective_curve(trial: Trial) -> Curve:
    """What an objective reported by itself, at the last units of each assignment."""
    outcomes = [e.finished.outcome for e in trial.evaluations if e.finished is not None]
    points = {o.resource - len(o.curve) + i: error for o in outcomes for i, error in enumerate(o.curve, start=1)}
    return [(x, error) for x, error in sorted(points.items()) if math.isfinite(error)]
