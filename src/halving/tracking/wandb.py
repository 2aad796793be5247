"""Weights & Biases: every trial is a run of its own, grouped by study, and the parent process writes them all."""

import copy
import hashlib
import logging
import math
import re
import shlex
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from halving.errors import UserError, did_you_mean
from halving.history import Evaluation, Event, Header, History, Trial
from halving.trial import Epoch, Finished, Resume, Start, Verdict

log = logging.getLogger(__name__)

MODES = ("offline", "online", "disabled")
FINAL = ("stopped", "completed", "failed")


class Wandb:
    """Mirrors a study in W&B: one run per trial, and one of the study with its incumbent curve and table of trials.

    Runs go to `<run directory>/wandb`. Their ids follow from run directory and trial. A trial's run is written from
    what the history holds of it, therefore a resumed study gives whole runs, and so do trials that found `max_open`
    runs open and are written when they end.

    `mode` is "offline", "online" or "disabled". Nothing is uploaded unless it says online and W&B has a key; W&B's own
    setting (`WANDB_MODE`, `wandb offline`) can make that less, never more. The key is W&B's affair.

    Raises UserError for an unknown mode or a negative `max_open`.
    """

    def __init__(
        self, mode: str = "offline", project: str = "halving", entity: str | None = None, max_open: int = 100
    ) -> None:
        if mode not in MODES:
            raise UserError(f"tracker.mode={mode}: unknown{did_you_mean(mode, MODES)}")
        if max_open < 0:
            raise UserError(f"tracker.max_open={max_open}: must be 0 or more runs open at once")
        self._mode = mode
        self._project = project
        self._entity = entity
        self._max_open = max_open
        self._begun = False
        self._open: dict[int, _TrialRun] = {}
        self._ended: set[int] = set()
        self._study: _StudyRun | None = None

    def record(self, event: Event, history: History) -> None:
        header = history.header
        if header is None:
            return
        if not self._begun:
            self._begin(event, header, history)
        if self._mode == "disabled":
            return
        match event:
            case Start(trial) | Resume(trial) | Epoch(trial):
                self._follow(history.trials[trial], header)
            case Finished() if header.scheduler != "single":
                self._follow_study(header, history)
            case Verdict(trial, state) if state in FINAL and header.scheduler != "single":
                self._finish(history.trials[trial], header)
            case _:
                pass

    def close(self, history: History) -> None:
        header = history.header
        if header is None or not self._begun or self._mode == "disabled":
            return
        for trial in history.trials.values():
            if trial.trial not in self._ended:
                self._finish(trial, header, _test(history) if header.scheduler == "single" else {})
        if history.finished and header.scheduler != "single":
            self._follow_study(header, history).finish(history)
            self._study = None
        self._begun = False

    def sync_command(self, history: History) -> str | None:
        """Return the line that uploads all runs of the study that are offline, or None."""
        if history.header is None or self._mode != "offline" or not history.trials:
            return None
        runs = Path(history.header.settings["run_dir"]) / "wandb"
        return f"wandb sync {shlex.quote(str(runs))}/offline-run-*" if runs.is_dir() else None

    def _begin(self, event: Event, header: Header, history: History) -> None:
        self._begun = True
        self._mode = _allowed(self._mode)
        # It tells its own debug.log of every run in a dozen lines, which would flood the log of the study.
        logging.getLogger("wandb").propagate = False
        directory = Path(header.settings["run_dir"]) / "wandb"
        for trial in history.trials.values():
            just_now = isinstance(event, Verdict) and event.trial == trial.trial
            identity = run_id(study_id(header), f"t{trial.trial}")
            if trial.state in FINAL and not just_now and any(directory.glob(f"*run-*-{identity}")):
                self._ended.add(trial.trial)

    def _follow(self, trial: Trial, header: Header) -> None:
        if trial.trial not in self._open:
            if trial.trial in self._ended or len(self._open) >= self._max_open:
                return
            self._open[trial.trial] = self._trial_run(trial, header)
        self._open[trial.trial].write(trial)

    def _finish(self, trial: Trial, header: Header, more: Mapping[str, Any] | None = None) -> None:
        if trial.trial in self._ended:
            return
        run = self._open.pop(trial.trial, None) or self._trial_run(trial, header)
        self._ended.add(trial.trial)
        run.finish(trial, header, more or {})

    def _trial_run(self, trial: Trial, header: Header) -> "_TrialRun":
        name = study_id(header) if header.scheduler == "single" else f"trial-{trial.trial}"
        return _TrialRun(self._init(header, f"t{trial.trial}", name, "trial", trial_config(header, trial)))

    def _follow_study(self, header: Header, history: History) -> "_StudyRun":
        if self._study is None:
            config = dict(header.settings.get("config", {}))
            self._study = _StudyRun(self._init(header, "study", study_id(header), "study", config), header)
            if self._mode == "online":
                log.info("W&B: %s", self._study.run.url)
        self._study.write(history)
        return self._study

    def _init(self, header: Header, suffix: str, name: str, job_type: str, config: dict[str, Any]) -> Any:
        import wandb

        study = study_id(header)
        return wandb.init(
            reinit="create_new",
            id=run_id(study, suffix),
            name=name,
            group=study[:128],
            job_type=job_type,
            project=self._project,
            entity=self._entity,
            # W&B refuses longer tags.
            tags=[str(tag)[:64] for tag in header.settings.get("tags") or ()],
            notes=header.settings.get("notes") or None,
            config=config,
            dir=str(header.settings["run_dir"]),
            mode="online" if self._mode == "online" else "offline",
            settings=wandb.Settings(
                console="off",
                silent=True,
                quiet=True,
                disable_git=True,
                disable_code=True,
                disable_job_creation=True,
                save_code=False,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )


class _TrialRun:
    def __init__(self, run: Any) -> None:
        self._run = run
        self._written = 0

    def write(self, trial: Trial) -> None:
        for step, evaluation, epoch in islice(steps(trial), self._written, None):
            self._run.log({**epoch.metrics, "epoch": epoch.epoch, "rung": evaluation.rung}, step=step)
            self._written += 1

    def finish(self, trial: Trial, header: Header, more: Mapping[str, Any]) -> None:
        self.write(trial)
        last = trial.last
        cause = last.finished.cause if last.finished is not None else ""
        self._run.summary.update(
            {
                **_finite({_metric(header): _shown(header, last.error)}),
                "state": trial.state,
                "resource": last.resource,
                "rung": last.rung,
                "bracket": trial.bracket,
                **({"reason": last.verdict_reason} if last.verdict_reason else {}),
                **({"cause": cause} if cause else {}),
                **more,
            }
        )
        self._run.finish(exit_code=1 if trial.state == "failed" else 0)


class _StudyRun:
    def __init__(self, run: Any, header: Header) -> None:
        self.run = run
        self._header = header
        self._best = f"best_{_metric(header)}"
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
                **_finite({_metric(self._header): _shown(self._header, evaluation.error)}),
            }
            improved = islice(history.incumbents, self._incumbents, self._incumbents + 1)
            self._incumbents += any(evaluation is best for _, best in improved)
            if self._incumbents:
                winner, best = history.incumbents[self._incumbents - 1]
                row |= {self._best: _shown(self._header, best.error), "best_trial": winner.trial}
            self.run.log(row, step=self._evaluations)

    def finish(self, history: History) -> None:
        import wandb

        columns, rows = trial_table(self._header, history)
        table = wandb.Table(columns=columns, data=rows, allow_mixed_types=True)
        self.run.log({"trials": table}, step=self._evaluations)
        summary: dict[str, Any] = {
            "evaluations": len(history.finished),
            "resource_spent": history.spent,
            "full_resource": self._header.full_cost * len(history.trials),
            "wall_seconds": history.seconds,
            "train_seconds": history.train_seconds,
            **_test(history),
        }
        if history.incumbent is not None:
            trial, evaluation = history.incumbent
            summary |= {"best_resource": evaluation.resource, "best_configuration": dict(trial.configuration)}
        if history.ended is not None and history.ended.command:
            summary["command"] = history.ended.command
        self.run.summary.update(summary)
        self.run.finish()


