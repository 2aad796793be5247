"""What a multirun says: a line as each job ends, and at its end a table of all jobs, read from their directories."""

import os
import re
import shlex
import signal
import socket
import statistics
import sys
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from types import FrameType
from typing import Any, cast

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from halving.checkpoints.links import refuse
from halving.config.arguments import as_typed
from halving.config.commands import key_of
from halving.config.resumption import (
    SWEEP,
    begun_with,
    check_sweep,
    job_directories,
    sweep_command,
    sweep_words,
    swept_by,
)
from halving.config.yaml_files import redact_files
from halving.errors import UserError, noted
from halving.history import History
from halving.journal import FILE, read, replay
from halving.journal.lock import owner
from halving.journal.run_directories import by_number
from halving.redaction import Secrets
from halving.report.derived import replace
from halving.report.jobs import Job
from halving.report.summary import summary
from halving.report.tables import own_error, uncertainty
from halving.spreadsheet import table
from halving.tracking.terminal import Terminal, printable
from halving.tracking.wording import amount, count, digits, duration

_FAILURE = "failure.txt"
_QUIET = 3  # looks in a row at which no job runs
_COLUMNS: tuple[str, ...] = ("job", "overrides", "error", "epochs", "seconds", "state")
# Overrides that change nothing about what comes out.
_NEUTRAL = ("seed", "tracker", "notes", "device", "data_dir", "trusted_packages")
_sweeps: list["RememberSweep"] = []


