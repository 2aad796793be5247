"""ASHA that skips a rung while its ranks contradict those of a higher rung."""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

from halving.schedulers.asynchronous import AsynchronousBracket, AsynchronousBrackets
from halving.schedulers.bracket import Promotion
from halving.schedulers.rung import Key
from halving.schedulers.successive_halving import ladder
from halving.searchers import Searcher
from halving.trial import Outcome, Verdict


class ConcordantASHA(AsynchronousBrackets):
    """Runs ASHA among the trials that survive, and promotes everybody from a rung while its ranks mislead.

    A rung misleads while, at some higher rung that eta² trials have finished, the best one in eta were not more often
    ahead at the lower rung than behind the others there (`concordance` of at most 1/2). Who went on was the best of the
    lower rung, so that the concordance of a good rung is not far above 1/2 either, and suspicions are often wrong: the
    unselected trials that one lets through are what answers it. Whether a rung misleads is asked again when a tenth
    more trials have finished the higher one. Unlike in `ASHA`, a failed trial does not count.

    It is the choice where it is not known whether early errors mislead, and one bracket should do.

    Raises UserError for a ladder that cannot be climbed.
    """

    def __init__(
        self, searcher: Searcher, eta: int = 3, r_min: int = 1, r_max: int = 27, max_trials: int | None = None
    ) -> None:
        super().__init__(searcher, [_Concordant(ladder(eta, r_min, r_max), eta)], max_trials)


class _Concordant(AsynchronousBracket):
    def __init__(self, levels: Sequence[int], eta: int) -> None:
        super().__init__(levels, eta)
        self._eta = eta
        self._errors: list[dict[int, float]] = [{} for _ in levels]
        self._judged_from = [eta**2 for _ in levels]
        self._waiting: list[list[Key]] = [[] for _ in levels]
        # For each rung, the higher rungs that contradict it, and by how much.
        self._against: list[dict[int, float]] = [{} for _ in levels]

    def promote(self) -> Promotion | None:
        promotion = super().promote()
        if promotion is not None:
            waiting, errors = self._waiting[promotion.rung - 1], self._errors[promotion.rung - 1]
            del waiting[bisect_left(waiting, (errors[promotion.trial], promotion.trial))]
        return promotion

    def report(self, outcome: Outcome, index: int) -> Verdict:
        trial, error = outcome.trial, outcome.rank_error
        if error == float("inf"):
            return Verdict(trial, "failed", f"failed at rung {index}")
        self._errors[index][trial] = error
        insort(self._waiting[index], (error, trial))
        self._judge(index)
        return super().report(outcome, index)

    def _judge(self, index: int) -> None:
        """Compare who leads at rung `index` with who led at each rung below."""
        finished = len(self._errors[index])
        if finished < self._judged_from[index]:
            return
        self._judged_from[index] = finished + max(1, finished // 10)
        ranked = sorted((error, trial) for trial, error in self._errors[index].items())
        cut = finished // self._eta
        for below in range(index):
            errors = [self._errors[below][trial] for _, trial in ranked]
            agreement = concordance(errors[:cut], errors[cut:])
            self._against[below].pop(index, None)
            if agreement <= 0.5:
                self._against[below][index] = agreement

    def _candidate(self) -> Promotion | None:
        for index in range(self.top - 1, -1, -1):
            rung, waiting, against = self._rungs[index], self._waiting[index], self._against[index]
            if (key := rung.candidate()) is not None:
                reason = f"error {key[0]:.6g} is among the best {rung.size} of {rung.finished} at rung {index}"
                return self._promotion(key[1], index, reason)
            if against and waiting:
                higher = min(against, key=lambda rung: (against[rung], rung))
                share = f"{against[higher]:.0%}"
                reason = f"rung {index} misleads: the leaders of rung {higher} were ahead here in only {share} of pairs"
                return self._promotion(waiting[0][1], index, reason)
        return None


def concordance(leaders: Sequence[float], others: Sequence[float]) -> float:
    """Return how often a leader's error is below another's, of all such pairs; a tie counts half.

    It is the area under the ROC curve, or Mann and Whitney's U over the number of pairs: 1/2 without any relation.
    """
    ordered = np.sort(others)
    below, up_to = (np.searchsorted(ordered, leaders, side=side).mean() for side in ("left", "right"))
    return float(1 - (below + up_to) / 2 / len(ordered))
