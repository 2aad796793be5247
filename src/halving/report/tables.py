"""What a history says, as rows and as one mapping: the contents of results.csv, curves.csv and summary.json."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from halving.errors import UserError
from halving.history import Evaluation, Header, History, Trial
from halving.tracking.wording import resolution, setting
from halving.trial import AVERAGED, Epoch, Value, plain

RESULTS = ("trial", "bracket", "rung", "resource", "error", "status", "verdict", "seconds")
METRICS = ("lr", "train_loss", "train_error", "val_loss", "val_error", "seconds")
CURVES = ("trial", "resource", "epoch", *METRICS)
AXES = 11  # dimensions that have room in parallel coordinates


def tested(history: History) -> tuple[str, float] | None:
    """Return name and value of the test that goes with the study's metric: test_error, unless it has one of its own."""
    test = history.ended.test if history.ended is not None else {}
    own, *errors = test_names(header_of(history).metric)
    name = own if own in test and not own.endswith("test_loss") else next((each for each in errors if each in test), "")
    value = finite(test.get(name))
    return None if value is None else ("test_error" if name == "error" else name, value)


def tested_both(history: History) -> list[tuple[str, float]]:
    """Return the test that goes with the study's metric, and the same of averaged or of last weights if both are known.

    It is empty where nothing was tested.
    """
    if (found := tested(history)) is None or history.ended is None:
        return []
    name = found[0]
    other = name.removeprefix(AVERAGED) if name.startswith(AVERAGED) else f"{AVERAGED}{name}"
    beside = finite(history.ended.test.get(other))
    return [found] if beside is None else [found, (other, beside)]


def test_names(metric: str) -> tuple[str, ...]:
    """Return what a metric may be called on the test set: by its own name, then as an error, the best match first.

    One of averaged weights is tested with these, too.
    """
    averaged = AVERAGED if metric.startswith(f"{AVERAGED}val_") else ""
    kind = metric.removeprefix(averaged).removeprefix("val_").removeprefix("train_")
    return f"{averaged}test_{kind}", f"{averaged}test_error", "test_error", "error"


def is_rate(name: str) -> bool:
    """Whether a metric is a share of the validation or test examples, with last or averaged weights."""
    return name.removeprefix(AVERAGED) in ("val_error", "val_accuracy", "test_error", "test_accuracy")


def header_of(history: History) -> Header:
    """Return the header; raises UserError where the history has none."""
    if history.header is None:
        raise UserError("the study has no header: its journal is empty, there is nothing to report")
    return history.header


def results_rows(history: History) -> list[dict[str, Any]]:
    """Return one row per finished outcome, in order of finishing: RESULTS, then the dimensions that the trial has.

    `error` is the metric, as people know it where it is maximised; None where the outcome failed or is not finite.
    """
    header = header_of(history)
    return [
        {
            "trial": trial.trial,
            "bracket": trial.bracket,
            "rung": evaluation.rung,
            "resource": evaluation.resource,
            "error": shown_error(header, evaluation),
            "status": status(evaluation),
            "verdict": verdict(evaluation),
            "seconds": evaluation.finished.seconds if evaluation.finished else 0.0,
        }
        | {name: trial.configuration[name] for name in header.dimensions if name in trial.configuration}
        for trial, evaluation in history.finished
    ]


def curve_rows(history: History) -> list[dict[str, Any]]:
    """Return one row per trial, resource and epoch, in order of trials; `resource` is what was being trained to.

    Beyond CURVES a row has what else was measured, except for an accuracy that its error tells already. An epoch that
    was trained twice, after a retry, appears once, as it was the last time.
    """
    rows: list[dict[str, Any]] = [
        {name: finite(epoch.metrics.get(name)) for name in dict.fromkeys((*METRICS, *epoch.metrics))}
        | {"trial": trial.trial, "resource": evaluation.until, "epoch": number}
        for trial in history.trials.values()
        for evaluation in trial.evaluations
        for number, epoch in sorted(last_epochs(evaluation.epochs).items())
    ]
    for name in {name for row in rows for name in row if name.endswith("_accuracy")}:
        error = f"{name.removesuffix('accuracy')}error"
        measured = [(row[name], row.get(error)) for row in rows if row.get(name) is not None]
        if all(value is not None and accuracy == 1 - value for accuracy, value in measured):
            for row in rows:
                row.pop(name, None)
    return rows


