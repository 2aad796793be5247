"""One bracket of synchronous halving, the primitive that successive halving and Hyperband compose."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from halving.trial import Outcome, Verdict


@dataclass(frozen=True, slots=True)
class Promotion:
    """A trial that goes on from `since` to `until` at rung `rung`."""

    trial: int
    since: int
    until: int
    rung: int
    reason: str


@dataclass(slots=True)
class _Rung:
    pending: set[int] = field(default_factory=set[int])
    errors: dict[int, float] = field(default_factory=dict[int, float])


class Bracket:
    """Runs `sizes[0]` trials to `levels[0]` and promotes the best `max(1, size // eta)` of each rung's actual size.

    A rung closes when its last trial has finished. Failed trials rank last and are never promoted, a tie goes to the
    lower trial id, and a rung without a survivor ends the bracket (Jamieson and Talwalkar 2016, algorithm 1).
    """

    def __init__(self, levels: Sequence[int], sizes: Sequence[int], eta: int) -> None:
        self.levels = tuple(levels)
        self.sizes = tuple(sizes)
        self._eta = eta
        self._entered = 0
        self._sealed = False
        self._rungs = [_Rung() for _ in self.levels]
        self._promotions: deque[Promotion] = deque()

    @property
    def full(self) -> bool:
        """Whether the bracket takes no more new trials."""
        return self._sealed or self._entered == self.sizes[0]

    @property
    def pending(self) -> bool:
        """Whether any outcome is still awaited."""
        return any(rung.pending for rung in self._rungs)

    @property
    def complete(self) -> bool:
        """Whether nothing of the bracket runs or will run."""
        return self.full and not self._promotions and not self.pending

    def enter(self, trial: int) -> None:
        """Take a new trial into the first rung."""
        self._entered += 1
        self._rungs[0].pending.add(trial)

    def seal(self) -> tuple[Verdict, ...]:
        """Take no more new trials, as the space is exhausted; with nothing pending this closes the first rung."""
        self._sealed = True
        return self._close(0) if self._rungs[0].errors and not self._rungs[0].pending else ()

    def promote(self) -> Promotion | None:
        """Return the next trial to go on, or None."""
        if not self._promotions:
            return None
        promotion = self._promotions.popleft()
        self._rungs[promotion.rung].pending.add(promotion.trial)
        return promotion

    def report(self, outcome: Outcome) -> tuple[Verdict, ...]:
        """Take in an outcome; the last one of a rung closes it."""
        index = next(i for i, rung in enumerate(self._rungs) if outcome.trial in rung.pending)
        rung = self._rungs[index]
        rung.pending.remove(outcome.trial)
        rung.errors[outcome.trial] = outcome.rank_error
        if outcome.rank_error == float("inf"):
            verdict = Verdict(outcome.trial, "failed", f"failed at rung {index}")
        elif index == len(self.levels) - 1:
            verdict = Verdict(outcome.trial, "completed", f"reached the last rung, {self.levels[index]}")
        else:
            waiting = f"{len(rung.errors)} of {self._size(index)} have finished rung {index}"
            verdict = Verdict(outcome.trial, "paused", waiting)
        if len(rung.errors) < self._size(index):
            return (verdict,)
        closing = self._close(index)
        return closing if any(v.trial == outcome.trial for v in closing) else (verdict, *closing)

    def _size(self, index: int) -> int:
        """How many trials enter rung `index`: as planned, or fewer where trials failed or the space was exhausted."""
        if index == 0:
            return self._entered if self._sealed else self.sizes[0]
        below = self._rungs[index - 1].errors
        survivors = sum(error < float("inf") for error in below.values())
        return min(survivors, max(1, len(below) // self._eta))

    def _close(self, index: int) -> tuple[Verdict, ...]:
        """Rank a rung whose trials have all finished: queue its promotions and stop the others."""
        rung = self._rungs[index]
        if index == len(self.levels) - 1:
            return ()
        ranked = sorted(rung.errors, key=lambda trial: (rung.errors[trial], trial))
        survivors = [trial for trial in ranked if rung.errors[trial] < float("inf")]
        keep = self._size(index + 1)
        verdicts: list[Verdict] = []
        for rank, trial in enumerate(survivors, start=1):
            error = rung.errors[trial]
            reason = f"rank {rank} of {len(ranked)} at rung {index} (error {error:.6g}); the best {keep} go on"
            if rank <= keep:
                self._promotions.append(Promotion(trial, self.levels[index], self.levels[index + 1], index + 1, reason))
            else:
                cut_off = rung.errors[survivors[keep - 1]]
                tie = " (a tie goes to the lower trial id)" if error == cut_off else ""
                verdicts.append(Verdict(trial, "stopped", f"{reason}, the cut-off is {cut_off:.6g}{tie}"))
        return tuple(verdicts)
