"""What the runs of a study are called and hold in an experiment tracker."""

import copy
import hashlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from halving.errors import UserError
from halving.history import Evaluation, Header, History, Trial
from halving.trial import Epoch


def run_directory(header: Header, tracker: str) -> Path:
    """Return where a tracker writes its files. Raises UserError where the study has no run directory."""
    if "run_dir" not in header.settings:
        raise UserError(
            f"{tracker} writes into the run directory, but this study has none in Header.settings['run_dir']"
        )
    return Path(header.settings["run_dir"])


def study_id(header: Header) -> str:
    """Name the study by its name and run directory; a job of a multirun is told by the sweep's time and its number."""
    run_dir = run_directory(header, "W&B")
    names = [run_dir.parent.name] if run_dir.parent.parent.name == "multirun" else []
    return "-".join(re.sub(r"[^A-Za-z0-9_-]+", "-", name) for name in (header.name, *names, run_dir.name))


def run_id(study: str, suffix: str) -> str:
    """Return an id that W&B takes, of at most 64 characters."""
    return f"{fitted(study, 64 - len(suffix) - 1)}-{suffix}"


def fitted(name: str, room: int) -> str:
    """Return a name of at most so many characters: one that is too long is cut and gets its digest."""
    return name if len(name) <= room else f"{name[: room - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def project_name(name: str) -> str:
    """Return a name as W&B takes it for a project: without its delimiters, of 1 to 128 characters."""
    return fitted(re.sub(r"[/\\#?%:\x00-\x1f\x7f-\x9f]+", "-", name).strip(), 128) or "halving"


def trial_config(header: Header, trial: Trial) -> dict[str, Any]:
    """Return the study's nested configuration with the trial's values set at their dotted keys, and its id.

    Where a value chooses among options of a group, it becomes `{"_choice_": value}` with what the trial sets below it.
    """
    config: dict[str, Any] = copy.deepcopy(dict(header.settings.get("config", {})))
    for key, value in sorted(trial.configuration.items()):
        *parents, leaf = key.split(".")
        node = config
        for parent in parents:
            if not isinstance(node.get(parent), dict):
                node[parent] = {}
            node = node[parent]
        node[leaf] = {"_choice_": value} if isinstance(node.get(leaf), dict) else value
    # The one trial of a plain run may replay a stream that its configuration names.
    return {"trial": trial.trial} | config if header.scheduler == "single" else config | {"trial": trial.trial}


def steps(trial: Trial) -> Iterator[tuple[int, Evaluation, Epoch]]:
    """Yield a trial's epochs with W&B steps, which must grow: the epoch's number where training resumes.

    Where each assignment trains from nothing its epochs come after those before it; epochs that a retry repeats are
    left out. What is yielded for a part of the events is the beginning of what is yielded for all.
    """
    last = 0
    for evaluation in trial.evaluations:
        shift: int | None = None
        for epoch in evaluation.epochs:
            if shift is None:
                shift = 0 if epoch.epoch > last else last
            if (step := shift + epoch.epoch) > last:
                last = step
                yield step, evaluation, epoch


def trial_table(header: Header, history: History) -> tuple[list[str | int], list[list[Any]]]:
    """Return the columns and rows of the table of trials."""
    columns: list[str | int] = ["trial", "bracket", "rung", "resource", metric_name(header), "state", "seconds"]
    rows: list[list[Any]] = []
    for trial in history.trials.values():
        last = trial.last
        seconds = sum(e.finished.seconds for e in trial.evaluations if e.finished is not None)
        error = measured(header, last.error) if math.isfinite(last.error) else None
        values = [trial.configuration.get(dimension) for dimension in header.dimensions]
        rows.append(
            [trial.trial, trial.bracket, last.rung, last.resource, error, history.state(trial), seconds, *values]
        )
    return [*columns, *header.dimensions], rows


def metric_name(header: Header) -> str:
    """Return what the study's metric is called: "error" where it is minimised."""
    return header.metric if header.maximize else "error"


def measured(header: Header, error: float) -> float:
    """Return an error as it was measured, with the sign of the user's metric."""
    return -error if header.maximize else error
