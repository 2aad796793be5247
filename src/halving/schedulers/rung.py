"""A rung that never closes: the best one in eta of all that have finished it so far."""

import heapq
import math

Key = tuple[float, int]


class OpenRung:
    """Ranks the trials that finish a rung as they come, in logarithmic time each.

    The top holds the best `max(at_least, finished // eta)` of all finished trials by (error, id), failed ones counted.
    """

    def __init__(self, eta: int, at_least: int = 0) -> None:
        self.finished = 0
        self._eta = eta
        self._at_least = at_least
        self._top: list[Key] = []  # a heap of negated keys: the worst of the top comes first
        self._rest: list[Key] = []
        self._in_top: set[int] = set()
        self._candidates: list[Key] = []
        self._promoted: set[int] = set()

    def add(self, trial: int, error: float) -> None:
        """Take in a trial that has finished the rung; a failed one has the error +inf."""
        self.finished += 1
        heapq.heappush(self._rest, (error, trial))
        if self._top and self._rest[0] < self.cut_off:
            worst, trial_out = heapq.heappop(self._top)
            self._in_top.discard(-trial_out)
            heapq.heappush(self._rest, (-worst, -trial_out))
            self._raise()
        if len(self._top) < max(self._at_least, self.finished // self._eta):
            self._raise()
        self._prune()

    @property
    def size(self) -> int:
        """How many trials the top holds."""
        return len(self._top)

    @property
    def cut_off(self) -> Key:
        """The key of the worst trial in the top."""
        error, trial = self._top[0]
        return -error, -trial

    def holds(self, trial: int) -> bool:
        """Whether the trial is in the top."""
        return trial in self._in_top

    def candidate(self) -> Key | None:
        """Return the best trial of the top that has not been promoted and has not failed, or None."""
        return self._candidates[0] if self._candidates else None

    def promote(self, trial: int) -> None:
        """Note that a trial has been promoted; it still counts."""
        self._promoted.add(trial)
        self._prune()

    def _prune(self) -> None:
        """Drop from the head of the candidates who left the top or went on."""
        while self._candidates:
            trial = self._candidates[0][1]
            if trial in self._in_top and trial not in self._promoted:
                return
            heapq.heappop(self._candidates)

    def _raise(self) -> None:
        """Move the best of the rest into the top."""
        error, trial = heapq.heappop(self._rest)
        heapq.heappush(self._top, (-error, -trial))
        self._in_top.add(trial)
        if not math.isinf(error) and trial not in self._promoted:
            heapq.heappush(self._candidates, (error, trial))
