"""The median stopping rule (Golovin et al. 2017, Google Vizier, section 3.2.2)."""

from bisect import insort
from itertools import accumulate

from halving.errors import whole
from halving.schedulers.base import check_ladder
from halving.schedulers.early_stopping import Climber, EarlyStopping
from halving.searchers import Searcher

_MOST_STEPS = 100_000


class Median(EarlyStopping):
    """Stops a trial whose best error by step s is worse than the median of the ended trials' running averages by s.

    A step is `step` units of resource, from `r_min` on. Trials that were stopped count among those that ended, by what
    they averaged up to their last step, where Vizier's count completed ones only. Nobody is stopped before `min_trials`
    trials have ended that reached the step. The rule needs no ladder and is mild: the choice where few trials can be
    afforded. Where half of all trials are good it saves little.

    Raises UserError for resources or counts out of range.
    """

    def __init__(
        self,
        searcher: Searcher,
        r_min: int = 1,
        r_max: int = 27,
        step: int = 1,
        min_trials: int = 5,
        max_trials: int | None = None,
    ) -> None:
        _, r_min, r_max = check_ladder(2, r_min, r_max)
        step = whole(
            "scheduler.step", step, 1 + (r_max - r_min) // _MOST_STEPS, f" from r_min={r_min} to r_max={r_max}"
        )
        super().__init__(searcher, (*range(r_min, r_max, step), r_max), max_trials)
        self._min_trials = whole("scheduler.min_trials", min_trials)
        # For each step, in ascending order, what the ended trials that reached it averaged until then.
        self._averages: list[list[float]] = [[] for _ in self._levels]

    def hopeless(self, climber: Climber, level: int) -> tuple[bool, str]:
        averages = self._averages[len(climber.errors) - 1]
        if len(averages) < self._min_trials:
            return False, f"only {len(averages)} ended trials have reached {level}, too few to compare with"
        best, middle = min(climber.errors), len(averages) // 2
        median = averages[middle] if len(averages) % 2 else (averages[middle - 1] + averages[middle]) / 2
        return best > median, f"best error {best:.6g} by {level}, the median of averages is {median:.6g}"

    def ended(self, climber: Climber) -> None:
        for step, total in enumerate(accumulate(climber.errors)):
            insort(self._averages[step], total / (step + 1))
