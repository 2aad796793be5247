"""A study that somebody else's loop drives: it asks for jobs, and tells what they came to."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

from halving.app.tune import Composed, ended, warn
from halving.checkpoints import named
from halving.checkpoints.store import State, Store
from halving.environment import expanded
from halving.errors import UserError
from halving.executors.base import failure
from halving.executors.handed import Handed
from halving.schedulers import Scheduler, SuccessiveHalving
from halving.searchers import RandomSearcher, Searcher
from halving.space import Space
from halving.study import Study
from halving.tracking.base import Tracker
from halving.training.own import hashed, measured
from halving.trial import Configuration, Epoch, Finished, Job, Outcome, Restarted, Step
from halving.tuner import Budget


@dataclass(frozen=True, slots=True)
class Asked(Job):
    """Train `configuration` from `since` on to `until`; `directory` has a copy of the files that were told at `since`.

    The copy may be changed, and goes when the job is told. Where no files were told `directory` is None.
    """

    directory: Path | None = None


class AskTell:
    """A study whose jobs run wherever its user runs them: the decisions and the journal of `tune`, without its loop.

    `ask` gives a job, or None where there is none before another is told; several may be out at once. `tell` says what
    one came to. What was told is on the disk when `tell` returns. With `resume` a study goes on: jobs that were never
    told are handed out again first. At the end, when it is `done`, or with `close`, the tables and the report are
    written. Scheduler, options and the rest are those of `tune`.

    Raises UserError as `tune` does.
    """

    def __init__(
        self,
        space: Space | Mapping[str, Any],
        scheduler: Callable[..., Scheduler] | Scheduler = SuccessiveHalving,
        *,
        searcher: Callable[..., Searcher] = RandomSearcher,
        name: str = "ask and tell",
        seed: int = 0,
        initial: Configuration | None = None,
        budget: Budget | None = None,
        metric: str = "error",
        maximize: bool = False,
        notes: str = "",
        trackers: Sequence[Tracker] = (),
        run_dir: str | Path | None = None,
        resume: bool = False,
        progress: bool = False,
        **options: Any,
    ) -> None:
        composed = Composed.of(
            *(space, scheduler, searcher, name, seed, initial, budget, metric, maximize, run_dir, options),
            door="AskTell",
            notes=notes,
        )
        self.done = False
        self._header = composed.header
        self._run_dir = composed.directory
        self._jobs = Handed()
        self._lent: dict[int, Path] = {}
        with ExitStack() as opened:
            root = composed.directory or Path(opened.enter_context(TemporaryDirectory(prefix="halving-")))
            self._store = Store(root)
            self._runner = opened.enter_context(composed.opened(self._jobs, resume, trackers, progress, root))
            self._tuner = self._runner.tuner
            self._runner.begin()
            self._tuner.sync()
            opened.callback(lambda: [self._take_back(trial) for trial in tuple(self._lent)])
            self._open: ExitStack | None = opened.pop_all()
        if self._runner.before.ended is not None:
            self._go_on()

    @property
    def study(self) -> Study:
        """The study as it stands."""
        return Study(self._tuner.history, self._run_dir)

    def ask(self) -> Asked | None:
        """Return a job, or None: then nothing can be handed out before another is told, or the study is `done`.

        Raises UserError once the study is closed.
        """
        if self.done:
            return None
        self._insist_open()
        self._go_on()
        job = self._jobs.fetch()
        return None if job is None else self._lend(job)

    def tell(
        self,
        job: Job,
        metrics: Mapping[str, Any] | float | Sequence[Mapping[str, Any] | float] | BaseException | str | None = None,
        directory: str | Path | None = None,
        *,
        failed: bool = False,
    ) -> None:
        """Say what a job came to: the metrics at `job.until`, or of the last epochs until there; or that it failed.

        A number alone is the metric; an exception, or with `failed` a text, is why it failed. What lies in `directory`
        is copied, and given with the trial's next job.

        Raises UserError, and the job stays out, for one that is not, for metrics without the one that counts, and for a
        directory that is none; StorageError where the disk refuses.
        """
        self._insist_open()
        if (out := self._jobs.out(job.trial, job.until)) is None:
            raise UserError(f"tell: trial {job.trial} has no job to {job.until} out; was it told? ask() gives it again")
        job, seconds = out
        steps = self._failure(job, metrics, seconds) if failed or isinstance(metrics, BaseException) else None
        self._jobs.tell(job.trial, *(steps or self._success(job, metrics, directory, seconds)))
        self._tuner.listen()
        self._tuner.sync()
        self._take_back(job.trial)
        if self._jobs.idle():
            self._go_on()

    def close(self) -> None:
        """End this process's part: write tables and report, and let the journal go. `resume` takes it up again."""
        self.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (stack := self._open) is not None:
            self._open = None
            stack.__exit__(kind, error, trace)
            warn(self._runner)

    def _go_on(self) -> None:
        """Let the tuner hand out what it can; where nothing is left, conclude."""
        if not self._tuner.hand_out():
            self._tuner.record(ended(self._tuner.history))
            self.done = True
            self.close()

    def _insist_open(self) -> None:
        if self._open is None:
            raise UserError("this study is closed; AskTell(..., run_dir=..., resume=True) goes on with it")

    def _lend(self, job: Job) -> Asked:
        """Return a job with a copy of its trial's newest files; where these are damaged, it begins anew."""
        asked = Asked(job.trial, dict(job.configuration), job.since, job.until)
        for resource in named(self._tuner.history.trials[job.trial]) if job.since else ():
            asked = replace(asked, since=resource)
            try:
                files = self._store.load(job.trial, resource, self._hashed(job)).files
            except UserError as problem:
                self._tuner.record(Restarted(job.trial, 0, str(problem)))
                self._tuner.sync()
                return replace(asked, since=0)
            if files is not None:
                self._lent[job.trial] = self._store.working(job.trial, files)
                return replace(asked, directory=self._lent[job.trial])
        return asked

    def _take_back(self, trial: int) -> None:
        if trial in self._lent:
            rmtree(self._lent.pop(trial), ignore_errors=True)

    def _hashed(self, job: Job) -> str:
        return hashed(self._header.seed, job.trial, job.configuration)

    def _failure(self, job: Job, error: object, seconds: float) -> tuple[Step, ...]:
        return (failure(job, error if isinstance(error, BaseException | str) else "told that it failed", seconds),)

    def _success(self, job: Job, metrics: Any, directory: str | Path | None, seconds: float) -> tuple[Step, ...]:
        metric, rows = self._header.metric, metrics if isinstance(metrics, list | tuple) else [metrics]
        if not 1 <= len(rows) <= job.until:
            raise UserError(f"tell: metrics of {len(rows)} epochs for a job to {job.until}")
        rows = rows[job.since - job.until :]  # those before were lost with a checkpoint, and are known
        numbers = range(job.until - len(rows) + 1, job.until + 1)
        epochs = [
            Epoch(job.trial, epoch, measured(row, metric, epoch)) for epoch, row in zip(numbers, rows, strict=True)
        ]
        for epoch in epochs:
            if metric not in epoch.metrics:
                raise UserError(f"tell: there is {', '.join(epoch.metrics)} and no {metric}, which is the metric")
        errors = [epoch.metrics[metric] for epoch in epochs]
        lost = next((i for i, error in enumerate(errors) if not math.isfinite(error)), None)
        curve = tuple(errors[: None if lost is None else lost + 1]) if len(rows) == job.until - job.since else ()
        if lost is not None:
            last = epochs[lost]
            outcome = Outcome(job.trial, last.epoch, math.nan, failed=True, curve=curve)
            cause = f"diverged: {metric} is {errors[lost]} after epoch {last.epoch}"
            return *epochs[: lost + 1], Finished(outcome, seconds, cause=cause)
        checkpoint = None
        if directory is not None:
            if not expanded(directory).is_dir():
                raise UserError(f"tell: directory={directory}: there is no such directory")
            state = State(files=expanded(directory).absolute())
            checkpoint = self._store.save(job.trial, job.until, self._hashed(job), state)
        return *epochs, Finished(Outcome(job.trial, job.until, errors[-1], curve=curve), seconds, checkpoint)
