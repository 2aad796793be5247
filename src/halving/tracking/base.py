"""Trackers mirror a study: each is told of every event, in a thread of its own, after the journal has it."""

import logging
import time
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from threading import Event as Flag
from threading import Thread
from typing import Protocol, runtime_checkable

from halving.errors import UserError, first_line
from halving.history import Event, History

log = logging.getLogger(__name__)

ROOM = 100_000  # most events that wait for one tracker; the study's history holds them anyway
REST = 0.3  # seconds without an event after which a tracker is told that it may rest
MOMENT = 1.0  # seconds that one which is already switched off has at the end
SILENT = 3.0  # seconds of a wait that nobody need be told of
PATIENCE = 30.0  # seconds that all of them have together to catch up at the end


class Tracker(Protocol):
    """Mirrors a study somewhere. What it knows comes from `history`, which already holds `event`.

    All of its methods are called in one thread, which is its own; no other thread touches that `history`.
    """

    def resume(self, history: History) -> None:
        """Take up a study that another process began, before the first event of this one."""
        ...

    def record(self, event: Event, history: History) -> None: ...

    def close(self, history: History) -> None: ...


@runtime_checkable
class Outliving(Protocol):
    """A tracker that could keep the process from ending, by what it has started."""

    def abandon(self) -> None:
        """Let go of all that still runs; called in the main thread, once nobody waits for this tracker any more."""
        ...


class Trackers:
    """Tells several trackers of a study's events without ever waiting for them.

    `events` are a resumed study's, with their times: each tracker's history begins with them. A tracker that raises,
    or lets 100,000 events wait, is named once in the log and by `say`, and switched off: training goes on. `off` keeps
    what was said. `display` is the tracker that has the terminal until `end`; at the end the others have `patience`
    seconds, all together.
    """

    def __init__(
        self,
        trackers: Iterable[Tracker],
        events: Iterable[tuple[Event, float]] = (),
        say: Callable[[str], None] = lambda line: None,
        display: Tracker | None = None,
        patience: float = PATIENCE,
    ) -> None:
        before = tuple(events)
        self._say = say
        self._patience = patience
        self.off: list[str] = []
        self.each = tuple(trackers)
        self._display = [_Mirror(display, before, self._switched_off)] if display is not None else []
        self._mirrors = [*self._display, *(_Mirror(tracker, before, self._switched_off) for tracker in self.each)]

    def record(self, event: Event, at: float) -> None:
        """Tell of an event that happened `at` seconds after the study began."""
        for mirror in self._mirrors:
            mirror.tell(event, at)

    def end(self) -> None:
        """Let every tracker close, and wait for the one that has the terminal, which is free from then on."""
        for mirror in self._mirrors:
            mirror.end()
        for mirror in self._display:
            mirror.wait(self._patience)

    def close(self, patience: float | None = None) -> None:
        """Wait until every tracker has caught up and closed, but no longer than so many seconds for all of them."""
        self.end()
        patience = self._patience if patience is None else patience
        begun = time.monotonic()
        for mirror in self._mirrors:
            mirror.join(max(0.0, begun + min(SILENT, patience / 2) - time.monotonic()))
        if late := [mirror.name for mirror in self._mirrors if mirror.busy]:
            self._say(f"waiting for {' and '.join(late)}, at most {patience:g} s; Ctrl-C goes on without")
        for mirror in self._mirrors:
            mirror.wait(max(0.0, begun + patience - time.monotonic()), patience)

    def _switched_off(self, line: str) -> None:
        self.off.append(line)
        self._say(line)


class _Mirror:
    def __init__(
        self, tracker: Tracker, before: tuple[tuple[Event, float], ...], switched_off: Callable[[str], None]
    ) -> None:
        self._tracker = tracker
        self._switched_off = switched_off
        self._events: SimpleQueue[tuple[Event, float] | None] = SimpleQueue()
        self._off = False
        self._closed = Flag()  # a thread whose join a signal interrupts counts as dead in Python 3.11
        # As a daemon it cannot keep the process from ending.
        Thread(target=self._run, args=(before,), name=type(tracker).__name__, daemon=True).start()

    def tell(self, event: Event, at: float) -> None:
        if self._off:
            return
        if self._events.qsize() >= ROOM:
            self._switch_off(f"is {ROOM} events behind")
        else:
            self._events.put((event, at))

    @property
    def name(self) -> str:
        return f"tracker {type(self._tracker).__name__}"

    @property
    def busy(self) -> bool:
        return not (self._closed.is_set() or self._off)

    def end(self) -> None:
        self._events.put(None)

    def join(self, seconds: float) -> None:
        self._closed.wait(min(MOMENT, seconds) if self._off else seconds)

    def wait(self, seconds: float, patience: float | None = None) -> None:
        """Wait so long, as the rest of `patience`; what has not closed by then is switched off and abandoned."""
        why = "is not waited for, as a signal came"
        try:
            self.join(seconds)
            why = f"has stood still for {seconds if patience is None else patience:g} s"
        finally:
            if not self._closed.is_set():
                self._switch_off(why)
                if isinstance(self._tracker, Outliving):
                    self._tracker.abandon()

    def _run(self, before: tuple[tuple[Event, float], ...]) -> None:
        history = History()
        try:
            for event, at in before:
                history.apply(event, at)
            if before:
                self._tracker.resume(history)
            while not self._off and (item := self._next(history)) is not None:
                history.apply(*item)
                self._tracker.record(item[0], history)
        except Exception as error:
            self._switch_off("failed", error)
        # What it holds, such as the terminal or open runs, is given back in any case.
        try:
            self._tracker.close(history)
        except Exception as error:
            self._switch_off("failed", error)
        finally:
            self._closed.set()

    def _next(self, history: History) -> tuple[Event, float] | None:
        """Return what comes next; a tracker that has a `rest` is told whenever nothing has come for a while."""
        while (rest := getattr(self._tracker, "rest", None)) is not None:
            try:
                return self._events.get(timeout=REST)
            except Empty:
                rest(history)
        return self._events.get()

    def _switch_off(self, why: str, error: Exception | None = None) -> None:
        if self._off:
            return
        self._off = True
        known = isinstance(error, UserError)
        said = f"{why} ({error})" if known else why
        log.warning(
            "%s %s and is switched off; the study goes on without it", self.name, said, exc_info=not known and error
        )
        if error is not None:
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            why = first_line(f"{kind}{error}")
        self._switched_off(f"{self.name} is switched off, and the study goes on without it: {why}")
