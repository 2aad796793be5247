"""What an app's function returned, in its trial's directory: there it outlives launchers, which lose answers."""

import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import update_wrapper
from pathlib import Path
from typing import Any, Self, cast

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.hydra_config import HydraConfig
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from halving.checkpoints.files import put
from halving.checkpoints.names import remove
from halving.errors import StudyError, did_you_mean, first_line
from halving.redaction import Secrets
from halving.trial import plain

log = logging.getLogger(__name__)

DIRECTORY = ".halving"  # below a trial's own
PROBLEM = ".halving-problem"  # below the sweep's: why each job would come to nothing
VARIABLE = "HALVING_JOB"
CHILD = "HALVING_SWEEP_CHILD"  # in the environment of an app that is one job of a sweep
VALUE = "value"  # what a number is called that is returned alone


@dataclass(frozen=True, slots=True)
class Rung:
    """One job of a trial, as the process that runs it is told: the trial's directory, and from where to where."""

    directory: Path
    since: int
    until: int

    @property
    def answer(self) -> Path:
        return Path(self.directory, DIRECTORY, f"{self.until}.json")

    @property
    def problem(self) -> Path:
        return self.directory.parent / PROBLEM

    @property
    def lock(self) -> Path:
        """What is there once the app's function has begun."""
        return self.answer.with_suffix(".lock")

    @property
    def kept(self) -> Path:
        """A copy of what the job goes on from, while it runs."""
        return self.answer.with_suffix(".kept")

    def check(self) -> None:
        """Raises StudyError where a job of the sweep has shown that none could come to anything."""
        if self.problem.exists():
            raise StudyError(self.problem.read_text())

    def told(self) -> str:
        """Return what a job's environment holds of it."""
        return f"{self.since}-{self.until}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a job came to: the metrics at its end, and after each epoch where they are known; or why it failed."""

    metrics: Mapping[str, float]
    epochs: tuple[Mapping[str, float], ...]
    seconds: float
    cause: str = ""

    @classmethod
    def at(cls, path: Path) -> Self | None:
        """Return what was answered, None if nothing was."""
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        return cls(found["metrics"], tuple(found["epochs"]), found["seconds"], found["cause"])

    def leave(self, path: Path) -> None:
        put(json.dumps(asdict(self)).encode(), path)


