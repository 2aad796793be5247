"""Weights & Biases: every trial is a run of its own, grouped by study, and the parent process writes them all."""

import logging
import math
import shlex
import shutil
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from halving.errors import UserError, did_you_mean
from halving.history import Ended, Event, Header, History, Trial
from halving.tracking.runs import measured, metric_name, run_id, steps, study_id, trial_config, trial_table
from halving.trial import Configuration, Epoch, Finished, Resume, Start, Verdict

log = logging.getLogger(__name__)

MODES = ("offline", "online", "disabled")
FINAL = ("stopped", "completed", "failed")
WHOLE = "whole"  # the file in a run's directory that says what the run is whole up to


class Wandb:
    """Mirrors a study in W&B: one run per trial, and one of the study with its incumbent curve and table of trials.

    Runs go to `<run directory>/wandb`. Their ids follow from run directory and trial. A trial's run is written from
    what the history holds of it, so those that found `max_open` runs open are written when they end. A resumed study
    keeps the runs that are whole. What it left of others is removed offline, where no run can be reopened, and they
    are written anew; online they go on with the first step that W&B does not have.

    `mode` is "offline", "online" or "disabled". Nothing is uploaded unless it says online and W&B has a key; W&B's own
    setting (`WANDB_MODE`, `wandb offline`) can make that less, never more. The key is W&B's affair.
    `config(configuration, trial)` gives a trial's resolved configuration, and is called in the tracker's thread;
    without it the trial's values are set in the study's.

    Raises UserError for an unknown mode or a negative `max_open`.
    """

    def __init__(
        self,
        mode: str = "offline",
        project: str = "halving",
        entity: str | None = None,
        max_open: int = 100,
        config: Callable[[Configuration, int], Mapping[str, Any]] | None = None,
    ) -> None:
        if mode not in MODES:
            raise UserError(f"tracker.mode={mode}: unknown{did_you_mean(mode, MODES)}")
        if max_open < 0:
            raise UserError(f"tracker.max_open={max_open}: must be 0 or more runs open at once")
        self._mode = mode
        self._project = project
        self._entity = entity
        self._max_open = max_open
        self._config = config
        self._begun = False
        self._open: dict[int, _TrialRun] = {}
        self._whole: set[int] = set()
        self._study: _StudyRun | None = None

    def resume(self, history: History) -> None:
        if history.header is None or not self._begin():
            return
        for trial in history.trials.values():
            if _is_whole(history.header, f"t{trial.trial}", _mark(trial)):
                self._whole.add(trial.trial)

    def record(self, event: Event, history: History) -> None:
        header = history.header
        if header is None or not self._begin():
            return
        single = header.scheduler == "single"
        match event:
            case Start(trial) | Resume(trial) | Epoch(trial):
                self._follow(history.trials[trial], header)
            case Finished() if not single:
                self._follow_study(header, history)
            case Verdict(trial, state):
                self._whole.discard(trial)
                if state in FINAL and not single:
                    self._finish(history.trials[trial], header)
            case Ended() if single:
                self._whole.clear()
            case _:
                pass

    def close(self, history: History) -> None:
        header = history.header
        if header is None or not self._begin():
            return
        for trial in history.trials.values():
            if trial.trial not in self._whole:
                self._finish(trial, header, _test(history) if header.scheduler == "single" else {})
        if not history.finished or header.scheduler == "single":
            return
        mark = f"{len(history.finished)} {history.ended is not None}"
        if self._study is not None or not _is_whole(header, "study", mark):
            self._follow_study(header, history).finish(history, mark)

    def sync_command(self, history: History) -> str | None:
        """Return the line that uploads all runs of the study that are offline, or None."""
        if history.header is None or self._mode != "offline" or not history.trials:
            return None
        runs = Path(history.header.settings["run_dir"]) / "wandb"
        return f"wandb sync {shlex.quote(str(runs))}/offline-run-*" if runs.is_dir() else None

    def _begin(self) -> bool:
        """Settle the mode before the first event; return whether there is anything to mirror to."""
        if not self._begun:
            self._begun = True
            self._mode = _allowed(self._mode)
            # It tells its own debug.log of every run in a dozen lines, which would flood the log of the study.
            logging.getLogger("wandb").propagate = False
        return self._mode != "disabled"

    def _follow(self, trial: Trial, header: Header) -> None:
        self._whole.discard(trial.trial)
        if trial.trial not in self._open:
            if len(self._open) >= self._max_open:
                return
            self._open[trial.trial] = self._trial_run(trial, header)
        self._open[trial.trial].write(trial)

    def _finish(self, trial: Trial, header: Header, more: Mapping[str, Any] | None = None) -> None:
        run = self._open.pop(trial.trial, None) or self._trial_run(trial, header)
        self._whole.add(trial.trial)
        run.finish(trial, header, more or {})

    def _trial_run(self, trial: Trial, header: Header) -> "_TrialRun":
        name = study_id(header) if header.scheduler == "single" else f"trial-{trial.trial}"
        values = self._config(trial.configuration, trial.trial) if self._config else trial_config(header, trial)
        return _TrialRun(self._init(header, f"t{trial.trial}", name, "trial", values))

    def _follow_study(self, header: Header, history: History) -> "_StudyRun":
        if self._study is None:
            run = self._init(header, "study", study_id(header), "study", header.settings.get("config", {}))
            self._study = _StudyRun(run, header)
            if self._mode == "online":
                log.info("W&B: %s", run.url)
        self._study.write(history)
        return self._study

    def _init(self, header: Header, suffix: str, name: str, job_type: str, config: Mapping[str, Any]) -> Any:
        import wandb

        for stale in _directories(header, suffix, "offline-run"):
            shutil.rmtree(stale)
        study = study_id(header)
        online = self._mode == "online"
        return wandb.init(
            reinit="create_new",
            id=run_id(study, suffix),
            resume="allow" if online else None,
            name=name,
            group=study[:128],
            job_type=job_type,
            project=self._project,
            entity=self._entity,
            # W&B refuses longer tags.
            tags=[str(tag)[:64] for tag in header.settings.get("tags") or ()],
            notes=header.settings.get("notes") or None,
            config=dict(config),
            dir=str(header.settings["run_dir"]),
            mode="online" if online else "offline",
            settings=wandb.Settings(
                console="off",
                silent=True,
                quiet=True,
                disable_git=True,
                disable_code=True,
                disable_job_creation=True,
                save_code=False,
                # What is not uploaded by then stays for `wandb sync`; the default waits for ever, at exit too.
                finish_timeout=30.0,
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
        _finish(self._run, _mark(trial), failed=trial.state == "failed")


class _StudyRun:
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
            improved = islice(history.incumbents, self._incumbents, self._incumbents + 1)
            self._incumbents += any(evaluation is best for _, best in improved)
            if self._incumbents:
                winner, best = history.incumbents[self._incumbents - 1]
                row |= {self._best: measured(self._header, best.error), "best_trial": winner.trial}
            if self._evaluations >= self._run.starting_step:
                self._run.log(row, step=self._evaluations)

    def finish(self, history: History, mark: str) -> None:
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
            **_test(history),
        }
        if history.incumbent is not None:
            trial, evaluation = history.incumbent
            summary |= {"best_resource": evaluation.resource, "best_configuration": dict(trial.configuration)}
        if history.ended is not None and history.ended.command:
            summary["command"] = history.ended.command
        self._run.summary.update(summary)
        _finish(self._run, mark)


def _directories(header: Header, suffix: str, kind: str) -> list[Path]:
    return list((Path(header.settings["run_dir"]) / "wandb").glob(f"{kind}-*-{suffix}"))


def _is_whole(header: Header, suffix: str, mark: str) -> bool:
    marks = (directory / WHOLE for directory in _directories(header, suffix, "*run"))
    return any(path.exists() and path.read_text() == mark for path in marks)


def _finish(run: Any, mark: str, failed: bool = False) -> None:
    """Finish a run and leave a mark of what it is whole up to: an offline one that a kill cut off looks the same."""
    directory = Path(run.dir).parent
    run.finish(exit_code=int(failed))
    (directory / WHOLE).write_text(mark)


def _mark(trial: Trial) -> str:
    return f"{trial.state} {len(trial.evaluations)} {trial.last.resource}"


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


def _restarts(trial: Trial) -> int:
    return sum(len(evaluation.restarts) for evaluation in trial.evaluations)


def _finite(values: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in values.items() if math.isfinite(value)}


def _test(history: History) -> dict[str, float]:
    test = history.ended.test if history.ended is not None else {}
    return {key if key.startswith("test_") else f"test_{key}": value for key, value in test.items()}
