"""Weights & Biases: every trial is a run of its own, grouped by study, and the parent process writes them all."""

import logging
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from halving.errors import UserError, did_you_mean
from halving.history import Ended, Event, Header, History, Trial
from halving.tracking.runs import (
    fitted,
    notes_text,
    project_name,
    run_config,
    run_directory,
    run_id,
    study_id,
    tags,
    trial_config,
)
from halving.tracking.wandb_runs import (
    STAGED,
    Exhibits,
    StudyRun,
    TrialRun,
    directories,
    is_whole,
    none,
    study_mark,
    test_metrics,
    trial_mark,
)
from halving.trial import Configuration, Epoch, Finished, Resume, Start, Verdict

log = logging.getLogger(__name__)

MODES = ("offline", "online", "disabled")
FINAL = ("stopped", "completed", "failed")
# What of the environment would name our runs and has no say in it, and W&B's settings that `init` cannot replace.
NAMES = tuple(
    f"WANDB_{name}"
    for name in (
        *("PROJECT", "RUN_ID", "RUN_GROUP", "NAME", "NOTES", "TAGS", "JOB_TYPE", "DIR", "RESUME", "RESUME_FROM"),
        *("FORK_FROM", "REINIT", "SWEEP_ID", "SWEEP_PARAM_PATH", "LAUNCH", "LAUNCH_CONFIG_PATH", "CONFIG_PATHS"),
    )
)
INHERITED = (
    *("sweep_id", "sweep_param_path", "launch", "launch_config_path", "config_paths"),
    *("resume", "resume_from", "fork_from", "x_files_dir"),
)