class RememberSweep(Callback):
    """Notes what a multirun is going to run, and says how each job ended.

    Hydra does not call back at the end when a job has failed. A launcher may run jobs in other processes, on copies.
    """

    def __init__(self) -> None:
        self.sweep: Path | None = None
        self.jobs: list[list[str]] = []  # what is known beforehand: the overrides of each
        self.command = ""
        self._started: list[tuple[Path, list[str]]] = []
        self._ended: list[float | None] = []  # seconds, if it had not finished before
        self._failed: list[tuple[list[str], str]] = []
        self._before, self._began = 0, 0.0
        self._signal, self._launcher = 0, ".BasicLauncher"

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Look at where Hydra is about to write its log and its own files."""
        with suppress(OmegaConfBaseException), _insisting(Secrets.of({}, sys.argv[1:])):  # the run will say the same
            refuse(Path(config.hydra.run.dir), more=_own(config))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.sweep = Path(config.hydra.sweep.dir).resolve()
        secrets = Secrets.of({}, sys.argv[1:])
        with _insisting(secrets):
            refuse(self.sweep)
            for directory in (*_places(config, self.sweep), *job_directories(self.sweep)):
                refuse(directory, more=_own(config))
            _check(config, self.sweep)
        self.jobs = [_told(job) for job in _planned(config.hydra)]
        self.command = secrets.redact(sweep_command(config.hydra, self.sweep))
        excluded = [*config.hydra.job.config.override_dirname.exclude_keys]
        if config.resume is not None and "resume" not in excluded:  # it would be part of the jobs' names
            option = f"hydra.job.config.override_dirname.exclude_keys=[{','.join([*excluded, 'resume'])}]"
            config.hydra.overrides.hydra.append(option)
        if threading.current_thread() is threading.main_thread():
            for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
                if signal.getsignal(number) == default:
                    signal.signal(number, self._interrupt)
            self._launcher = str(config.hydra.launcher["_target_"])
            if not self._launcher.endswith(".BasicLauncher"):  # what it starts inherits the mask
                threading.Thread(target=threading.Event().wait, daemon=True).start()  # which hears Ctrl-C instead
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        _sweeps.append(self)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if self.sweep is None:  # a single run
            return
        if not any(self is sweep for sweep in _sweeps):  # a launcher's process, to which the command passes it on
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        directory = Path(config.hydra.runtime.output_dir).resolve()
        overrides = cast(list[str], OmegaConf.to_container(config.hydra.overrides.task, resolve=False))
        self._started.append((directory, _told(overrides)))
        self._before, self._began = _size(directory), time.monotonic()
        self._say("begins")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        job_return.overrides = _told(list(job_return.overrides or ()))  # which Hydra prints of one that failed
        if self.sweep is None:
            return
        directory = self._started[-1][0]
        if self._signal:  # what the job was importing has made another error of it
            (directory / _FAILURE).unlink(missing_ok=True)
            self._interrupt(self._signal, None)
        row, seconds = _row(_job(directory, self.sweep)), time.monotonic() - self._began
        known = row["state"] == "finished" and self._before == _size(directory)
        self._ended.append(None if known else seconds)
        if job_return.status == JobStatus.FAILED or row["error"] is None:
            said = f"failed: {_failure(directory)}"
            self._failed.append((self._started[-1][1], said))
        else:
            said = f"{row['metric']} {row['shown']}, {count(row['epochs'], row['unit'])}"
            said += ", done before" if known else f" in {duration(seconds)}"
        self._say(f"{said}{self._left()}")

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        from halving.executors.signals import AtOnce  # with numpy, which a mere look can do without

        again, self._signal = self._signal, number
        if not self._launcher.endswith(".BasicLauncher"):
            self._stop_jobs(at_once=bool(again))
        raise AtOnce if number == signal.SIGINT else SystemExit(128 + number)

    def _stop_jobs(self, at_once: bool) -> None:
        """Let the jobs that a launcher has begun on this machine end their studies, before it ends their processes."""
        if not at_once:
            Terminal().print("\nthe running jobs stop after their epochs; a second Ctrl-C ends them at once")
        told: set[int] = set()
        quiet = 0
        while quiet < _QUIET:
            running = self._running()
            for pid in running - told:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            if at_once:
                break
            told, quiet = told | running, 0 if running else quiet + 1
            time.sleep(0.05)
        if "submitit" in self._launcher:  # which would leave those that have not begun a study yet
            from halving.executors.tree import descendants

            for pid in descendants():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _running(self) -> set[int]:
        """Return the processes of this machine that run a study of this multirun."""
        assert self.sweep is not None
        here = re.compile(rf"host {re.escape(socket.gethostname())}, pid (\d+)")
        found = (here.fullmatch(owner(directory)) for directory in job_directories(self.sweep))
        return {int(match[1]) for match in found if match} - {os.getpid()}

    def _say(self, text: str) -> None:
        directory, overrides = self._started[-1]
        of_all = set.intersection(*map(set, self.jobs)) if len(self.jobs) > 1 else set[str]()
        own = " ".join(item for item in overrides if item not in of_all)
        Terminal().print(f"job {_name(directory, self.sweep)} ({own}): {text}", soft_wrap=True, highlight=False)

    def _left(self) -> str:
        if not any(self is sweep for sweep in _sweeps) or not self.jobs:
            return ""
        ran, more = [it for it in self._ended if it is not None], len(self.jobs) - len(self._ended)
        left = f", about {duration(round(statistics.mean(ran) * more))} left" if ran and more else ""
        return f" [{len(self._ended)} of {count(len(self.jobs), 'jobs')}{left}]"

    def rows(self) -> list[dict[str, Any]]:
        """Return what became of each job, those of earlier commands too, and of those that have not begun."""
        assert self.sweep is not None
        found = {*job_directories(self.sweep), *(directory for directory, _ in self._started)}
        jobs = [_job(directory, self.sweep) for directory in found if directory.is_dir()]
        rows = [_row(job) for job in sorted(jobs, key=lambda job: by_number(Path(job.name)))]
        begun = [set(overrides) for _, overrides in self._started]
        waiting = [(job, "not started") for job in self.jobs if set(job) not in begun]
        here, nothing = (
            [set(row["overrides"]) for row in rows],
            dict.fromkeys((*_COLUMNS, "metric", "unit")) | {"shown": ""},
        )
        return rows + [
            nothing | {"job": "", "overrides": job, "state": state}
            for job, state in ((*self._failed, *waiting) if rows else ())
            if set(job) not in here
        ]


@contextmanager
def _insisting(secrets: Secrets) -> Generator[None]:
    """End the command at a mistake that a callback finds, of which Hydra would only warn."""
    try:
        yield
    except UserError as error:
        sys.exit(printable(f"error: {secrets.redact(str(error))}"))


def _own(config: DictConfig) -> str:
    """Return the name below a job's directory at which Hydra leaves files of its own."""
    return next(iter(Path(config.hydra.output_subdir or "").parts), "")


def _places(config: DictConfig, sweep: Path) -> list[Path]:
    """Return what is there where the jobs of a multirun will be. Raises UserError for a link to a directory."""
    subdir = str(cast(dict[str, Any], OmegaConf.to_container(config.hydra.sweep, resolve=False))["subdir"])
    numbered = subdir.startswith("${job_or_number:")
    found = [*sweep.glob(f"{escape(subdir.partition('${')[0])}*")]
    places = [path for path in found if path.is_dir() and (not numbered or path.name.isdigit())]
    for path in filter(Path.is_symlink, places):
        raise UserError(f"{path} is a symbolic link to {path.readlink()}, and would be a job's; nothing was done")
    return places


