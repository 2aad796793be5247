"""The runs of W&B that the trials and the study are written to, and what tells that one is whole."""

import math
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from halving.history import Header, History, Trial
from halving.tracking.runs import measured, metric_name, run_directory, steps, trial_table

WHOLE = "whole"  # the file in a run's directory that says what the run is whole up to


class TrialRun:
    """A trial's run: a line for each epoch, and in the end its error and its state."""

    def __init__(self, run: Any) -> None:
        self._run = run
        self._written = 0

    def write(self, trial: Trial) -> None:
        for step, evaluation, epoch in islice(steps(trial), self._written, None):
            self._written += 1
            if step >= self._run.starting_step:
                self._run.log({**epoch.metrics, "epoch": epoch.epoch, "rung": evaluation.rung}, step=step)

    def finish(self, trial: Trial, header: Header, more: Mapping[str, Any]) -> None:
        self.write(trial)
        last = trial.last
        optional = {
            "reason": last.verdict_reason,
            "cause": last.finished.cause if last.finished is not None else "",
            "restarts": _restarts(trial),
        }
        self._run.summary.update(
            {
                **_finite({metric_name(header): measured(header, last.error)}),
                "state": trial.state,
                "resource": last.resource,
                "rung": last.rung,
                "bracket": trial.bracket,
                **{key: value for key, value in optional.items() if value},
                **more,
            }
        )
        _finish(self._run, trial_mark(trial), failed=trial.state == "failed")


class StudyRun:
    """The study's run: a line for each evaluation with the incumbent, and in the end the table of trials."""

    def __init__(self, run: Any, header: Header) -> None:
        self._run = run
        self._header = header
        self._best = f"best_{metric_name(header)}"
        self._evaluations = 0
        self._incumbents = 0
        self._spent = 0.0
        run.define_metric(self._best, step_metric="resource_spent")

    def write(self, history: History) -> None:
        for trial, evaluation in history.finished[self._evaluations :]:
            self._evaluations += 1
            self._spent += evaluation.finished.cost if evaluation.finished is not None else 0.0
            row: dict[str, Any] = {
                "resource_spent": self._spent,
                "seconds": evaluation.ended,
                "trial": trial.trial,
                "rung": evaluation.rung,
                **_finite({metric_name(self._header): measured(self._header, evaluation.error)}),
            }
            self._incumbents += any(evaluation is best for _, best in history.incumbents[self._incumbents :])
            if self._incumbents:
                winner, best = history.incumbents[self._incumbents - 1]
                row |= {self._best: measured(self._header, best.error), "best_trial": winner.trial}
            if self._evaluations >= self._run.starting_step:
                self._run.log(row, step=self._evaluations)

    def finish(self, history: History) -> None:
        import wandb

        columns, rows = trial_table(self._header, history)
        table = wandb.Table(columns=columns, data=rows, allow_mixed_types=True)
        self._run.log({"trials": table}, step=max(self._evaluations, self._run.starting_step))
        summary: dict[str, Any] = {
            "evaluations": len(history.finished),
            "resource_spent": history.spent,
            "full_resource": self._header.full_cost * len(history.trials),
            "wall_seconds": history.seconds,
            "train_seconds": history.train_seconds,
            "restarts": sum(map(_restarts, history.trials.values())),
            **test_metrics(history),
        }
        if history.incumbent is not None:
            trial, evaluation = history.incumbent
            summary |= {"best_resource": evaluation.resource, "best_configuration": dict(trial.configuration)}
        if history.ended is not None and history.ended.command:
            summary["command"] = history.ended.command
        self._run.summary.update(summary)
        _finish(self._run, study_mark(history))


def directories(header: Header, suffix: str, kind: str) -> list[Path]:
    """Return the directories of the runs whose id ends so; `kind` is a pattern such as offline-run."""
    return list((run_directory(header, "W&B") / "wandb").glob(f"{kind}-*-{suffix}"))


def is_whole(header: Header, suffix: str, mark: str) -> bool:
    """Say whether an earlier process finished the run with this id at this mark."""
    marks = (directory / WHOLE for directory in directories(header, suffix, "*run"))
    return any(path.exists() and path.read_text() == mark for path in marks)


def _finish(run: Any, mark: str, failed: bool = False) -> None:
    """Finish a run and leave a mark of what it is whole up to: an offline one that a kill cut off looks the same."""
    directory = Path(run.dir).parent
    run.finish(exit_code=int(failed))
    (directory / WHOLE).write_text(mark)


def trial_mark(trial: Trial) -> str:
    """Say up to what a trial's run is written."""
    return f"{trial.state} {len(trial.evaluations)} {trial.last.resource}"


def study_mark(history: History) -> str:
    """Say up to what the study's run is written."""
    return f"{len(history.finished)} {history.ended is not None}"


def _restarts(trial: Trial) -> int:
    return sum(len(evaluation.restarts) for evaluation in trial.evaluations)


def _finite(values: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in values.items() if math.isfinite(value)}


def test_metrics(history: History) -> dict[str, float]:
    """Return the winner's metrics on the test set, each named test_..."""
    test = history.ended.test if history.ended is not None else {}
    return {key if key.startswith("test_") else f"test_{key}": value for key, value in test.items()}
