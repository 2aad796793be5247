"""The frame around a study: signals on the way, and at its end workers, journal, tables and trackers."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, Self

from halving.confirming import Confirming, job
from halving.errors import noted
from halving.executors import Executor, signals
from halving.history import INTERRUPTED, Ended, Header, Resumed
from halving.journal import Journal
from halving.report.confirmation import chosen
from halving.report.derived import write_all
from halving.report.exhibits import exhibit
from halving.tracking.base import Trackers
from halving.tracking.wandb import Wandb
from halving.trial import Job
from halving.tuner import Tuner

_STOPPING = "stopping after the running epochs; a second Ctrl-C ends it at once"


@contextmanager
def _back_here() -> Generator[None]:
    """Come back to the current directory, even one that has gone: an objective may have left it."""
    here = os.open(os.curdir, os.O_RDONLY)
    try:
        yield
    finally:
        os.fchdir(here)
        os.close(here)


class Tested(Protocol):
    """What confirmed trials are measured by on the test set, if there is one."""

    def test(self, job: Job) -> dict[str, float]: ...

    def ensemble(self, jobs: Sequence[Job]) -> dict[str, float]: ...


@dataclass
class Conduct:
    """A study from its first event to its last file, whatever happens on the way.

    The first SIGINT or SIGTERM ends it after the running epochs, and is answered in words; a second one ends it at
    once. Leaving the context ends the workers, and writes the tables of a study that had begun, unless the end was at
    once. Then what it came to is said by `conclude`, before anybody waits for trackers; a signal ends that wait.
    Nothing that fails there loses the study, or hides what ended it: `problems` has a line on each.
    """

    tuner: Tuner
    executor: Executor
    journal: Journal | None
    trackers: Trackers
    run_dir: Path | None
    conclude: Callable[["Conduct"], None] | None = None
    signals: list[int] = field(default_factory=list[int])
    begun: bool = False
    problems: list[str] = field(default_factory=list[str])
    _over: bool = False
    _handlers: dict[int, Any] = field(default_factory=dict[int, Any])

    def run(
        self, first: Header | Resumed, last: Callable[[], Ended], confirm: Callable[[], None] | None = None
    ) -> None:
        """Run to the end, and `confirm` its best; `last` says what it came to, unless a signal ended it."""
        self.begin(first)
        with _back_here():
            self.tuner.run()
            if confirm is not None and not self.signals:
                confirm()
        if not self.signals:
            self.tuner.record(last())

    def confirm(self, plan: Confirming, seed: int, until: int, objective: Tested) -> None:
        """Train the best trials again with fresh seeds, and test the one with the best mean, and that alone."""
        tuner, again = self.tuner, partial(job, self.tuner.history, seed)
        if plan.wanted(tuner.history, until):
            tuner.confirm(plan.due(tuner.history, until), again)
            if not self.signals:
                tuner.record(chosen(tuner.history, plan.vary, until, again, objective.test, objective.ensemble))
                tuner.tidy()

    def begin(self, first: Header | Resumed) -> None:
        """Record the first event, with how many workers there are, if the executor says so.

        From here on there is a study, whose tables are written at the end.
        """
        workers = getattr(self.executor, "workers", None)
        known = {"workers": workers if isinstance(workers, int) else None}
        self.tuner.record(replace(first, settings={**first.settings, **known}))
        self.begun = True

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._handlers = signals.handle(self._stop)
        for tracker in self.trackers.each:
            if isinstance(tracker, Wandb) and self.run_dir is not None:
                tracker.exhibits = partial(exhibit, run_dir=self.run_dir)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._at_once(kind) and self.journal is not None:
            self.journal.abandon()
        with ExitStack() as stack:  # last in, first out, and each whatever becomes of the others
            stack.callback(self._restore_handlers)
            stack.callback(self._let_go, 1.0 if self._at_once(kind) else None)
            if kind is None and self.conclude is not None:
                stack.callback(self.conclude, self)
            stack.callback(self.trackers.end)
            stack.callback(lambda: None if self._at_once(kind) else self._write())
            if self.journal is not None:
                stack.callback(self._close, self.journal, error)
            stack.enter_context(noted("the workers could not be ended", self.problems))
            stack.callback(self.executor.shutdown, graceful=False)

    def requeue(self) -> None:
        """End the process as a queue wants it that asked for the end: it is going to begin the job again."""
        if (number := self.signals[0]) not in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number](number, None)

    def _at_once(self, kind: type[BaseException] | None) -> bool:
        return len(self.signals) > 1 or (kind is not None and not issubclass(kind, Exception))

    def _let_go(self, patience: float | None) -> None:
        """Wait for the trackers: all that a signal has left to end by now."""
        self._over = True
        try:
            self.trackers.close(patience)
        except signals.AtOnce:
            self.trackers.close(0.0)

    def _write(self) -> None:
        if self.run_dir is not None and self.begun:
            self.problems += write_all(self.tuner.history, self.run_dir)

    def _close(self, journal: Journal, error: BaseException | None) -> None:
        if error is None:
            journal.close()
        else:  # it is what ended the study that is told
            with noted(f"{journal.path} could not be closed", self.problems):
                journal.close()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._over:
            raise signals.AtOnce
        self.signals.append(number)
        if len(self.signals) > 1:
            raise signals.AtOnce
        self.tuner.stop = INTERRUPTED
        with suppress(OSError, RuntimeError, ValueError):  # the stream may be gone, or this come in the midst of a line
            print(f"\n{signal.Signals(number).name}: {_STOPPING}", file=sys.stderr, flush=True)

    def _restore_handlers(self) -> None:
        if self._handlers:
            signals.restore(self._handlers)