def note_failure(message: str) -> None:
    """Leave the reason of a job's failure in its directory."""
    directory = Path(HydraConfig.get().runtime.output_dir)
    with suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        replace(directory / _FAILURE, message + "\n")


def forget_failure() -> None:
    """Remove the reason of an earlier failure, as the job runs again."""
    (Path(HydraConfig.get().runtime.output_dir) / _FAILURE).unlink(missing_ok=True)


def print_table() -> None:
    """Print the jobs of the multirun that has just ended, if there was one, and write them to jobs.csv beside them."""
    for sweep in _sweeps:
        assert sweep.sweep is not None
        redact_files(Secrets.of({}, sys.argv[1:]), sweep.sweep / SWEEP)
        if not (rows := sweep.rows()):
            continue
        jobs = (row | {"overrides": shlex.join(row["overrides"])} for row in rows)
        replace(sweep.sweep / "jobs.csv", table(_COLUMNS, jobs))
        _print(rows, sweep)
        if len(rows) > 1 and not _interrupted(rows):
            problems: list[str] = []
            with noted("comparison.html could not be written", problems):
                problems += write_comparison(sweep.sweep, compared(sweep.sweep))
                Terminal().print(f"{sweep.sweep}/comparison.html", soft_wrap=True, highlight=False)
            for problem in problems:
                Terminal().print(f"note: {problem}", soft_wrap=True, highlight=False)
    _sweeps.clear()


def write_comparison(directory: Path, jobs: Sequence[Job]) -> list[str]:
    """Write comparison.html of some jobs into a directory; return a line on each part that it lacks."""
    from halving.comparison import tables
    from halving.report.comparison_page import comparison_html

    problems, curves = list[str](), dict[str, Any]()
    with noted("regrets could not be told", problems):
        curves = tables(job.history for job in jobs if job.history is not None)
    replace(directory / "comparison.html", comparison_html(directory, jobs, curves, problems))
    return problems


def compared(directory: Path) -> list[Job]:
    """Return what became of each job of a multirun, or of each study anywhere below a directory.

    Raises UserError where there is none.
    """
    jobs = [_job(path, directory) for path in job_directories(directory) if path != directory]
    planned: list[list[str]] = []
    if (directory / SWEEP).is_file():
        with suppress(OmegaConfBaseException, OSError):
            planned = [_told(job) for job in _planned(swept_by(directory))]
    if not jobs and not planned:
        raise UserError(f"{directory}: no {FILE} there or below; give a run directory, or a multirun's directory")
    begun = [set(job.overrides) for job in jobs]
    waiting = [job for job in planned if set(job) not in begun][: max(0, len(planned) - len(jobs))]
    jobs.sort(key=lambda job: by_number(Path(job.name)))
    return [*jobs, *(Job("", directory, tuple(overrides), "not started") for overrides in waiting)]


def _check(config: DictConfig, sweep: Path) -> None:
    """Raise UserError where a multirun would run among the jobs of another one."""
    resume = None if config.resume is None else Path(config.resume).resolve()
    if resume == sweep:
        check_sweep(config, sweep)
    elif resume is not None and (resume / SWEEP).is_file():
        raise UserError(f"resume: {resume} goes on where it lies, not in hydra.sweep.dir={sweep}; leave that out")
    elif (sweep / SWEEP).is_file() and any(path.name.isdigit() for path in job_directories(sweep)):
        raise UserError(f"{sweep} holds a multirun; go on with it by resume={sweep}, or take another hydra.sweep.dir")


def _planned(settings: DictConfig) -> list[list[str]]:
    """Return the overrides of each job, where Hydra's own sweeper makes them."""
    if not str(settings.sweeper["_target_"]).endswith(".BasicSweeper"):
        return []
    hydra = GlobalHydra.instance()
    parser = OverridesParser.create(hydra.config_loader() if hydra.is_initialized() else None)
    with suppress(HydraException):  # the sweeper is about to say what is wrong
        return BasicSweeper.split_arguments(parser.parse_overrides(sweep_words(settings)), None)[0]
    return []


def _told(overrides: list[str]) -> list[str]:
    """Return a job's overrides as they may be shown."""
    return Secrets.of({}, overrides).redact([item for item in as_typed(overrides) if not item.startswith("resume=")])


def _size(directory: Path) -> int:
    journal = directory / FILE
    return journal.stat().st_size if journal.is_file() else 0


def _failure(directory: Path) -> str:
    path = directory / _FAILURE
    return path.read_text(encoding="utf-8").strip() if path.is_file() and not path.is_symlink() else ""


