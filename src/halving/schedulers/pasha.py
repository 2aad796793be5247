"""PASHA: progressive ASHA (Bohdal et al. 2023)."""

from bisect import insort
from collections.abc import Sequence
from itertools import pairwise

from halving.schedulers.asynchronous import AsynchronousBracket, AsynchronousBrackets
from halving.schedulers.rung import Key
from halving.schedulers.successive_halving import ladder
from halving.searchers import Searcher
from halving.trial import Outcome, Verdict


class PASHA(AsynchronousBrackets):
    """Runs ASHA on two rungs, and adds the next only when the ranking of the top two disagrees.

    It spends little where the first rungs already agree, and does not train the winner to r_max: its command with
    `until=<r_max>` at the end does. Where early errors agree with each other and mislead, it stops too soon.

    Two trials count as equal if their errors differ by at most epsilon: the 90th percentile of the final distances
    of those pairs in the top rung whose learning curves (`Outcome.curve`) cross at least twice (section 4.2). Where the
    objective gives no curve, the errors at the rungs are it.

    Raises UserError for a ladder that cannot be climbed.
    """

    def __init__(
        self, searcher: Searcher, eta: int = 3, r_min: int = 1, r_max: int = 27, max_trials: int | None = None
    ) -> None:
        super().__init__(searcher, [_Progressive(ladder(eta, r_min, r_max), eta)], max_trials)


class _Progressive(AsynchronousBracket):
    def __init__(self, levels: Sequence[int], eta: int) -> None:
        super().__init__(levels, eta)
        self.top = min(1, len(levels) - 1)
        self._errors: list[dict[int, float]] = [{} for _ in levels]
        self._curves: dict[int, list[float]] = {}
        self._compare()

    def report(self, outcome: Outcome, index: int) -> Verdict:
        verdict = super().report(outcome, index)
        if verdict.state == "failed":
            return verdict
        self._errors[index][outcome.trial] = outcome.error
        self._curves.setdefault(outcome.trial, []).extend(outcome.curve or (outcome.error,))
        if 0 < index == self.top < len(self.levels) - 1:
            self._enter(outcome.trial)
            if not self._stable():
                self.top += 1
                self._compare()
        return verdict

    def _compare(self) -> None:
        """Begin to compare a new pair of rungs: their rankings, and the distances of pairs that cross twice."""
        self._above: list[Key] = []
        self._below: list[Key] = []
        self._distances: list[float] = []

    def _enter(self, trial: int) -> None:
        insort(self._above, (self._errors[self.top][trial], trial))
        insort(self._below, (self._errors[self.top - 1][trial], trial))
        for _, other in self._above:
            if (distance := crossing(self._curves[trial], self._curves[other])) is not None:
                insort(self._distances, distance)

    def _stable(self) -> bool:
        """Whether each trial of the top rung has the place there that it has, softly, in the rung below."""
        below, epsilon = self._errors[self.top - 1], noise(self._distances)
        places = zip(self._above, self._below, strict=True)
        return all(abs(below[trial] - error) <= epsilon for (_, trial), (error, _) in places)


def crossing(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return how far apart two curves end if they cross at least twice, else None."""
    differences = [a - b for a, b in zip(one, other, strict=False)]
    crossings = sum(a * b < 0 for a, b in pairwise(filter(None, differences)))
    return abs(differences[-1]) if crossings >= 2 else None


def noise(distances: Sequence[float]) -> float:
    """Return epsilon, the 90th percentile of the sorted distances between curves that cross twice, or 0."""
    if not distances:
        return 0.0
    position = 0.9 * (len(distances) - 1)
    low = int(position)
    high = min(low + 1, len(distances) - 1)
    return distances[low] + (position - low) * (distances[high] - distances[low])
