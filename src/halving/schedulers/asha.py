"""ASHA: asynchronous successive halving (Li et al. 2020)."""

from halving.schedulers.asynchronous import AsynchronousBracket, AsynchronousBrackets, Variant
from halving.schedulers.successive_halving import ladder
from halving.searchers import Searcher


class ASHA(AsynchronousBrackets):
    """Promotes whoever is among the best one in `eta` of all that have finished a rung, without ever waiting.

    It is the choice for many workers, and for trials of which many fail. With few trials the early promotions are
    made on little evidence. `variant="stopping"` decides once, when a trial finishes a rung, and keeps its worker.
    Without `count_failed`, the best one in `eta` of those go on that have not failed: fewer, where many fail.

    Raises UserError for a ladder that cannot be climbed.
    """

    def __init__(
        self,
        searcher: Searcher,
        eta: int = 3,
        r_min: int = 1,
        r_max: int = 27,
        variant: Variant = "promotion",
        max_trials: int | None = None,
        count_failed: bool = True,
    ) -> None:
        levels = ladder(eta, r_min, r_max)
        super().__init__(searcher, [AsynchronousBracket(levels, eta, variant, count_failed)], max_trials)
