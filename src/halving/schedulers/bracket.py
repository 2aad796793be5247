"""One bracket of synchronous halving, the primitive that successive halving and Hyperband compose."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

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
    """`size` is how many trials enter: as planned, until the rung below closes and says how many."""

    size: int
    pending: set[int] = field(default_factory=set[int])
    errors: dict[int, float] = field(default_factory=dict[int, float])


class Bracket:
    """Runs `sizes[0]` trials to `levels[0]` and promotes the best `max(1, size // eta)` of each rung's actual size.

    A rung closes when its last trial has finished. Failed trials rank last and are never promoted, a tie goes to the
    lower trial id, and a rung without a survivor ends the bracket (Jamieson and Talwalkar 2016, algorithm 1).
    """

    def __init__(self, levels: Sequence[int], sizes: Sequence[int], eta: int | Fraction) -> None:
        self.levels = tuple(levels)
        self.sizes = tuple(sizes)
        self._eta = eta
        self._entered = 0
        self._rungs = [_Rung(size) for size in self.sizes]
        self._promotions: deque[Promotion] = deque()

    @property
    def full(self) -> bool:
        """Whether the bracket takes no more new trials."""
        return self._entered == self._rungs[0].size

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
        """Close the first rung with the trials it has, as the space is exhausted; nothing may be pending.

        Where nobody can go on, nothing changes.
        """
        if len(self.levels) == 1 or all(error == float("inf") for error in self._rungs[0].errors.values()):
            return ()
        self._rungs[0].size = self._entered
        return self._close(0)

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
            waiting = f"{len(rung.errors)} of {rung.size} have finished rung {index}"
            verdict = Verdict(outcome.trial, "paused", waiting)
        if len(rung.errors) < rung.size:
            return (verdict,)
        closing = self._close(index)
        return closing if any(v.trial == outcome.trial for v in closing) else (verdict, *closing)

    def _close(self, index: int) -> tuple[Verdict, ...]:
        """Rank a rung whose trials have all finished: queue its promotions and stop the others."""
        rung = self._rungs[index]
        if index == len(self.levels) - 1:
            return ()
        ranked = sorted(rung.errors, key=lambda trial: (rung.errors[trial], trial))
        survivors = [trial for trial in ranked if rung.errors[trial] < float("inf")]
        keep = self._rungs[index + 1].size = min(len(survivors), max(1, len(ranked) // self._eta))
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
