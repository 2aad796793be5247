"""Asynchronous Hyperband (Li et al. 2020, section 3.3): ASHA in several brackets at once."""

import numpy as np

from halving.errors import whole
from halving.schedulers.asynchronous import AsynchronousBracket, AsynchronousBrackets, Variant
from halving.schedulers.hyperband import allocation
from halving.searchers import Searcher

# Keeps the draws of brackets apart from what a searcher draws for the same seed and trial.
_BRACKETS = 7


class AsyncHyperband(AsynchronousBrackets):
    """Runs ASHA on every ladder of Hyperband; a new trial joins one by a draw in proportion to Hyperband's n.

    It is the choice for many workers where it is not known whether early errors mislead.

    Raises UserError for a ladder that cannot be climbed.
    """

    def __init__(
        self,
        searcher: Searcher,
        eta: int = 3,
        r_min: int = 1,
        r_max: int = 81,
        seed: int = 0,
        variant: Variant = "promotion",
        max_trials: int | None = None,
    ) -> None:
        brackets = allocation(eta, r_min, r_max)
        self._seed = whole("scheduler.seed", seed, 0)
        self._cumulative = np.cumsum([n for n, _ in brackets])
        ladders = [AsynchronousBracket(levels, eta, variant) for _, levels in brackets]
        super().__init__(searcher, ladders, max_trials, self._draw)

    def _draw(self, trial: int) -> int:
        u = np.random.default_rng([self._seed, trial, _BRACKETS]).integers(int(self._cumulative[-1]))
        return int(np.searchsorted(self._cumulative, u, side="right"))
