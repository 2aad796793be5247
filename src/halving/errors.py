"""Errors that are part of the interface: shown as one message, without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that its maker can mend: what was wrong, where, and what to do."""


class StorageError(UserError):
    """The disk refuses: no trial's fault, so that the study ends instead of failing one trial after another."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean a or b?" with the names nearest to `word`, or all of them where none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; there is {', '.join(names)}" if names else ""
