"""What became of the jobs of a multirun."""

from dataclasses import dataclass
from pathlib import Path

from halving.history import History


@dataclass(frozen=True)
class Job:
    """One study among several: what it was to do, and what became of it.

    `state` is finished, running, interrupted, not started, or failed with its reason. One that has not begun, or whose
    journal cannot be read, has no history.
    """

    name: str
    directory: Path
    overrides: tuple[str, ...]
    state: str
    history: History | None = None

    @property
    def compared(self) -> bool:
        """Whether it came to its end: with a winner, or without any trial that survived, which counts as worst."""
        if self.history is None or self.history.ended is None:
            return False
        return self.state == "finished" or not self.history.incumbents
