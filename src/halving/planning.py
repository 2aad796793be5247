"""From a budget of seconds to r_min and a number of trials: what `plan=auto` chooses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from halving.errors import UserError

# What a scheduler calls the number of its trials, or of its rounds.
COUNTS = ("n", "max_trials", "rounds")
# Of the seconds, the part that a plan may fill: the rest is for validation of the last trials, files and bad luck.
FILL = 0.9


@dataclass(frozen=True)
class Plan:
    """What was chosen, and why in words. `count` names the scheduler's own setting for the number of trials."""

    r_min: int
    count: str
    value: int
    cost: float
    reason: str


def fit(
    settings: Mapping[str, object],
    cost: Callable[[int, int], float],
    *,
    eta: int,
    r_max: int,
    seconds: float,
    unit_seconds: float,
    unit: str,
) -> Plan:
    """Choose the lowest r_min, then the most trials, with which a study fits into `seconds`.

    `settings` are the scheduler's own, of which one counts its trials or rounds. `cost(r_min, value)` estimates what
    the study spends with that r_min and that count. The lowest rung is r_max / eta ** K for the largest K with which
    at least one bracket fits: the deeper the ladder, the more configurations are seen.

    Raises UserError if the scheduler has nothing to choose, or if not even the smallest study fits.
    """
    count = next((name for name in COUNTS if name in settings), None)
    if count is None or settings.get("max_trials") == 1:
        raise UserError("plan=auto: this scheduler has no number of trials to choose; take scheduler=sha")
    affordable = FILL * seconds / unit_seconds
    depth = 0
    while r_max // eta ** (depth + 1) >= 1:
        depth += 1
    for k in range(depth, -1, -1):
        r_min = r_max // eta**k
        least = 1 if count == "rounds" else eta**k
        if cost(r_min, least) <= affordable:
            value = _most(lambda n, r_min=r_min: cost(r_min, n) <= affordable, least)
            reason = (
                f"one of the {unit} takes {unit_seconds:.3g} s, so {seconds:g} s pay for {affordable:.0f} of them "
                f"({FILL:.0%} filled); r_min={r_min} and {count}={value} spend about {cost(r_min, value):.0f}"
            )
            return Plan(r_min, count, value, cost(r_min, value), reason)
    raise UserError(
        f"plan=auto: the smallest study spends {cost(r_max, 1):g} {unit} of {unit_seconds:.3g} s each, which is more "
        f"than budget.seconds={seconds:g} pays for; give more seconds, or a lower r_max"
    )


def _most(fits: Callable[[int], bool], least: int) -> int:
    """Return the largest n from `least` on that fits, by doubling and bisection; never more than a million."""
    low, high = least, 2 * least
    while fits(high) and high < 1_000_000:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