def _name(directory: Path, sweep: Path | None) -> str:
    return str(directory.relative_to(sweep) if sweep and directory.is_relative_to(sweep) else directory)


def _job(directory: Path, sweep: Path) -> Job:
    failure, history, who = _failure(directory), None, owner(directory)
    try:
        history = replay(read(directory)) if (directory / FILE).is_file() else History()
        history = history if who else history.closed()
    except UserError as error:  # a damaged journal is its own job's affair
        failure = str(error)
    if history is not None and history.ended is not None and history.incumbent is not None:
        state = "finished"
    elif who:
        state = "running"
    elif failure:
        state = f"failed: {failure}"
    else:
        state = "interrupted" if history is None or history.ended is None else "failed: no trial survived"
    overrides = tuple(_told(list(begun_with(directory).overrides)))
    return Job(_name(directory, sweep), directory, overrides, state, history if history and history.header else None)


def _row(job: Job) -> dict[str, Any]:
    found = summary(job.history) if job.history is not None else {}
    return {
        "job": job.name,
        "overrides": list(job.overrides),
        "error": own_error(job.history) if job.history is not None else None,
        "shown": _shown(job.history),
        "epochs": found.get("resource_spent"),
        "seconds": round(found["wall_seconds"], 1) if found else None,
        "state": job.state,
        "metric": found.get("metric"),
        "unit": found.get("unit"),
    }


def _shown(history: History | None) -> str:
    best = own_error(history) if history is not None else None
    return "" if best is None or history is None else digits(best, uncertainty(history))


def _print(rows: list[dict[str, Any]], sweep: RememberSweep) -> None:
    from rich.table import Table

    of_all = set.intersection(*(set(row["overrides"]) for row in rows)) if len(rows) > 1 else set[str]()
    metric, unit = _one(rows, "metric", "error"), _one(rows, "unit", "resource")
    table = Table("job", "overrides", box=None, pad_edge=False, header_style="bold", title_justify="left")
    for name in (metric, unit, "seconds"):
        table.add_column(name, justify="right")
    table.add_column("state")
    for row in rows:
        spent = "" if row["epochs"] is None else amount(row["epochs"])
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.1f}"
        own = " ".join(item for item in row["overrides"] if item not in of_all)
        table.add_row(row["job"], own, row["shown"], spent, seconds, row["state"])
    console = Terminal()
    console.print()
    if of_all:
        console.print(f"all jobs: {' '.join(sorted(of_all))}", highlight=False, soft_wrap=True)
    console.print(table)
    if means := _means(rows, of_all):
        mean = f"mean {metric} ± standard error"
        over = Table("over seeds", mean, "seeds", "", box=None, pad_edge=False, header_style="bold")
        for cells in means:
            over.add_row(*cells)
        console.print()
        console.print(over)
    console.print(f"\n{sweep.sweep}/jobs.csv", soft_wrap=True, highlight=False)
    if _interrupted(rows):
        console.print(f"\ninterrupted; go on with: {sweep.command}", soft_wrap=True, highlight=False)


def _interrupted(rows: list[dict[str, Any]]) -> bool:
    return any(row["state"] in ("interrupted", "not started") for row in rows)


def _means(rows: list[dict[str, Any]], of_all: set[str]) -> list[tuple[str, str, str, str]]:
    """Return for each combination of the other overrides the mean over its seeds, with its standard error."""
    from halving.report.methods import mean_and_error

    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        others = (item for item in row["overrides"] if item not in of_all)
        groups.setdefault(tuple(sorted(it for it in others if not _neutral(it))), []).append(row)
    if len({seed for row in rows if (seed := _seed(row))}) < 2 or len(groups) == len(rows):
        return []
    means: list[tuple[str, str, str, str]] = []
    for others, of_group in groups.items():
        errors = list({_seed(row): row["error"] for row in of_group if row["state"] == "finished"}.values())
        mean = mean_and_error(errors) if errors else ""
        lacking = len(set(map(_seed, of_group))) - len(errors)
        means.append(
            (" ".join(others) or "all jobs", mean, str(len(errors)), f"{lacking} not finished" if lacking else "")
        )
    return means


def _seed(row: dict[str, Any]) -> str:
    return next((item.lstrip("+") for item in reversed(row["overrides"]) if key_of(item) == "seed"), "")


def _neutral(override: str) -> bool:
    return key_of(override).partition(".")[0] in _NEUTRAL


def _one(rows: list[dict[str, Any]], name: str, default: str) -> str:
    """Return what all jobs have in common, else a default."""
    found = {row[name] for row in rows} - {None}
    return found.pop() if len(found) == 1 else default
