"""Errors that are part of the interface: shown as one message, without a traceback."""

import difflib
import logging
import math
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

from halving.trial import plain

log = logging.getLogger(__name__)


class UserError(Exception):
    """A mistake that its maker can mend: what was wrong, where, and what to do."""


class DeviceFull(UserError):
    """What was to be trained needs more memory than the device has left."""


class StudyError(UserError):
    """No trial's fault, and each would come to it: the study ends instead of failing one trial after another."""


class StorageError(StudyError):
    """The disk refuses."""


def first_line(error: object) -> str:
    """Return the first line of what an error, or a text, says; an error's kind where it says nothing."""
    return (str(error).strip() or _kind(error)).partition("\n")[0].rstrip()


def last_line(error: object) -> str:
    """Return the last line of what an error, or a text, says; an error's kind where it says nothing."""
    return (str(error).strip() or _kind(error)).rpartition("\n")[2].lstrip()


def _kind(error: object) -> str:
    return type(error).__name__ if isinstance(error, BaseException) else ""


@contextmanager
def noted(what: str, problems: list[str]) -> Generator[None]:
    """Let what fails within take nothing else along: `problems` and the log get a line on it.

    The log has its traceback, too, unless it is a user's mistake or the disk's.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        cause = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        problems.append(first_line(f"{what}: {cause}"))
        log.error("%s", problems[-1], exc_info=not isinstance(error, UserError | OSError))


def whole(name: str, value: Any, least: int = 1, why: str = "", most: float = math.inf) -> int:
    """Return a count as an `int`. Raises UserError out of its range and for no integer, as are True, 2.5, 2.0."""
    count = plain(value)
    if isinstance(count, bool) or not isinstance(count, int) or count < least:
        raise UserError(f"{name}={value}: must be an integer of at least {least}{why}")
    if count > most:
        raise UserError(f"{name}={value}: must be at most {most}")
    return int(count)


def real(name: str, value: Any, fits: Callable[[float], bool], what: str) -> float:
    """Return a number. Raises UserError, which says `what` it must be, where it does not fit or is none, as is True."""
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int | float) or not fits(number):
        raise UserError(f"{name}={value}: {what}")
    return number


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return "; did you mean a or b?" with the names nearest to `word`, or all of them where none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(str(word), names, n=3, cutoff=0.6)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; there is {', '.join(names)}" if names else ""
