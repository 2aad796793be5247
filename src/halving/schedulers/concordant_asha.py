"""ASHA that lets a rung's trials through while its ranks are not known to last."""

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from functools import partial
from typing import Literal

from halving.errors import UserError, did_you_mean
from halving.schedulers.asynchronous import AsynchronousBracket, AsynchronousBrackets
from halving.schedulers.bracket import Promotion
from halving.schedulers.leaders import Agree, Agreement, Doubt, leaders_doubt, leading
from halving.schedulers.rung import Key
from halving.schedulers.successive_halving import ladder
from halving.searchers import Searcher
from halving.trial import Outcome, Verdict


class ConcordantASHA(AsynchronousBrackets):
    """Runs ASHA among the trials that survive, and lets through whoever waits at a rung that is not trusted.

    Rung j tells of those below from 2j + 1 trials on, and again whenever a tenth more have finished it: by Kendall's
    tau between their errors there and below, which must exceed 5 over their number. A rung is trusted while the sum of
    what is exceeded or lacking, over the higher rungs that tell, rung j counted j times, is above 0, or none tells yet.
    So chance goes on with many while little is known, and evidence closes a rung. Unlike in `ASHA`, a failed trial does
    not count. It is the choice where it is not known whether early errors mislead.

    `evidence=None` is the rule of earlier studies, with which they go on.

    Raises UserError for a ladder that cannot be climbed, and for unknown evidence.
    """

    def __init__(
        self,
        searcher: Searcher,
        eta: int = 3,
        r_min: int = 1,
        r_max: int = 27,
        max_trials: int | None = None,
        evidence: Literal["ranks"] | None = "ranks",
    ) -> None:
        if evidence not in ("ranks", None):
            raise UserError(f"scheduler.evidence={evidence}: unknown{did_you_mean(evidence, ('ranks', 'null'))}")
        levels = ladder(eta, r_min, r_max)
        if evidence is None:
            looks, agree, doubt = [eta**2] * len(levels), partial(leading, eta=eta), leaders_doubt
        else:
            looks, agree, doubt = [2 * rung + 1 for rung in range(len(levels))], tau, _doubt
        super().__init__(searcher, [Doubting(levels, eta, looks, agree, doubt)], max_trials)


class Doubting(AsynchronousBracket):
    """Promotes as ASHA does and, while `doubt` gives a reason, whoever waits.

    `agree` says how far a rung agrees with one below, from the errors there of those who finished it, its best first;
    `doubt` judges a rung by what the higher ones said, each from as many trials on as `looks` has for it.
    """

    def __init__(self, levels: Sequence[int], eta: int, looks: Sequence[int], agree: Agree, doubt: Doubt) -> None:
        super().__init__(levels, eta, count_failed=False)
        self._judged_from = list(looks)
        self._agree, self._doubt = agree, doubt
        self._errors: list[dict[int, float]] = [{} for _ in levels]
        self._waiting: list[list[Key]] = [[] for _ in levels]
        self._agreement: list[dict[int, tuple[float, int]]] = [{} for _ in levels]
        self._doubts = [""] * len(levels)

    def promote(self) -> Promotion | None:
        promotion = super().promote()
        if promotion is not None:
            waiting, errors = self._waiting[promotion.rung - 1], self._errors[promotion.rung - 1]
            del waiting[bisect_left(waiting, (errors[promotion.trial], promotion.trial))]
        return promotion

    def report(self, outcome: Outcome, index: int) -> Verdict:
        if math.isfinite(error := outcome.rank_error):
            self._errors[index][outcome.trial] = error
            insort(self._waiting[index], (error, outcome.trial))
            self._judge(index, len(self._errors[index]))
        return super().report(outcome, index)

    def _judge(self, index: int, finished: int) -> None:
        if finished < self._judged_from[index]:
            return
        self._judged_from[index] = finished + max(1, finished // 10)
        ranked = sorted((error, trial) for trial, error in self._errors[index].items())
        for below in range(index):
            self._agreement[below][index] = self._agree([self._errors[below][trial] for _, trial in ranked]), finished
            self._doubts[below] = self._doubt(below, self._agreement[below])

    def candidate(self) -> Promotion | None:
        for index in range(self.top - 1, -1, -1):
            rung, waiting = self.rungs[index], self._waiting[index]
            if (key := rung.candidate()) is not None:
                reason = f"error {key[0]:.6g} is among the best {rung.size} of {rung.finished} at rung {index}"
                return self.promotion(key[1], index, reason)
            if waiting and self._doubts[index]:
                return self.promotion(waiting[0][1], index, self._doubts[index])
        return None


def _doubt(index: int, agreement: Agreement) -> str:
    needed = {rung: min(1.0, 5 / finished) for rung, (_, finished) in agreement.items()}
    excess = {rung: rung * (value - needed[rung]) for rung, (value, _) in agreement.items()}
    if sum(excess.values()) > 0:
        return ""
    higher = min(excess, key=lambda rung: (excess[rung], rung))
    value, finished = agreement[higher]
    order = f"Kendall's tau with the order of the {finished} at rung {higher} is {value:.2f}"
    return f"rung {index} is not trusted: its {order}, not above {needed[higher]:.2f}"


def tau(errors: Sequence[float]) -> float:
    """Return Kendall's tau between the order of `errors` and their size: 1 where they ascend; a tie counts 0."""
    seen, pairs = list[float](), 0
    for error in errors:
        pairs += bisect_left(seen, error) + bisect_right(seen, error) - len(seen)
        insort(seen, error)
    return 2 * pairs / (len(errors) * (len(errors) - 1))
