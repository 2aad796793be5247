"""What plan=auto chooses, by hand."""

import pytest

from halving.errors import UserError
from halving.history import Ladder
from halving.planning import fit
from halving.schedulers.successive_halving import ladder, sizes
from halving.study import planned_cost


def bracket_cost(r_min: int, n: int, eta: int = 3, r_max: int = 27) -> float:
    levels = ladder(eta, r_min, r_max)
    return planned_cost((Ladder(levels, sizes(levels, eta, n)),), lambda since, until: until - since) or 0.0


def chosen(seconds: float, settings: dict | None = None) -> tuple[int, str, int]:
    plan = fit(
        {"n": None} if settings is None else settings,
        bracket_cost,
        eta=3,
        r_max=27,
        seconds=seconds,
        unit_seconds=1.0,
        unit="epochs",
    )
    assert plan.cost <= 0.9 * seconds
    assert f"r_min={plan.r_min}" in plan.reason
    return plan.r_min, plan.count, plan.value


def test_the_deepest_ladder_that_fits_and_then_the_most_trials() -> None:
    # A bracket of 27 costs 81: 90 s at one second each pay for exactly that.
    assert chosen(90) == (1, "n", 27)
    # 72 pay for no bracket of four rungs; three rungs from 3 cost 9 * 3 + 3 * 6 + 18 = 63, a tenth trial 66.
    assert chosen(80)[:2] == (3, "n")
    assert bracket_cost(3, chosen(80)[2]) <= 72 < bracket_cost(3, chosen(80)[2] + 1)
    assert chosen(30) == (27, "n", 1)


def test_asynchronous_schedulers_get_max_trials() -> None:
    assert chosen(90, {"max_trials": None})[1] == "max_trials"


def test_what_cannot_fit_is_said() -> None:
    with pytest.raises(UserError, match="the smallest study spends 27 epochs of 1 s each"):
        chosen(20)
    with pytest.raises(UserError, match="no number of trials to choose"):
        chosen(90, {"max_trials": 1})
