"""The median stopping rule (Golovin et al. 2017, Google Vizier, section 3.2.2)."""

import statistics

from halving.errors import UserError
from halving.schedulers.base import check_ladder
from halving.schedulers.early_stopping import Climber, EarlyStopping
from halving.searchers import Searcher


class Median(EarlyStopping):
    """Stops a trial whose best error by step s is worse than the median of the ended trials' running averages by s.

    A step is `step` units of resource, from `r_min` on. Nobody is stopped before `min_trials` trials have ended that
    reached the step. The rule needs no ladder and is mild: the choice where few trials can be afforded. Where half of
    all trials are good it saves little.

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
        check_ladder(2, r_min, r_max)
        for name, value in (("step", step), ("min_trials", min_trials)):
            if value < 1:
                raise UserError(f"scheduler.{name}={value}: must be at least 1")
        super().__init__(searcher, (*range(r_min, r_max, step), r_max), max_trials)
        self._min_trials = min_trials

    def hopeless(self, climber: Climber, level: int) -> tuple[bool, str]:
        steps = len(climber.errors)
        ended = [other.errors[:steps] for other in self._climbers.values() if other.ended]
        averages = [sum(errors) / steps for errors in ended if len(errors) == steps]
        if len(averages) < self._min_trials:
            return False, f"only {len(averages)} ended trials have reached {level}, too few to compare with"
        best, median = min(climber.errors), statistics.median(averages)
        return best > median, f"best error {best:.6g} by {level}, the median of averages is {median:.6g}"
