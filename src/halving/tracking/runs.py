"""What the runs of a study are called and hold in an experiment tracker."""

import copy
import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halving.errors import UserError
from halving.history import Evaluation, Header, History, Trial
from halving.trial import Configuration, Epoch

FIGURE = "figures/comparison"  # the key under which a run holds our figure of a comparison


@dataclass(frozen=True)
class Mirrored:
    """A run as it is written: attributes by W&B's names (ID, Name, JobType, ...), config, summary, rows of history.

    `files` is the directory of its media, and `staged` what its artifacts are uploaded from.
    """

    attributes: Mapping[str, str]
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    project: str = ""
    entity: str = ""
    files: Path | None = None
    staged: tuple[Path, ...] = ()


def run_directory(header: Header, tracker: str) -> Path:
    """Return where a tracker writes its files. Raises UserError where the study has no run directory."""
    if not (run_dir := header.provenance.run_dir):
        raise UserError(
            f"{tracker} writes into the run directory, but this study has none in Header.settings['run_dir']"
        )
    return Path(run_dir)


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
    """Return the study's nested configuration with the trial's values set at their dotted keys.

    Where a value chooses among options of a group, it becomes `{"_choice_": value}` with what the trial sets below it.
    """
    config: dict[str, Any] = copy.deepcopy(dict(header.provenance.config))
    for key, value in sorted(trial.configuration.items()):
        *parents, leaf = key.split(".")
        node = config
        for parent in parents:
            if not isinstance(node.get(parent), dict):
                node[parent] = {}
            node = node[parent]
        node[leaf] = {"_choice_": value} if isinstance(node.get(leaf), dict) else value
    return config


def run_config(header: Header, config: Mapping[str, Any], chosen: Configuration) -> dict[str, Any]:
    """Return what a run's configuration is in W&B: with flat keys to filter and group by, and no trial's number.

    W&B's importance takes every key, and a number that tells trials apart would explain all. The searcher's own
    options make way for its name, as `searcher_options`; an option of a group is named by `_choice_` in it. What a
    trial has `chosen` comes before all of these.
    """
    own = {key.partition(".")[0] for key in chosen}
    flat = {"study": study_id(header), "method": header.scheduler, "searcher": header.searcher, "seed": header.seed}
    if isinstance(config.get("searcher"), Mapping) and "searcher" not in own:
        flat["searcher_options"] = config["searcher"]
    kept = {key: value for key, value in config.items() if key != "trial" or key in own}
    named = copy.deepcopy(kept | {key: value for key, value in flat.items() if key not in own})
    for key, value in chosen.items():
        node: Any = named
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.setdefault("_choice_", value)
    return named


def notes_text(notes: Mapping[str, str]) -> str:
    """Return a study's notes as one text; where there are several, each with its time."""
    if len(notes) < 2:
        return "".join(notes)
    return "\n\n".join(f"{when}: {text}" if when else text for text, when in notes.items())


def tags(header: Header) -> list[str]:
    """Return the tags of a study's runs: scheduler, searcher, data and model, and what a sweep's have in common."""
    told = header.provenance
    named = (header.scheduler, header.searcher, *told.trained, *told.tags)
    return list(dict.fromkeys(fitted(str(tag), 64) for tag in named if str(tag)))


def errors_at(header: Header, trial: Trial) -> dict[str, float]:
    """Return a trial's metric at each resource at which it was measured, so that equals can be compared."""
    metric = metric_name(header)
    return {
        f"{metric}_at/{evaluation.resource}": measured(header, evaluation.error)
        for evaluation in trial.evaluations
        if math.isfinite(evaluation.error)
    }


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
    return header.sign * error
