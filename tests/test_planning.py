"""What plan=auto chooses, by hand."""

from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from halving.app import composition
from halving.app.objective import ConfiguredObjective
from halving.app.planning import Simulation, Unsearched, fit, simulated_costs
from halving.config.choices import Choices
from halving.config.polite import register
from halving.config.request import Request
from halving.errors import UserError
from halving.history import History, Ladder, planned_cost
from halving.schedulers import ASHA, FIFO, PASHA, AsyncHyperband, Hyperband, Median, Scheduler
from halving.schedulers.successive_halving import ladder, sizes
from halving.trial import Job, Step


def bracket_cost(r_min: int, n: int, eta: int = 3, r_max: int = 27) -> float:
    levels = ladder(eta, r_min, r_max)
    return planned_cost((Ladder(levels, sizes(levels, eta, n)),), lambda since, until: until - since) or 0.0


def chosen(seconds: float, settings: dict | None = None) -> tuple[int, str, int]:
    plan = fit(
        {"r_min": 1, **({"n": None} if settings is None else settings)},
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


def test_a_plan_that_stops_nobody_says_so_and_what_would() -> None:
    """Two trainings in full for 60 s; Hyperband's smallest ladder, 9 and 27, costs 27 + 18 + 54 = 99 units."""

    def reason(scheduler: str, r_max: int = 27, seconds: float = 60.0) -> str:
        def cost(r_min: int, value: int) -> float:
            if scheduler == "hyperband":
                return value * (planned_cost(Hyperband(Unsearched(), 3, r_min, r_max).plan, one_each) or 0.0)
            if scheduler == "median":
                return Simulation(simulated_costs(Median(Unsearched(), r_min, r_max), one_each)).cost(value)
            return bracket_cost(r_min, value, r_max=r_max)

        counts = {"hyperband": "rounds", "median": "max_trials", "sha": "n"}
        settings = {"r_min": 1, counts[scheduler]: None}
        cohorts = scheduler != "median"
        return fit(
            settings, cost, eta=3, r_max=r_max, seconds=seconds, unit_seconds=1.0, unit="epochs", cohorts=cohorts
        ).reason

    said = reason("hyperband")
    assert "r_min=27 and rounds=2" in said and "stops nobody early: for that, give budget.seconds=110, sch" in said
    assert "scheduler=sha (its smallest study is cheaper) or a lower r_max" in said
    assert "nobody" not in reason("hyperband", seconds=110.0), "as promised"
    assert "give budget.seconds=50 or a lower r_max" in reason("sha", seconds=45.0)
    assert "nobody" not in reason("sha"), "as offered"
    assert "stops nobody early" in reason("median"), "two trials are too few to compare with"
    seconds = float(reason("median").partition("budget.seconds=")[2].partition(",")[0])
    assert "nobody" not in reason("median", seconds=seconds)


def test_asynchronous_schedulers_get_max_trials() -> None:
    assert chosen(90, {"max_trials": None})[1] == "max_trials"


def test_what_cannot_fit_is_said() -> None:
    with pytest.raises(UserError, match="the smallest study spends 27 epochs of 1 s each"):
        chosen(20)
    with pytest.raises(UserError, match="no number of trials to choose"):
        chosen(90, {"max_trials": 1})


def one_each(since: int, until: int) -> float:
    return until - since


@pytest.mark.parametrize(
    "build",
    [
        lambda trials: ASHA(Unsearched(), max_trials=trials),
        lambda trials: ASHA(Unsearched(), max_trials=trials, variant="stopping"),
        lambda trials: AsyncHyperband(Unsearched(), r_max=27, max_trials=trials),
        lambda trials: PASHA(Unsearched(), max_trials=trials),
        lambda trials: Median(Unsearched(), max_trials=trials),
    ],
    ids=["asha", "asha, stopping", "async_hyperband", "pasha", "median"],
)
def test_one_simulation_tells_what_every_number_of_trials_spends(build: Callable[[int | None], Scheduler]) -> None:
    costs = simulated_costs(build(None), one_each)
    endless = [next(costs) for _ in range(60)]
    for trials in (1, 7, 40, 60):
        *_, total = simulated_costs(build(trials), one_each)
        assert total == endless[trials - 1]


def test_a_simulation_of_fifo_by_hand_and_where_training_restarts() -> None:
    assert list(simulated_costs(FIFO(Unsearched(), 27, 3), one_each)) == [27, 54, 81]
    # eta = 2 on rungs 1 and 2: of each two trials about one goes on, to pay for 2 anew.
    costs = simulated_costs(ASHA(Unsearched(), eta=2, r_max=2, max_trials=2), lambda since, until: until)
    assert list(costs) == [1, 1 + 1 + 2]


def test_what_stops_trials_early_is_planned_at_what_it_spends() -> None:
    """As one bracket of halving, median would be taken for 3 units a trial; it spends three times that."""
    simulation = Simulation(simulated_costs(Median(Unsearched()), one_each))
    assert 8 < simulation.cost(200) / 200 < 14
    assert simulation.cost(5) == 5 * 27, "nobody is stopped before five have ended"


def test_beyond_a_simulation_costs_grow_in_proportion() -> None:
    simulation = Simulation(iter([2.0, 5.0, 6.0]))
    assert [simulation.cost(n) for n in (2, 3, 6, 1)] == [5.0, 6.0, 12.0, 2.0]


def test_without_cohorts_a_few_trials_are_enough() -> None:
    """Trained in full, 72 units pay for 2 trials of 27, which no bracket of the ladder would be content with."""
    plan = fit(
        {"r_max": 27, "max_trials": None},
        lambda _, trials: 27 * trials,
        eta=3,
        r_max=27,
        seconds=80,
        unit_seconds=1.0,
        unit="epochs",
        cohorts=False,
    )
    assert (plan.count, plan.value, plan.cost) == ("max_trials", 2, 54)
    assert "r_min" not in plan.reason


def test_what_is_timed_is_trained_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[Path] = []

    class Noting(ConfiguredObjective):
        def __call__(self, jobs: Sequence[Job]) -> Generator[Step]:
            places.append(self.run_dir)
            assert not list(self.run_dir.iterdir()), "it would go on from the checkpoint that is there"
            yield from super().__call__(jobs)

    conf = Path(__file__).resolve().parents[1] / "conf"
    register(conf)
    with initialize_config_dir(str(conf), version_base="1.3"):
        small = ["model=softmax", "data.train_samples=60", "device=cpu", "executor.threads=1"]
        cfg = compose("config", ["scheduler=sha", "plan=auto", "budget.seconds=60", *small])
    monkeypatch.setattr(composition, "ConfiguredObjective", Noting)
    parts = composition.compose(Request(cfg), tmp_path, History(), lambda space: Choices())
    assert [note.partition(":")[0] for note in parts.notes] == ["plan"] and len(set(places)) == 2
