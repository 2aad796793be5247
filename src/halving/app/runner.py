"""The one that runs a study, whichever door it came by: signals on the way, and at its end all that it held."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, Self

from halving.app.planned import Planned
from halving.confirming import Confirming, job
from halving.errors import noted
from halving.executors import signals
from halving.history import INTERRUPTED, Ended, Resumed
from halving.journal import Journal, replay
from halving.report.confirmation import chosen
from halving.report.derived import write_all
from halving.report.exhibits import exhibit
from halving.tracking.base import PATIENCE, Tracker, Trackers
from halving.tracking.wandb import Wandb
from halving.trial import Job

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


class Runner:
    """Runs a study from its first event to its last file, whatever happens on the way.

    Entering the context takes in what the journal has. The first SIGINT or SIGTERM ends the study after the running
    epochs, and is answered in words; a second one ends it at once. Leaving the context ends the workers, and writes the
    tables of a study that had begun, unless the end was at once. Then what it came to is said by `conclude`, before
    anybody waits for trackers; a signal ends that wait. Nothing that fails there loses the study, or hides what ended
    it: `problems` has a line on each.
    """

    def __init__(
        self,
        study: Planned,
        journal: Journal | None = None,
        trackers: Sequence[Tracker] = (),
        *,
        run_dir: Path | None = None,
        say: Callable[[str], None] = lambda line: None,
        display: Tracker | None = None,
        patience: float = PATIENCE,
        conclude: Callable[["Runner"], None] | None = None,
    ) -> None:
        header, self._events = study.header, tuple(journal.events) if journal is not None else ()
        self.before = replay(self._events)
        self.signals: list[int] = []
        self.problems: list[str] = []
        self.run_dir = run_dir
        self._first = Resumed(header.plan, header.planned_cost, header.settings) if self._events else header
        seen = study.clean(self._first) if study.clean is not None else self._first
        told = (*self._events, (seen, self.before.seconds)) if self._events else ()
        self.trackers = Trackers(trackers, told, say, display, patience)
        self.tuner = study.tuner(journal, self.trackers)
        self._study = study
        self._journal = journal
        self._conclude = conclude
        self._begun = self._over = self._dismissed = False
        self._handlers: dict[int, Any] = {}

    def run(self, last: Callable[[], Ended], confirm: Callable[[], None] | None = None) -> None:
        """Run to the end, and `confirm` its best; `last` says what it came to, unless a signal ended it.

        By then no worker is left, so that none holds memory of a GPU on which the winner is to be tested.
        """
        self.begin()
        with _back_here():
            self.tuner.run()
            if confirm is not None and not self.signals:
                confirm()
        if not self.signals:
            self._dismiss()
            self.tuner.record(last())

    def confirm(self, confirming: Confirming, seed: int, until: int, objective: Tested) -> None:
        """Train the best trials again with fresh seeds, and test the one with the best mean, and that alone."""
        tuner, again = self.tuner, partial(job, self.tuner.history, seed)
        if confirming.wanted(tuner.history, until):
            tuner.confirm(confirming.due(tuner.history, until), again)
            if not self.signals:
                tuner.record(chosen(tuner.history, confirming.vary, until, again, objective.test, objective.ensemble))
                tuner.tidy()

    def begin(self) -> None:
        """Record the first event, with how many workers and trials of each at a time, if the executor says so.

        From here on there is a study, whose tables are written at the end.
        """
        first, executor = self._first, self._study.executor
        workers, batch = getattr(executor, "workers", None), getattr(executor, "batch", 1)
        known = {"workers": workers if isinstance(workers, int) else None, "batch": batch}
        self.tuner.record(replace(first, settings={**first.settings, **known}))
        self._begun = True

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._handlers = signals.handle(self._stop)
        for tracker in self.trackers.each:
            if isinstance(tracker, Wandb) and self.run_dir is not None:
                tracker.exhibits = partial(exhibit, run_dir=self.run_dir)
        try:
            self.tuner.rederive(self._events)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._at_once(kind) and self._journal is not None:
            self._journal.abandon()
        with ExitStack() as stack:  # last in, first out, and each whatever becomes of the others
            stack.callback(self._restore_handlers)
            stack.callback(self._let_go, 1.0 if self._at_once(kind) else None)
            if kind is None and self._conclude is not None:
                stack.callback(self._conclude, self)
            stack.callback(self.trackers.end)
            stack.callback(lambda: None if self._at_once(kind) else self._write())
            if self._journal is not None:
                stack.callback(self._close, self._journal, error)
            stack.callback(self._dismiss)

    def requeue(self) -> None:
        """End the process as a queue wants it that asked for the end: it is going to begin the job again."""
        if (number := self.signals[0]) not in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number](number, None)

    def _dismiss(self) -> None:
        """End the workers, once."""
        if not self._dismissed:
            with noted("the workers could not be ended", self.problems):
                self._study.executor.shutdown(graceful=False)
            self._dismissed = True

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
        if self.run_dir is not None and self._begun:
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
