"""Trackers mirror a study: they are told of every event after the journal has it."""

import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

from halving.history import Event, History

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Mirrors a study somewhere. What it knows comes from `history`, which already holds `event`."""

    def record(self, event: Event, history: History) -> None: ...

    def close(self, history: History) -> None: ...


class Trackers:
    """Tells several trackers; one that raises is named once in the log and then left out: training goes on."""

    def __init__(self, trackers: Iterable[Tracker]) -> None:
        self._trackers = list(trackers)

    def record(self, event: Event, history: History) -> None:
        for tracker in list(self._trackers):
            try:
                tracker.record(event, history)
            except Exception:
                self._switch_off(tracker, history)

    def close(self, history: History) -> None:
        for tracker in list(self._trackers):
            try:
                tracker.close(history)
            except Exception:
                self._warn(tracker)

    def _switch_off(self, tracker: Tracker, history: History) -> None:
        self._trackers.remove(tracker)
        self._warn(tracker)
        # What it holds, such as the terminal or open runs, is given back; that this fails too is no news.
        with suppress(Exception):
            tracker.close(history)

    def _warn(self, tracker: Tracker) -> None:
        log.warning("tracker %s failed and is switched off; the study goes on", type(tracker).__name__, exc_info=True)
