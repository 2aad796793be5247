"""A function that reports, in a thread of its own, as an iterator over what it reports."""

import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from types import FrameType
from typing import Any

from halving.errors import UserError

_PARTING = 10.0  # seconds that a function may take to end once it is closed


class Paused(BaseException):
    """What a report raises where the trial pauses, to end the function: let it pass."""


class Rendezvous:
    """Runs `function(report)` step by step: between two reports it waits, as a generator does at its yield.

    Only one of the two threads runs at any time. Where the function returns an iterator, what this yields is reported.
    """

    def __init__(self, function: Callable[[Callable[[Any], None]], Any]) -> None:
        self._function = function
        self._go_on: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._said: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._parted = False
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), name="training", daemon=True)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._thread.ident is None:
            self._thread.start()
        elif self._thread.is_alive():
            self._go_on.put(True)
        else:
            raise StopIteration
        kind, value = self._said.get()
        match kind:
            case "reported":
                return value
            case "raised":
                self._thread.join()
                raise value
            case _:
                self._thread.join()
                raise StopIteration

    def close(self) -> None:
        """Let the function end at the report where it waits."""
        if self._thread.is_alive():
            self._go_on.put(False)
            self._thread.join(_PARTING)

    @property
    def frames(self) -> Iterator[FrameType]:
        """The frames of the function, where it waits."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        while frame is not None:
            if frame.f_globals.get("__name__") not in (__name__, threading.__name__):
                yield frame
            frame = frame.f_back

    def _report(self, value: Any) -> None:
        if not self._parted:  # a function may have caught the first one
            self._said.put(("reported", value))
            self._parted = not self._go_on.get()
        if self._parted:
            raise Paused

    def _run(self) -> None:
        try:
            returned = self._function(self._report)
            if isinstance(returned, Iterator):
                for value in returned:
                    self._report(value)
            elif returned is not None:
                raise UserError(f"the training returned a {type(returned).__name__}, and yields or reports its metrics")
            self._said.put(("ended", None))
        except Paused:
            pass
        except StopIteration as error:  # as a generator does: it is no end
            self._said.put(("raised", RuntimeError(f"the training raised {error!r}")))
        except BaseException as error:
            self._said.put(("raised", error))
