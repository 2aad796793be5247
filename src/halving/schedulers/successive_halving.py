"""Successive halving (Karnin et al. 2013; Jamieson and Talwalkar 2016)."""

from halving.errors import whole
from halving.history import Ladder
from halving.schedulers.base import check_ladder
from halving.schedulers.synchronous import BracketSequence
from halving.searchers import Searcher


def ladder(eta: int, r_min: int, r_max: int) -> tuple[int, ...]:
    """Return the levels r_min, r_min * eta, ... below r_max, and then r_max.

    Raises UserError for an eta, r_min or r_max with which there is no ladder.
    """
    eta, r_min, r_max = check_ladder(eta, r_min, r_max)
    levels: list[int] = []
    level = r_min
    while level < r_max:
        levels.append(level)
        level *= eta
    return (*levels, r_max)


def sizes(levels: tuple[int, ...], eta: int, n: int | None = None) -> tuple[int, ...]:
    """Return how many trials reach each level: n (by default eta ** K for K + 1 levels), then one in eta of it."""
    eta = int(eta)
    counts = [eta ** (len(levels) - 1) if n is None else n]
    for _ in levels[1:]:
        counts.append(max(1, counts[-1] // eta))
    return tuple(counts)


class SuccessiveHalving(BracketSequence):
    """Trains `n` trials for `r_min`, keeps the best one in `eta`, and so on up to `r_max`; `rounds` times over,
    or without end.

    It is robust where early errors rank trials as late ones do, and loses slow starters where they do not. In the
    book's words (Dive into Deep Learning, section 19.4) `eta` and `prefact` shape the ladder, which starts at r_min.

    Raises UserError for a ladder that cannot be climbed.
    """

    extended_by = "rounds"

    def __init__(
        self,
        searcher: Searcher,
        eta: int = 3,
        r_min: int = 1,
        r_max: int = 27,
        n: int | None = None,
        rounds: int | None = 1,
    ) -> None:
        levels = ladder(eta, r_min, r_max)
        n = None if n is None else whole("scheduler.n", n)
        super().__init__(searcher, [Ladder(levels, sizes(levels, eta, n))], eta, rounds)
