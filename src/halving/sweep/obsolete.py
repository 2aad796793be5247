"""What an app's trials leave and nobody needs any more."""

from collections.abc import Iterator
from pathlib import Path

from halving.checkpoints.names import remove
from halving.history import Event, History
from halving.sweep.answers import DIRECTORY, matching
from halving.trial import Resume, Start


class Obsolete:
    """Deletes what lies at `patterns` below the directories of trials that have ended, except the best one's.

    So it does with copies of that, and with injected checkpoints, also those that a trial has left behind. What follows
    from an event goes one assignment later: by then the event is on the disk.
    """

    def __init__(self, directory: Path, patterns: tuple[str, ...]) -> None:
        self._directory, self._patterns = directory, patterns
        self._due = set[tuple[int, str]]()  # trials with what of ours is obsolete, "*" where all of theirs is
        self._done = set[tuple[int, str]]()

    def resume(self, history: History) -> None:
        self._due = set(self._found(history))

    def record(self, event: Event, history: History) -> None:
        if isinstance(event, Start | Resume):
            self._delete()
            self._due = set(self._found(history))

    def close(self, history: History) -> None:
        self._delete()
        self._due = set(self._found(history))
        self._delete()

    def _found(self, history: History) -> Iterator[tuple[int, str]]:
        best = history.incumbent
        for trial in history.trials.values():
            if trial.state not in ("running", "paused") and (best is None or best[0] is not trial):
                yield trial.trial, "*"
            elif trial.last.finished is not None:
                yield from ((trial.trial, str(each.until)) for each in trial.evaluations[:-1])

    def _delete(self) -> None:
        for trial, rung in self._due - self._done:
            directory = self._directory / str(trial)
            for kind in ("ckpt", "kept"):
                for path in (directory / DIRECTORY).glob(f"{rung}.{kind}"):
                    remove(path)
            for path in matching(directory, self._patterns) if rung == "*" else ():
                remove(path)
        self._done |= self._due
        self._due = set()