class Answering:
    """An app's function that leaves what it comes to beside what it writes. Picklable wherever the function is.

    A rung that was answered is not run again, nor is one while another process runs it. `metric` names what counts of
    a dict; `inject` says whose trainer is ended at the rung. A job that was killed finds what lies at `patterns` as it
    was when it first began. Where the app has shown that it cannot be tuned, a job ends before that.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        metric: str | None,
        inject: str | None,
        patterns: tuple[str, ...],
    ) -> None:
        self._function, self._metric, self._inject, self._patterns = function, metric, inject, patterns
        update_wrapper(self, function)

    def __reduce__(self) -> tuple[Any, ...]:
        return Answering, (self._function, self._metric, self._inject, self._patterns)

    def __call__(self, cfg: Any) -> Any:
        if (told := os.environ.get(VARIABLE)) is None:
            return self._function(cfg)
        since, _, until = told.partition("-")
        rung = Rung(Path(HydraConfig.get().runtime.output_dir), int(since), int(until))
        with _alone(rung.lock):
            if Answer.at(rung.answer) is not None or rung.problem.exists():
                return None
            begin(rung, self._patterns)
            try:
                return self._run(rung, cfg)
            finally:
                if rung.answer.exists():
                    remove(rung.kept)

    def _run(self, rung: Rung, cfg: Any) -> Any:
        began, epochs = time.perf_counter(), list[dict[str, float]]()

        def leave(metrics: Mapping[str, float], cause: str = "") -> None:
            Answer(metrics, tuple(epochs), time.perf_counter() - began, cause).leave(rung.answer)

        try:
            with self._injected(rung, epochs):
                value = self._function(cfg)
            metrics = measured(value, self._metric)
        except StudyError as error:
            put(str(error).encode(), rung.problem)
            raise
        except SystemExit as error:
            leave({}, f"the app exited with status {error.code}")
            raise RuntimeError(f"the app exited with status {error.code}") from error  # which ends no batch
        except Exception as error:
            log.exception("the app failed between %d and %d", rung.since, rung.until)
            secrets = Secrets.of(OmegaConf.to_container(cfg))
            leave({}, secrets.redact(first_line(f"{type(error).__name__}: {error}")))
            raise
        leave(metrics)
        return value

    def _injected(self, rung: Rung, epochs: list[dict[str, float]]) -> AbstractContextManager[None]:
        if self._inject is None:
            return nullcontext()
        from halving.lightning import pausing_at

        return pausing_at(rung.answer.parent, rung.since, rung.until, epochs)


def one_job(context: HydraContext, function: Answering, config: DictConfig, arguments: list[str]) -> None:
    """Be one job of a sweep, whose overrides are what was typed."""
    launcher = BasicLauncher()
    launcher.setup(hydra_context=context, task_function=function, config=config)
    launcher.launch([arguments], initial_job_idx=0)


def measured(value: Any, metric: str | None) -> dict[str, float]:
    """Return what an app returned as metrics. Raises StudyError for what cannot be optimised."""
    match value := plain(value):
        case None:
            raise StudyError("the app's function returns None; let it return the metric to optimise")
        case bool():
            raise StudyError(f"the app's function returns {value}; let it return the metric to optimise")
        case int() | float():
            return {metric or VALUE: float(value)}
        case Mapping():
            found = {str(name): float(each) for name, each in _numbers(cast(Mapping[Any, Any], value))}
        case _:
            kind = type(value).__name__
            raise StudyError(f"the app's function returns a {kind}; let it return a number, or a dict of numbers")
    if metric is None:
        raise StudyError(
            f"the app's function returns a dict ({', '.join(found) or 'without numbers'}); say which of them counts by "
            f"hydra.sweeper.metric={next(iter(found), '<name>')}"
        )
    if metric not in found:
        raise StudyError(
            f"hydra.sweeper.metric={metric}: the app's function returns no such number{did_you_mean(metric, found)}"
        )
    return found


def _numbers(value: Mapping[Any, Any]) -> Iterator[tuple[Any, float]]:
    for name, each in value.items():
        number = plain(each)
        if isinstance(number, int | float) and not isinstance(number, bool):
            yield name, number


def matching(directory: Path, patterns: Iterable[str]) -> set[Path]:
    """Return what of an app's own lies at patterns below a trial's directory."""
    found = (path for pattern in patterns for path in directory.glob(pattern))
    return {path for path in found if path.relative_to(directory).parts[0] != DIRECTORY}


def begin(rung: Rung, patterns: tuple[str, ...]) -> None:
    """Keep a copy of what lies at patterns, or put it back if the job has begun before."""

    def copy(path: Path, source: Path, target: Path) -> None:
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, place, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy2(path, place, follow_symlinks=False)

    if rung.kept.exists():
        for path in matching(rung.directory, patterns):
            remove(path)
        shutil.copytree(rung.kept, rung.directory, symlinks=True, dirs_exist_ok=True)
        return
    draft = rung.answer.with_suffix(".tmp")
    remove(draft)
    draft.mkdir()
    for path in matching(rung.directory, patterns):
        copy(path, rung.directory, draft)
    draft.replace(rung.kept)


@contextmanager
def _alone(lock: Path) -> Generator[None]:
    """Wait until nobody else runs this rung, as a job may that outlived its launcher.

    The lock is of a kind that what the app forks does not share, and that a file system may not know.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        with suppress(OSError):
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.warning("%s: waiting for a process that still runs this job", lock.parent)
                fcntl.lockf(file, fcntl.LOCK_EX)
        yield
