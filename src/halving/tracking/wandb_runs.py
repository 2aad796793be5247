"""The runs of W&B that the trials and the study are written to, and what tells that one is whole."""

import math
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from halving.errors import noted
from halving.history import Header, History, Trial
from halving.tracking.runs import (
    errors_at,
    fitted,
    measured,
    metric_name,
    run_directory,
    steps,
    study_id,
    trial_table,
)
from halving.trial import AVERAGED

WHOLE = "whole"  # the file in a run's directory that says what the run is whole up to
STAGED = "artifacts/staging"  # below the directory of all runs: copies of what artifacts hold, until they are uploaded


@dataclass(frozen=True)
class Exhibit:
    """What the study's run shows at the end: pictures by name, pages, and more of its summary.

    `files` are the winner's, by the names that they get in its artifact, and `winner` says what it is.
    """

    pictures: Mapping[str, Path] = field(default_factory=dict[str, Path])
    pages: tuple[Path, ...] = ()
    summary: Mapping[str, Any] = field(default_factory=dict[str, Any])
    files: Mapping[str, Path] = field(default_factory=dict[str, Path])
    winner: Mapping[str, Any] = field(default_factory=dict[str, Any])


# Gives what there is to show; where it draws, it may use the directory.
Exhibits = Callable[[History, Path], Exhibit]


def none(history: History, directory: Path) -> Exhibit:
    """Show nothing."""
    return Exhibit()


class TrialRun:
    """A trial's run: a line for each epoch, and in the end its errors and its state; `number` is its own."""

    def __init__(self, run: Any, number: int) -> None:
        self._run = run
        self._number = number
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
                **errors_at(header, trial),
                "trial": self._number,
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
    """The study's run: a line for each evaluation with the incumbent; in the end the table of trials and exhibits."""

    def __init__(self, run: Any, header: Header, exhibits: Exhibits) -> None:
        self._run = run
        self._header = header
        self._exhibits = exhibits
        self._best = f"best_{metric_name(header)}"
        self._evaluations = 0
        self._incumbents = 0
        run.define_metric(self._best, step_metric="resource_spent")

    def write(self, history: History) -> None:
        for trial, evaluation in history.finished[self._evaluations :]:
            self._evaluations += 1
            row: dict[str, Any] = {
                "resource_spent": evaluation.spent,
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

        below = run_directory(self._header, "W&B") / "wandb"
        step = max(self._evaluations, self._run.starting_step)
        columns, rows = trial_table(self._header, history)
        exhibit = Exhibit()
        with staged(below), TemporaryDirectory() as drawn:
            with noted("the figures for W&B could not be made", []):
                exhibit = self._exhibits(history, Path(drawn))
            media: dict[str, Any] = {name: wandb.Image(str(path)) for name, path in exhibit.pictures.items()}
            table = wandb.Table(columns=columns, data=rows, allow_mixed_types=True)
            self._run.log({"trials": table, **media}, step=step)
            for page in exhibit.pages:
                self._run.save(str(shutil.copy2(page, self._run.dir)), base_path=self._run.dir, policy="now")
            if exhibit.files:
                self._log_winner(exhibit)
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
        self._run.summary.update({**summary, **exhibit.summary})
        _finish(self._run, study_mark(history))

    def _log_winner(self, exhibit: Exhibit) -> None:
        import wandb

        name = fitted(study_id(self._header), 128 - len("-winner"))
        artifact = wandb.Artifact(f"{name}-winner", type="model", metadata=dict(exhibit.winner))
        for name, path in exhibit.files.items():
            artifact.add_file(str(path), name=name, policy="immutable")  # as it lies, without a copy
        self._run.log_artifact(artifact)


@contextmanager
def staged(directory: Path) -> Generator[None]:
    """Let W&B stage what it copies for artifacts in a directory of the study, not in the home of who runs it.

    Its one way to say so is an environment variable, which is the user's and which children would inherit.
    """
    from wandb import env

    before = env.get_data_dir
    env.get_data_dir = lambda *_: str(directory)
    try:
        yield
    finally:
        env.get_data_dir = before


def directories(run_dir: Path, suffix: str, kind: str) -> list[Path]:
    """Return the directories of the runs whose id ends so; `kind` is a pattern such as offline-run."""
    return list((run_dir / "wandb").glob(f"{kind}-*-{suffix}"))


def is_whole(run_dir: Path, suffix: str, mark: str) -> bool:
    """Say whether an earlier process finished the run with this id at this mark."""
    marks = (directory / WHOLE for directory in directories(run_dir, suffix, "*run"))
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
    confirmed = sum(each.confirmed is not None for each in history.confirmations.values())
    return f"{len(history.finished)} {history.ended is not None}{f' {confirmed}' if confirmed else ''}"


def _restarts(trial: Trial) -> int:
    return sum(len(evaluation.restarts) for evaluation in trial.evaluations)


def _finite(values: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in values.items() if math.isfinite(value)}


def test_metrics(history: History) -> dict[str, float]:
    """Return the winner's metrics on the test set, each named test_..., or of averaged weights averaged_test_..."""
    test = history.ended.test if history.ended is not None else {}
    return {
        key if key.startswith(("test_", f"{AVERAGED}test_")) else f"test_{key}": value for key, value in test.items()
    }
