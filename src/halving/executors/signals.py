"""SIGINT and SIGTERM where a study runs: what its trials start must not inherit how they are handled there."""

import os
import signal
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], None]

_DEFAULTS: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
_QUEUE = (signal.SIGUSR1, signal.SIGUSR2)  # by one of which submitit asks a job to end, and to be begun again
_handlers: list[Handler] = []
_masks = threading.local()


class AtOnce(KeyboardInterrupt):
    """What a second signal raises: its sender waits no longer."""


def handle(handler: Handler) -> dict[int, Any]:
    """Let a function handle both signals here, and in no child; return what `restore` needs.

    Also the one of which submitit makes a SystemExit in the midst of a trial, if this is its job. A child that is
    forked gets Python's defaults, and exec resets a function, as it would not reset SIG_IGN.
    """
    _handlers.append(handler)
    queue = (it for it in _QUEUE if str(getattr(signal.getsignal(it), "__module__", "")).startswith("submitit."))
    return {number: signal.signal(number, handler) for number in (*_DEFAULTS, *queue)}


def restore(before: Mapping[int, Any]) -> None:
    """Undo the last `handle`."""
    for number, handler in before.items():
        signal.signal(number, handler)
    _handlers.pop()


def ignore() -> None:
    """Heed neither signal for the rest of this process, in which system calls go on undisturbed."""
    handle(lambda number, frame: None)
    for number in _DEFAULTS:
        signal.siginterrupt(number, False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _DEFAULTS)


@contextmanager
def held_back() -> Generator[None]:
    """Hold both signals back from what is started meanwhile, until it calls `ignore`."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _DEFAULTS)
    resource_tracker.ensure_running()  # starting it lets the signals through
    signal.pthread_sigmask(signal.SIG_BLOCK, _DEFAULTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def from_user(error: BaseException) -> bool:
    """Whether an exception is an answer to a signal, ours or Python's own, rather than what an objective raised."""
    default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    own = default and threading.current_thread() is threading.main_thread()
    return isinstance(error, KeyboardInterrupt if own else AtOnce)


def _before_fork() -> None:
    # A signal that reached the child before its handlers are the defaults would be lost.
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _DEFAULTS) if _handlers else None


def _after_fork() -> None:
    if _masks.before is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _in_child() -> None:
    for number in (*_DEFAULTS, *_QUEUE):
        if signal.getsignal(number) in _handlers:
            signal.signal(number, _DEFAULTS.get(number, signal.SIG_DFL))
    _handlers.clear()
    _after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