def study_id(header: Header) -> str:
    """Name the study by its name and run directory; a job of a multirun is told by the sweep's time and its number."""
    run_dir = Path(header.settings["run_dir"])
    names = [run_dir.parent.name] if run_dir.parent.parent.name == "multirun" else []
    return "-".join(re.sub(r"[^A-Za-z0-9_-]+", "-", name) for name in (header.name, *names, run_dir.name))


def run_id(study: str, suffix: str) -> str:
    """Return an id that W&B takes, of at most 64 characters: a long study name is cut and gets its digest."""
    room = 64 - len(suffix) - 1
    if len(study) > room:
        digest = hashlib.sha256(study.encode()).hexdigest()[:8]
        study = f"{study[: room - 9]}-{digest}"
    return f"{study}-{suffix}"


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
    columns: list[str | int] = ["trial", "bracket", "rung", "resource", _metric(header), "state", "seconds"]
    rows: list[list[Any]] = []
    for trial in history.trials.values():
        last = trial.last
        seconds = sum(e.finished.seconds for e in trial.evaluations if e.finished is not None)
        error = _shown(header, last.error) if math.isfinite(last.error) else None
        values = [trial.configuration.get(dimension) for dimension in header.dimensions]
        rows.append([trial.trial, trial.bracket, last.rung, last.resource, error, trial.state, seconds, *values])
    return [*columns, *header.dimensions], rows


def _allowed(mode: str) -> str:
    import wandb
    from wandb.errors import AuthenticationError

    theirs = wandb.setup().settings.mode
    if "disabled" in (mode, theirs):
        return "disabled"
    if mode == "offline" or theirs in ("offline", "dryrun"):
        return "offline"
    try:
        if wandb.login(prompt=False, verify=False):
            return "online"
        why = "it has no key on this machine; `wandb login` sets one"
    except AuthenticationError as error:
        why = str(error)
    log.warning("tracker.mode=online, but W&B cannot log in: %s. Runs are kept offline and can be uploaded later.", why)
    return "offline"


def _metric(header: Header) -> str:
    return header.metric if header.maximize else "error"


def _shown(header: Header, error: float) -> float:
    return -error if header.maximize else error


def _finite(values: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in values.items() if math.isfinite(value)}


def _test(history: History) -> dict[str, float]:
    test = history.ended.test if history.ended is not None else {}
    return {key if key.startswith("test_") else f"test_{key}": value for key, value in test.items()}
