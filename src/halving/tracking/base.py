"""Trackers mirror a study: each is told of every event, in a thread of its own, after the journal has it."""

import logging
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Protocol

from halving.errors import UserError
from halving.history import Event, History

log = logging.getLogger(__name__)

ROOM = 100_000  # most events that wait for one tracker; the study's history holds them anyway
REST = 0.3  # seconds without an event after which a tracker is told that it may rest
MOMENT = 1.0  # seconds that one which is already switched off has at the end


class Tracker(Protocol):
    """Mirrors a study somewhere. What it knows comes from `history`, which already holds `event`.

    All of its methods are called in one thread, which is its own; no other thread touches that `history`.
    """

    def resume(self, history: History) -> None:
        """Take up a study that another process began, before the first event of this one."""
        ...

    def record(self, event: Event, history: History) -> None: ...

    def close(self, history: History) -> None: ...


class Trackers:
    """Tells several trackers of a study's events without ever waiting for them.

    `events` are a resumed study's, with their times: each tracker's history begins with them. A tracker that raises,
    or lets 100,000 events wait, is named once in the log and by `say`, and switched off: training goes on. `off` keeps
    what was said.
    """

    def __init__(
        self,
        trackers: Iterable[Tracker],
        events: Iterable[tuple[Event, float]] = (),
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        before = tuple(events)
        self._say = say
        self.off: list[str] = []
        self._mirrors = [_Mirror(tracker, before, self._switched_off) for tracker in trackers]

    def record(self, event: Event, at: float) -> None:
        """Tell of an event that happened `at` seconds after the study began."""
        for mirror in self._mirrors:
            mirror.tell(event, at)

    def close(self, patience: float = 60.0) -> None:
        """Wait until every tracker has caught up and closed; for one that stands still, at most `patience` seconds."""
        for mirror in self._mirrors:
            mirror.end()
        for mirror in self._mirrors:
            mirror.wait(patience)

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
        self._told = 0
        self._off = False
        # As a daemon it cannot keep the process from ending.
        self._thread = Thread(target=self._run, args=(before,), name=type(tracker).__name__, daemon=True)
        self._thread.start()

    def tell(self, event: Event, at: float) -> None:
        if self._off:
            return
        if self._events.qsize() >= ROOM:
            self._switch_off(f"is {ROOM} events behind")
        else:
            self._events.put((event, at))

    def end(self) -> None:
        self._events.put(None)

    def wait(self, patience: float) -> None:
        before = -1
        while self._thread.is_alive() and before < self._told:
            before = self._told
            self._thread.join(MOMENT if self._off else patience)
        if self._thread.is_alive():
            self._switch_off(f"has stood still for {patience:g} s")

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
                self._told += 1
        except Exception as error:
            self._switch_off("failed", error)
        # What it holds, such as the terminal or open runs, is given back in any case.
        try:
            self._tracker.close(history)
        except Exception as error:
            self._switch_off("failed", error)

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
        name = type(self._tracker).__name__
        log.warning("tracker %s %s and is switched off; the study goes on without it", name, why, exc_info=error)
        if error is not None:
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            why = f"{kind}{error}".partition("\n")[0]
        self._switched_off(f"tracker {name} is switched off, and the study goes on without it: {why}")
