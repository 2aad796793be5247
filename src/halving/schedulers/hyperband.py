"""Hyperband (Li et al. 2018, JMLR, algorithm 1)."""

from halving.history import Ladder
from halving.schedulers.base import check_ladder
from halving.schedulers.successive_halving import sizes
from halving.schedulers.synchronous import BracketSequence
from halving.searchers import Searcher


def allocation(eta: int, r_min: int, r_max: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Return n and the levels of each bracket, the most aggressive first; the levels are anchored at r_max.

    s_max is the most s with r_min * eta ** s <= r_max; bracket s starts ceil((s_max + 1) * eta ** s / (s + 1)) trials
    at r_max // eta ** s. All in integers: log(243) / log(3) is less than 5 in floating point.
    """
    eta, r_min, r_max = check_ladder(eta, r_min, r_max)
    s_max = 0
    while r_min * eta ** (s_max + 1) <= r_max:
        s_max += 1
    return tuple(
        (-(-(s_max + 1) * eta**s // (s + 1)), tuple(r_max // eta**i for i in range(s, -1, -1)))
        for s in range(s_max, -1, -1)
    )


class Hyperband(BracketSequence):
    """Runs brackets of successive halving from many trials on little resource to few trials in full.

    It hedges: whether early errors rank trials well or mislead, one of the brackets is right for it. The price is up
    to s_max + 1 times the resource of the one bracket that would have been best.

    Raises UserError for a ladder that cannot be climbed.
    """

    extended_by = "rounds"

    def __init__(
        self, searcher: Searcher, eta: int = 3, r_min: int = 1, r_max: int = 81, rounds: int | None = 1
    ) -> None:
        a_round = [Ladder(levels, sizes(levels, eta, n)) for n, levels in allocation(eta, r_min, r_max)]
        super().__init__(searcher, a_round, eta, rounds)