def winner(history: History) -> tuple[Trial, Evaluation] | None:
    """Return the best trial and the evaluation that made it so: the one the study named, else its incumbent."""
    if history.ended is None:
        return history.incumbent
    if history.ended.best is None:
        return None
    trial = history.trials[history.ended.best]
    survived = [evaluation for evaluation in trial.evaluations if math.isfinite(evaluation.error)]
    return (trial, max(survived, key=lambda evaluation: evaluation.resource)) if survived else None


def status(evaluation: Evaluation) -> str:
    """Return "ok", or "failed" for an outcome that failed or whose error is not finite."""
    return "ok" if math.isfinite(evaluation.error) else "failed"


def verdict(evaluation: Evaluation) -> str:
    """Return what was decided about a finished evaluation; one whose rung is still open counts as paused."""
    return evaluation.verdict or ("paused" if status(evaluation) == "ok" else "failed")


def last_epochs(epochs: Iterable[Epoch]) -> dict[int, Epoch]:
    """Return the epochs by their number; of an epoch that was trained twice, the later one."""
    return {epoch.epoch: epoch for epoch in epochs}


def shown_error(header: Header, evaluation: Evaluation) -> float | None:
    """Return the metric as people know it: unflipped where it is maximised, None where the evaluation failed."""
    error = finite(evaluation.error)
    return -error if error is not None and header.maximize else error


def own_error(history: History) -> float | None:
    """Return the incumbent's metric: what studies are compared by, as not all of them confirm another winner."""
    return shown_error(header_of(history), history.incumbent[1]) if history.incumbent is not None else None


def standard_error(rate: float, samples: float | None) -> float | None:
    """Return the binomial standard error of a rate over a number of examples, by Laplace's rule not 0 at its ends."""
    if not samples or not 0 <= rate <= 1:
        return None
    shrunk = (rate * samples + 1) / (samples + 2)
    return math.sqrt(shrunk * (1 - shrunk) / samples)


def uncertainty(history: History) -> float | None:
    """Return the standard error with which a study's metric is shown; None where nothing tells it.

    That is the winner's, of a rate over a known number of examples; else what tells good trials apart.
    """
    header, best = header_of(history), winner(history)
    if best is not None and history.ended is not None and is_rate(header.metric):
        found = standard_error(abs(best[1].error), history.ended.test.get("val_samples"))
        if found is not None:
            return found
    return resolution(history)


def time_unit(seconds: float) -> tuple[str, int]:
    """Return the unit that suits an axis of so much time, and how many seconds it has."""
    return ("hours", 3600) if seconds > 7200 else ("minutes", 60) if seconds > 300 else ("seconds", 1)


def real(value: Value) -> float | None:
    """Return a value that is a finite number as a float; None for booleans, words, infinities and what is larger."""
    if isinstance(value, bool | str | None):
        return None
    try:
        return finite(float(value))
    except OverflowError:
        return None


def finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def whole(value: float) -> float | int:
    """Return 81 for 81.0, and 40.5 as it is."""
    return int(value) if float(value).is_integer() else value


def json_value(value: Any) -> Any:
    """Return `value` with what strict JSON lacks replaced: a number that is not finite becomes its name."""
    match value := plain(value):
        case float() if not math.isfinite(value):
            return str(value)
        case Mapping():
            return {str(key): json_value(item) for key, item in value.items()}
        case list() | tuple():
            return [json_value(item) for item in value]
        case _:
            return value


def first_failure(history: History) -> str:
    """Say how many evaluations failed or came to no finite number, and of each kind the first one's cause."""
    sign = -1 if history.header is not None and history.header.maximize else 1
    first: dict[str, str] = {}
    kinds = Counter[str]()
    for trial, evaluation in history.finished:
        if evaluation.finished is None or math.isfinite(evaluation.error):
            continue
        outcome, cause = evaluation.finished.outcome, evaluation.finished.cause
        number = str(sign * outcome.error).replace("nan", "NaN")
        kind = "failed, the first with: " if outcome.failed else f"came to {number}, the first at "
        kinds[kind] += 1
        values = setting(trial.configuration)
        first.setdefault(kind, (cause or "no cause given") if outcome.failed else values or f"trial {trial.trial}")
    every = "all " if len(kinds) == 1 and kinds.total() == len(history.finished) > 1 else ""
    told = [f"{'' if 'failed' in kind else every}{count} {kind}{first[kind]}" for kind, count in kinds.items()]
    return "; ".join(told) or "none was evaluated"
