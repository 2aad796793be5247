"""PASHA: progressive ASHA (Bohdal et al. 2023)."""

import statistics
from collections.abc import Sequence
from itertools import combinations, pairwise

from halving.schedulers.asynchronous import AsynchronousBracket, AsynchronousBrackets
from halving.schedulers.successive_halving import ladder
from halving.searchers import Searcher
from halving.trial import Outcome, Verdict


class PASHA(AsynchronousBrackets):
    """Runs ASHA on two rungs, and adds the next only when the ranking of the top two disagrees.

    It spends little where the first rungs already agree, and does not train the winner to r_max: train it again by
    its command. Where early errors agree with each other and mislead, it stops too soon.

    Two trials count as equal if their errors differ by at most epsilon: the 90th percentile of the final distances
    of those pairs in the top rung whose learning curves cross at least twice (section 4.2). Where the objective gives
    no curve, the errors at the rungs are it.

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

    def report(self, outcome: Outcome, index: int) -> Verdict:
        verdict = super().report(outcome, index)
        if verdict.state == "failed":
            return verdict
        self._errors[index][outcome.trial] = outcome.error
        self._curves.setdefault(outcome.trial, []).extend(outcome.curve or (outcome.error,))
        if 0 < index == self.top < len(self.levels) - 1 and not self._stable():
            self.top += 1
        return verdict

    def _stable(self) -> bool:
        """Whether each trial of the top rung has the place there that it has, softly, in the rung below."""
        above, below = self._errors[self.top], self._errors[self.top - 1]
        ranked_above = sorted(above, key=lambda trial: (above[trial], trial))
        ranked_below = sorted(above, key=lambda trial: (below[trial], trial))
        epsilon = noise([self._curves[trial] for trial in ranked_above])
        places = zip(ranked_above, ranked_below, strict=True)
        return all(abs(below[trial] - below[expected]) <= epsilon for trial, expected in places)


def noise(curves: Sequence[Sequence[float]]) -> float:
    """Return epsilon: the 90th percentile of the distances between curves that cross at least twice, or 0."""
    distances: list[float] = []
    for one, other in combinations(curves, 2):
        differences = [a - b for a, b in zip(one, other, strict=False) if a != b]
        if sum(a * b < 0 for a, b in pairwise(differences)) >= 2:
            distances.append(abs(differences[-1]))
    if len(distances) < 2:
        return sum(distances)
    return statistics.quantiles(distances, n=10, method="inclusive")[-1]
