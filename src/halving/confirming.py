"""Which trials of a finished study are trained again, and from which fresh random streams."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from halving.data.keys import key
from halving.errors import UserError, whole
from halving.history import VARIED, Confirm, Evaluation, History, Trial, order
from halving.trial import Job

_FRESH = 1  # keeps these streams apart from a trial's


@dataclass(frozen=True)
class Confirming:
    """Trains the `top` best trials of a study from nothing to r_max, each with `seeds` fresh seeds.

    The error of a winner is that of the luckiest: what it is worth shows only in streams that it was not chosen by.
    `vary` says which are fresh: "init" the initialisation and dropout alone, "order" the order of the examples too,
    "split" all, the held-out validation set among them. All trials see the same ones, so that they compare in pairs.

    Raises UserError for counts out of range and another `vary`. Source: Bouthillier et al., Accounting for Variance in
    Machine Learning Benchmarks, MLSys 2021.
    """

    top: int = 3
    seeds: int = 5
    vary: str = "order"

    def __post_init__(self) -> None:
        whole("confirm.top", self.top, 0)
        whole("confirm.seeds", self.seeds, 2)
        if self.vary not in VARIED:
            raise UserError(f"confirm.vary={self.vary}: give {', '.join(VARIED)}")

    def wanted(self, history: History, until: int) -> bool:
        """Whether there is something to do: to train, to choose, or to test what was chosen."""
        if not self.top or history.incumbent is None:
            return False
        chosen = history.chosen
        done = chosen is not None and (chosen.vary, chosen.until, chosen.failure) == (self.vary, until, "")
        return not done or bool(self.due(history, until))

    def due(self, history: History, until: int) -> list[Confirm]:
        """Return what is still to be trained to `until`: what was begun, then the rest, all trials of a seed first."""
        known = {
            (each.asked.trial, each.asked.repeat, each.asked.vary, each.asked.until): each
            for each in history.confirmations.values()
        }
        wanted = [
            (trial.trial, repeat, self.vary, until)
            for repeat in range(1, self.seeds + 1)
            for trial, _ in ranked(history)[: self.top]
        ]
        begun = [known[each].asked for each in wanted if each in known and known[each].confirmed is None]
        first = max(history.confirmations, default=0) + 1
        new = (each for each in wanted if each not in known)
        return [
            *begun,
            *(Confirm(first + i, trial, repeat, until, vary) for i, (trial, repeat, vary, until) in enumerate(new)),
        ]


def ranked(history: History) -> Sequence[tuple[Trial, Evaluation]]:
    """Return the trials that survived, each with its evaluation at its highest resource, the best first."""
    survived = [
        (trial, max(each, key=lambda evaluation: evaluation.resource))
        for trial in history.trials.values()
        if (each := [evaluation for evaluation in trial.evaluations if math.isfinite(evaluation.error)])
    ]
    return sorted(survived, key=lambda pair: order(*pair))


def job(history: History, seed: int, asked: Confirm) -> Job:
    """Return a confirmation in a study of `seed` as an executor gets it."""
    fresh = key(seed, _FRESH, asked.repeat) % 2**31
    configuration = history.trials[asked.trial].configuration
    return Job(-asked.number, configuration, 0, asked.until, dict.fromkeys(VARIED[asked.vary], fresh))
