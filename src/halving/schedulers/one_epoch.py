"""Train everything for r_min and finish the best k (Egele et al. 2023, "Is One Epoch All You Need?")."""

from fractions import Fraction

from halving.errors import UserError, whole
from halving.history import Ladder
from halving.schedulers.base import check_ladder
from halving.schedulers.successive_halving import ladder, sizes
from halving.schedulers.synchronous import BracketSequence
from halving.searchers import Searcher


class OneEpoch(BracketSequence):
    """A bracket of two levels: `n` trials train for `r_min`, and the best `k` go on to `r_max`.

    It is the baseline that every method must beat to deserve its place. Without `n` it starts as many trials as spend
    what one bracket of successive halving with `eta` spends, where training resumes. With a fidelity that trains anew
    at each rung, halving restarts more often: it then spends more than this default, and `n` is better set by hand.

    Raises UserError for a ladder that cannot be climbed, or k > n.
    """

    def __init__(
        self, searcher: Searcher, r_min: int = 1, r_max: int = 27, k: int = 1, n: int | None = None, eta: int = 3
    ) -> None:
        eta, r_min, r_max = check_ladder(eta, r_min, r_max)
        k = whole("scheduler.k", k)
        fair = max(k, (_spent_by_halving(eta, r_min, r_max) - k * (r_max - r_min)) // r_min)
        n = fair if n is None else whole("scheduler.n", n)
        if k > n:
            raise UserError(f"scheduler.k={k}: at least 1 of the n={n} trials must go on, and at most all")
        # actual // (n / k), exact in fractions: k of n, and in proportion where the space is exhausted before n.
        if r_min < r_max:
            super().__init__(searcher, [Ladder((r_min, r_max), (n, k))], Fraction(n, k))
        else:
            super().__init__(searcher, [Ladder((r_max,), (n,))], eta)


def _spent_by_halving(eta: int, r_min: int, r_max: int) -> int:
    levels = ladder(eta, r_min, r_max)
    steps = zip((0, *levels), levels, sizes(levels, eta), strict=False)
    return sum(size * (until - since) for since, until, size in steps)