class Wandb:
    """Mirrors a study in W&B: one run per trial, and one of the study with its incumbent curve and table of trials.

    Runs go to `<run directory>/wandb`. Their ids follow from run directory and trial. A trial's run is written from
    what the history holds of it, so those that found `max_open` runs open are written when they end. A resumed study
    keeps the runs that are whole. What it left of others is removed offline, where no run can be reopened, and they
    are written anew; online they go on with the first step that W&B does not have.

    `mode` is "offline", "online" or "disabled". Nothing is uploaded unless it says online and W&B has a key; W&B's own
    setting (`WANDB_MODE`, `wandb offline`) can make that less, never more. The key is W&B's affair.
    `config(configuration, trial)` gives a trial's resolved configuration, and is called in the tracker's thread;
    without it the trial's values are set in the study's. `exhibits` gives what the study's run shows at the end beside
    its curve. `below` is where the runs are written, the run directory by default.

    Raises UserError for an unknown mode or a negative `max_open`.
    """

    def __init__(
        self,
        mode: str = "offline",
        project: str = "halving",
        entity: str | None = None,
        max_open: int = 100,
        config: Callable[[Configuration, int], Mapping[str, Any]] | None = None,
        below: Path | None = None,
    ) -> None:
        if mode not in MODES:
            raise UserError(f"tracker.mode={mode}: unknown{did_you_mean(mode, MODES)}")
        if max_open < 0:
            raise UserError(f"tracker.max_open={max_open}: must be 0 or more runs open at once")
        self._mode = mode
        self._project = project_name(project)
        # What a user should know before the first trial, or nothing.
        self.note = ""
        if mode != "disabled" and self._project != project:
            self.note = (
                f"note: W&B's project is {self._project}, as it takes neither / \\ # ? % : nor more than 128 characters"
            )
        self._entity = entity
        self._max_open = max_open
        self._config = config
        self._below = below
        self.exhibits: Exhibits = none
        self._begun = False
        self._left = False
        self._notes = ""
        self._done = False
        self._open: dict[int, TrialRun] = {}
        self._whole: set[int] = set()
        self._study: StudyRun | None = None

    def resume(self, history: History) -> None:
        header = history.header
        if header is not None and self._begin():
            trials = history.trials.values()
            below = run_directory(header, "W&B")
            self._whole = {trial.trial for trial in trials if is_whole(below, f"t{trial.trial}", trial_mark(trial))}

    def record(self, event: Event, history: History) -> None:
        header, self._notes = history.header, notes_text(history.notes)
        if header is None or not self._begin():
            return
        single = header.single
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
        header, self._notes = history.header, notes_text(history.notes)
        if header is None or not self._begin():
            return
        history = history.closed()
        for trial in history.trials.values():
            if trial.trial not in self._whole:
                tested = test_metrics(history) if header.single else {}
                self._finish(trial, header, {"state": history.state(trial), **tested})
        below = run_directory(header, "W&B")
        studied = history.finished and not header.single
        if studied and (self._study is not None or not is_whole(below, "study", study_mark(history))):
            self._follow_study(header, history).finish(history)
        self._done = True

    def sync_command(self, history: History) -> str | None:
        """Return the line that uploads all runs of the study that are offline, or will be once rebuilt; or None."""
        if history.header is None or self._mode == "disabled" or not history.trials:
            return None
        runs = run_directory(history.header, "W&B") / "wandb"
        wanted = runs.is_dir() if self._mode == "offline" else not self._done
        return f"wandb sync {shlex.quote(str(runs))}/offline-run-*" if wanted else None

    def abandon(self) -> None:
        """End W&B's service, which would keep this process until all is uploaded: unless it has runs of others, too."""
        self._left = True
        import wandb

        if wandb.run is None:
            end_service()

    def _begin(self) -> bool:
        """Settle the mode before the first event; return whether there is anything to mirror to."""
        if not self._begun:
            self._begun = True
            self._mode = _allowed(self._mode)
            # It tells its own debug.log of every run in a dozen lines, which would flood the log of the study.
            logging.getLogger("wandb").propagate = False
            _report_nothing()
        return self._mode != "disabled" and not self._left

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

    def _trial_run(self, trial: Trial, header: Header) -> TrialRun:
        name = study_id(header) if header.single else f"trial-{trial.trial}"
        values = self._config(trial.configuration, trial.trial) if self._config else trial_config(header, trial)
        config = run_config(header, values, trial.configuration)
        stream = values.get("trial") if header.single else None
        number = trial.trial if stream is None else stream
        return TrialRun(self._init(header, f"t{trial.trial}", name, "trial", config), number)

    def _follow_study(self, header: Header, history: History) -> StudyRun:
        if self._study is None:
            config = run_config(header, header.provenance.config, {})
            if self._below is None:
                shutil.rmtree(run_directory(header, "W&B") / "wandb" / STAGED, ignore_errors=True)
            run = self._init(header, "study", study_id(header), "study", config)
            self._study = StudyRun(run, header, self.exhibits)
            if self._mode == "online":
                log.info("W&B: %s", run.url)
        self._study.write(history)
        return self._study

    def _init(self, header: Header, suffix: str, name: str, job_type: str, config: Mapping[str, Any]) -> Any:
        import wandb

        if (
            "wandb.sdk.launch" not in sys.modules
        ):  # then no input of a job can be staged; to ask imports it, for seconds
            wandb.Run._detect_and_apply_job_inputs = lambda self: None
        below = run_directory(header, "W&B") if self._below is None else self._below
        for stale in directories(below, suffix, "offline-run"):
            shutil.rmtree(stale)
        study = study_id(header)
        online = self._mode == "online"
        try:
            return wandb.init(
                reinit="create_new",
                id=run_id(study, suffix),
                resume="allow" if online else None,
                name=fitted(name, 128),
                group=fitted(study, 128),
                job_type=job_type,
                project=self._project,
                entity=self._entity,
                tags=tags(header),
                notes=self._notes,
                config=dict(config),
                dir=str(below),
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
        except wandb.Error as error:  # it is away, or refuses: so it would each other run
            self._left = True
            raise UserError(f"W&B: {error}") from error


def _report_nothing() -> None:
    """Keep W&B from telling its maker of errors: where it is away, that holds up the end, and fills the log."""
    with suppress(ImportError):
        from wandb.analytics.opentelemetry.opentelemetry_proxy import disable

        disable()


def end_service() -> None:
    """Kill the service of this process, if it has one: whatever waits for it ends, and the next run starts another."""
    import wandb
    from wandb.sdk import wandb_setup

    with suppress(AttributeError):  # of which W&B promises none
        connection: Any = wandb_setup.singleton()._connection
        connection._proc._process.kill()
        connection._proc._process.wait()
    with suppress(Exception):  # there is nobody left to say goodbye to
        wandb.teardown()


def _allowed(mode: str) -> str:
    """Return the mode that W&B's own settings leave, once they are rid of what would name our runs.

    Raises UserError for an environment variable that W&B does not take.
    """
    if mode == "disabled":
        return mode
    import wandb
    from wandb.errors import AuthenticationError

    quiet = wandb.Settings(silent=True, quiet=True)
    wandb.termsetup(quiet, None)  # until the settings are read
    _check_environment()
    os.environ.pop("WANDB_SERVICE", None)  # of a process that started this one, and may end before it
    settings = wandb.setup(quiet).settings
    for name in INHERITED:
        setattr(settings, name, wandb.Settings.model_fields[name].default)
    if settings.mode == "disabled":
        return "disabled"
    if mode == "offline" or settings.mode in ("offline", "dryrun"):
        return "offline"
    try:
        if wandb.login(prompt=False, verify=False):
            return "online"
        why = "it has no key on this machine; `wandb login` sets one"
    except AuthenticationError as error:
        why = str(error)
    log.warning("tracker.mode=online, but W&B cannot log in: %s. Runs are kept offline and can be uploaded later.", why)
    return "offline"


def _check_environment() -> None:
    import wandb
    from pydantic import ValidationError

    for name, value in list(os.environ.items()):
        try:
            wandb.Settings().update_from_env_vars({name: value})
        except (ValueError, wandb.Error) as error:
            if name in NAMES:
                del os.environ[name]  # it would only fail, for whoever reads it
                continue
            # The value is left out, as it may be a key.
            why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise UserError(f"W&B cannot use {name} as it is set: {why}") from error
