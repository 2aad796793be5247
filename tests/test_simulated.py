"""Studies on recorded curves: the table, the virtual clock, and the same decisions as in training."""

import csv
import json
import math
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose as compose_config
from hydra import initialize_config_dir

from halving.app.composition import compose
from halving.app.simulation import idle_seconds, simulate
from halving.app.tune import tune
from halving.config.choices import Choices
from halving.config.polite import register
from halving.config.request import Request
from halving.curves import Curves, load, save
from halving.errors import UserError
from halving.executors import Serial
from halving.executors.simulated import Simulated
from halving.history import History
from halving.schedulers import (
    ASHA,
    FIFO,
    PASHA,
    AsyncHyperband,
    ConcordantASHA,
    Hyperband,
    Median,
    Scheduler,
    SuccessiveHalving,
)
from halving.searchers.table import NearestRow, RandomRows, space_of
from halving.training.fidelities.table import Table
from halving.trial import Configuration, Epoch, Job, Outcome, Restarted
from halving.tuner import Budget, Tuner

nan = math.nan


class InOrder:
    """Row t for trial t."""

    def propose(self, trial: int) -> Configuration | None:
        return {"row": trial}

    def observe(self, trial: int, configuration: Configuration, resource: int, error: float) -> None: ...


def table(rows: list[list[float]], seconds: list[float] | None = None, resource: list[int] | None = None) -> Curves:
    """A table from its errors; `seconds` is what one unit takes in each row."""
    error = np.array(rows)
    levels = np.array(resource or range(1, error.shape[1] + 1))
    return Curves(error, levels, None if seconds is None else np.outer(seconds, levels))


def random_table(n: int = 400, levels: int = 27, diverging: float = 0.1, seed: int = 0) -> Curves:
    """Noisy power laws; some rows diverge on the way, and no two take the same time."""
    rng = np.random.default_rng(seed)
    limit, scale, rate = rng.random((3, n, 1))
    steps = np.arange(1, levels + 1)
    error = limit + scale * steps ** -(0.2 + rate) + 0.02 * rng.standard_normal((n, levels))
    ends = np.where(rng.random(n) < diverging, rng.integers(0, levels, n), levels)
    error[steps > ends[:, None]] = nan
    configurations: list[Configuration] = [
        {"limit": float(x[0]), "rate": float(y[0])} for x, y in zip(limit, rate, strict=True)
    ]
    return Curves(error, steps, np.cumsum(rng.lognormal(0.0, 0.5, (n, 1)) * np.ones(levels), axis=1), configurations)


def run(scheduler: Scheduler, curves: Curves, workers: int = 1, **options: Any) -> History:
    fidelity = Table(curves, epochs_too=True)
    tuner = Tuner(scheduler, Simulated(fidelity, workers, **options), cost=fidelity.cost)
    tuner.run()
    return tuner.history


def schedule(history: History) -> list[tuple[int, int, int, float, float]]:
    """(trial, since, until, started, ended) of every job, in order of starting."""
    jobs = [(t.trial, e.since, e.until, e.started, e.ended) for t in history.trials.values() for e in t.evaluations]
    return sorted(jobs, key=lambda job: (job[3], job[0]))


FOUR = table([[0.5, 0.4, 0.3, 0.2], [0.6] * 4, [0.4, 0.3, 0.2, 0.1], [0.9] * 4], seconds=[1.0, 1.0, 1.0, 3.0])


def test_synchronous_halving_leaves_a_worker_idle_for_a_straggler() -> None:
    """Trial 3 takes 3 s for what takes the others 1 s, and from second 2 to 4 the other worker waits for it."""
    history = run(SuccessiveHalving(InOrder(), eta=2, r_min=1, r_max=4), FOUR, workers=2)
    assert schedule(history) == [
        (0, 0, 1, 0.0, 1.0),
        (1, 0, 1, 0.0, 1.0),
        (2, 0, 1, 1.0, 2.0),
        (3, 0, 1, 1.0, 4.0),
        (0, 1, 2, 4.0, 5.0),
        (2, 1, 2, 4.0, 5.0),
        (2, 2, 4, 5.0, 7.0),
    ]
    assert history.seconds == 7.0 and idle_seconds(history, 2) == 2.0


def test_asynchronous_halving_does_the_same_work_without_idling() -> None:
    history = run(ASHA(InOrder(), eta=2, r_min=1, r_max=4, max_trials=4), FOUR, workers=2)
    assert schedule(history) == [
        (0, 0, 1, 0.0, 1.0),
        (1, 0, 1, 0.0, 1.0),
        (0, 1, 2, 1.0, 2.0),
        (2, 0, 1, 1.0, 2.0),
        (2, 1, 2, 2.0, 3.0),
        (3, 0, 1, 2.0, 5.0),
        (2, 2, 4, 3.0, 5.0),
    ]
    assert history.seconds == 5.0 and idle_seconds(history, 2) == 0.0


def test_with_500_workers_asha_never_idles_and_synchronous_halving_does() -> None:
    curves = random_table(diverging=0.0)
    sha = simulate(curves, SuccessiveHalving, workers=500, reuse=True, eta=3, r_max=27, n=2000)
    asha = simulate(curves, ASHA, workers=500, reuse=True, eta=3, r_max=27, budget=Budget(resource=sha.spent))
    idle = [idle_seconds(h, 500) / (500 * max(e.started for _, e in h.finished)) for h in (asha, sha)]
    assert len(asha.trials) > 1000 and idle[0] == pytest.approx(0.0, abs=1e-6)
    assert idle[1] > 0.2


SCHEDULERS: list[tuple[type, dict[str, Any]]] = [
    (SuccessiveHalving, {"n": 40, "r_max": 27, "rounds": 2}),
    (SuccessiveHalving, {"eta": 2, "r_min": 2, "r_max": 20}),
    (Hyperband, {"r_max": 27}),
    (ASHA, {"r_max": 27, "max_trials": 60}),
    (ASHA, {"r_max": 27, "max_trials": 60, "variant": "stopping"}),
    (AsyncHyperband, {"r_max": 27, "max_trials": 60}),
    (ConcordantASHA, {"r_max": 27, "max_trials": 60}),
    (PASHA, {"r_max": 27, "max_trials": 60}),
    (Median, {"r_max": 27, "max_trials": 20}),
    (FIFO, {"r_max": 27, "max_trials": 20}),
]


@pytest.mark.parametrize(("scheduler", "options"), SCHEDULERS)
def test_serial_and_simulated_take_the_same_decisions(scheduler: type, options: Mapping[str, Any]) -> None:
    curves = random_table()
    fidelity = Table(curves, epochs_too=True)
    histories: list[History] = []
    for executor in (Serial(fidelity), Simulated(fidelity)):
        tuner = Tuner(scheduler(RandomRows(curves, seed=3), **options), executor, cost=fidelity.cost)
        tuner.run()
        histories.append(tuner.history)
    serial, simulated = histories
    for history in histories:
        for trial in history.trials.values():
            for evaluation in trial.evaluations:
                evaluation.started = evaluation.ended = 0.0
    assert repr(serial.trials) == repr(simulated.trials)
    assert serial.spent == simulated.spent


@pytest.mark.parametrize(("scheduler", "options"), SCHEDULERS)
def test_virtual_time_is_the_sum_of_what_the_table_says(scheduler: type, options: Mapping[str, Any]) -> None:
    """With one worker; each resume costs 5 s and each pause 2 s on top."""
    curves = random_table()
    assert curves.seconds is not None
    history = simulate(
        curves, scheduler, seed=3, executor={"pause_seconds": 2.0, "resume_seconds": 5.0}, budget=None, **options
    )
    expected = 0.0
    for trial, evaluation in history.finished:
        cumulative = [0.0, *curves.seconds[int(str(trial.configuration["row"]))]]
        expected += cumulative[evaluation.resource] - cumulative[evaluation.since] + 2.0 + 5.0 * (evaluation.since > 0)
    assert history.seconds == pytest.approx(expected)


def test_equal_arguments_give_equal_histories_and_another_seed_another_one() -> None:
    curves = random_table()
    options = {"r_max": 27, "max_trials": 50, "workers": 7, "executor": {"stragglers": 0.5, "seconds_to_failure": 50.0}}
    first, again, other = (simulate(curves, ASHA, seed=seed, **options) for seed in (0, 0, 1))
    assert repr(first) == repr(again) != repr(other)


def lookup(curves: Curves, since: int, until: int, row: int = 0, resumable: bool = True) -> tuple[Outcome, float]:
    finished = Table(curves, resumable).look_up(Job(0, {"row": row}, since, until))
    return finished.outcome, finished.seconds


def test_a_trial_that_diverges_fails_there_and_costs_what_came_before() -> None:
    curves = table([[0.5, 0.4, nan, nan], [nan] * 4], seconds=[10.0, 10.0])
    assert lookup(curves, 0, 2) == (Outcome(0, 2, 0.4, curve=(0.5, 0.4)), 20.0)
    outcome, seconds = lookup(curves, 1, 4)
    assert (outcome.resource, outcome.failed, seconds) == (2, True, 10.0)
    outcome, seconds = lookup(curves, 0, 1, row=1)
    assert (outcome.resource, outcome.failed, seconds) == (0, True, 0.0)


def test_training_anew_pays_for_everything_again() -> None:
    curves = table([[0.5, 0.4, 0.3, 0.2]], seconds=[10.0])
    assert lookup(curves, 2, 4) == (Outcome(0, 4, 0.2, curve=(0.3, 0.2)), 20.0)
    assert lookup(curves, 2, 4, resumable=False)[1] == 40.0
    anew = simulate(curves, SuccessiveHalving, resumable=False, eta=2, r_max=4)
    assert (anew.spent, anew.seconds) == (1 + 2 + 4, 70.0)


def test_between_two_levels_the_last_measurement_counts_and_time_goes_on() -> None:
    curves = table([[0.5, 0.4, 0.3]], seconds=[2.0], resource=[5, 10, 20])
    assert lookup(curves, 0, 5) == (Outcome(0, 5, 0.5), 10.0)
    assert lookup(curves, 5, 12) == (Outcome(0, 12, 0.4), 14.0)
    assert lookup(table([[0.5, 0.4]], resource=[1, 9]), 1, 9)[1] == 8.0
    assert lookup(table([[0.5, nan]], seconds=[2.0], resource=[5, 10]), 5, 9) == (Outcome(0, 9, 0.5), 8.0)
    for until in (4, 21):
        with pytest.raises(UserError, match="levels from 5 to 20"):
            lookup(curves, 0, until)


def test_stragglers_are_log_normal_and_do_not_depend_on_the_scheduler() -> None:
    curves = table([[0.5] * 9 for _ in range(500)], seconds=[1.0] * 500)
    histories = [
        run(scheduler, curves, workers=3, stragglers=0.7, seed=5)
        for scheduler in (FIFO(InOrder(), 1, 500), SuccessiveHalving(InOrder(), 3, 1, 9, n=500))
    ]
    slow = [{t.trial: t.evaluations[0].finished.seconds for t in h.trials.values()} for h in histories]  # pyright: ignore
    assert slow[0] == slow[1]
    logs = np.log(list(slow[0].values()))
    assert abs(logs.mean()) < 3 * 0.7 / 500**0.5 and logs.std() == pytest.approx(0.7, rel=0.1)


def steps_of(seconds_to_failure: float = 40.0, **options: Any) -> tuple[list[tuple[float, Any]], float]:
    """What one job of 100 units, a second each, comes to on a failing worker, with the times."""
    executor = Simulated(Table(table([[0.5] * 100], seconds=[1.0])), seconds_to_failure=seconds_to_failure, **options)
    executor.submit(Job(0, {"row": 0}, 0, 100))
    steps = [(executor.now(), step) for _ in range(1000) if not executor.idle() for step in executor.wait()]
    assert executor.idle()
    return steps, steps[-1][1].seconds


def test_a_job_whose_worker_failed_begins_again_at_its_last_checkpoint() -> None:
    """With the same failures: from nothing, it needs 100 s without one; from a checkpoint a second, hardly more."""
    steps, seconds = steps_of(retries=1000)
    *restarts, (end, finished) = steps
    assert restarts and all(isinstance(step, Restarted) and step.since == 0 for _, step in restarts)
    assert end == seconds == pytest.approx(restarts[-1][0] + 100.0)
    assert not finished.outcome.failed
    steps, seconds = steps_of(retries=1000, checkpoint_every=10)
    *restarts, (end, _) = steps
    assert all(step.since % 10 == 0 for _, step in restarts) and restarts[-1][1].since > 0
    assert end == pytest.approx(restarts[-1][0] + 100.0 - restarts[-1][1].since)
    assert seconds < 100.0 + 10.0 * len(restarts)


def test_a_job_whose_worker_always_fails_fails_after_its_retries() -> None:
    steps, _ = steps_of(1.0, retries=2)
    finished = steps[-1][1]
    assert [step.reason for _, step in steps[:-1]] == [f"its worker failed; retry {i} of 2" for i in (1, 2)]
    assert finished.outcome.failed and "executor.retries=2" in finished.cause


def test_a_job_that_fails_for_good_has_no_epochs_beyond() -> None:
    curves = random_table(n=20)
    broken = {"seconds_to_failure": 2.0, "retries": 1}
    study = simulate(curves, SuccessiveHalving, workers=2, seed=1, eta=3, r_max=27, n=20, executor=broken)
    failed = [each for trial in study.trials.values() for each in trial.evaluations if each.finished]
    failed = [each for each in failed if each.finished and each.finished.outcome.failed]
    assert failed and not any(epoch.epoch > each.since for each in failed for epoch in each.epochs)


def test_what_happens_at_one_instant_is_known_before_the_next_decision() -> None:
    executor = Simulated(Table(table([[0.5, 0.4]] * 3), epochs_too=True), workers=3)
    for trial, until in ((0, 2), (1, 1), (2, 1)):
        executor.submit(Job(trial, {"row": trial}, 0, until))
    assert not executor.has_room()
    seen = [(type(step).__name__, getattr(step, "trial", None)) for step in executor.wait()]
    assert executor.now() == 1.0
    assert seen == [("Epoch", 1), ("Finished", None), ("Epoch", 2), ("Finished", None)]
    assert [step.epoch for step in executor.wait() if isinstance(step, Epoch)] == [1, 2]
    assert executor.idle() and executor.now() == 2.0


@pytest.mark.parametrize(
    "options",
    [
        {"workers": 0},
        {"stragglers": -0.1},
        {"stragglers": "some"},
        {"seconds_to_failure": 0.0},
        {"retries": -1},
        {"pause_seconds": nan},
    ],
)
def test_numbers_out_of_range_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"executor.{next(iter(options))}"):
        Simulated(Table(FOUR), **options)


def test_random_search_draws_every_row_once_in_an_order_that_only_the_seed_decides() -> None:
    curves = random_table(n=20)
    rows = [RandomRows(curves, seed=7).propose(trial) for trial in (*range(10, 20), *range(10))]
    assert sorted(c["row"] for c in rows if c) == list(range(20))
    assert rows[0] == RandomRows(curves, seed=7).propose(10) != RandomRows(curves, seed=8).propose(10)
    assert rows[0] is not None and rows[0] == {"row": rows[0]["row"], **curves.configurations[int(str(rows[0]["row"]))]}
    assert RandomRows(curves).propose(20) is None
    again = [RandomRows(curves, reuse=True).propose(trial) for trial in range(20, 40)]
    assert sorted(c["row"] for c in again if c) == list(range(20))
    history = simulate(curves, SuccessiveHalving, r_max=27, n=60)
    assert len(history.trials) == 20, "an exhausted table ends the search"


class Asks:
    """Proposes what it is told to, and notes what it observes."""

    def __init__(self, *proposals: Configuration) -> None:
        self.proposals = proposals
        self.seen: list[tuple[int, Configuration]] = []

    def propose(self, trial: int) -> Configuration | None:
        return self.proposals[trial % len(self.proposals)]

    def observe(self, trial: int, configuration: Configuration, resource: int, error: float) -> None:
        self.seen.append((trial, configuration))


class Recalls(Asks):
    """Notes what it is told to have proposed, too."""

    def recall(self, trial: int, configuration: Configuration) -> None:
        self.seen.append((trial, configuration))


GRID: list[Configuration] = [{"lr": 0.1, "kind": "a"}, {"lr": 0.2, "kind": "a"}, {"lr": 0.3, "kind": "b"}, {"lr": 0.4}]


def grid_table() -> Curves:
    return Curves(np.full((4, 2), 0.5), np.array([1, 2]), configurations=GRID)


def test_a_proposal_gets_the_nearest_row_not_yet_used() -> None:
    curves = grid_table()
    searcher = Asks({"lr": 0.4, "kind": "a"})
    rows = NearestRow(searcher, curves, space_of(curves), reuse=True)
    # A rank of lr is 1/4, and another kind or none is 1 apart: at squared distances 1/4, 9/16, 1 and 17/16.
    assert [c["row"] for t in range(5) if (c := rows.propose(t))] == [1, 0, 3, 2, 1]
    rows.observe(1, {"row": 1, **GRID[1]}, 1, 0.5)
    assert searcher.seen == [(1, GRID[1])], "it learns of the row, not of what it asked for"
    waits = Recalls({"lr": 0.4, "kind": "a"})
    assert NearestRow(waits, curves, space_of(curves)).propose(7) == {"row": 1, **GRID[1]}
    assert waits.seen == [(7, GRID[1])], "and what it waits for is the row, too"
    assert NearestRow(Asks(GRID[2]), curves, space_of(curves)).propose(0) == {"row": 2, **GRID[2]}


def test_an_exhausted_table_ends_the_search_and_a_resumed_one_knows_its_rows() -> None:
    curves = grid_table()
    rows = NearestRow(Asks(GRID[0]), curves, space_of(curves))
    rows.recall(0, {"row": 1, **GRID[1]})
    assert [c and c["row"] for c in map(rows.propose, range(1, 5))] == [0, 2, 3, None]


def test_a_scale_of_ones_own_replaces_a_columns_values() -> None:
    curves = random_table(n=10)
    space = space_of(curves, {"limit": {"_target_": "scipy.stats.uniform"}})
    assert {d.name: d.kind for d in space.dimensions} == {"limit": "continuous", "rate": "ordered"}
    with pytest.raises(UserError, match=r"space.lr: the table has no such column; it has limit, rate"):
        space_of(curves, {"lr": [1, 2]})


def test_a_table_survives_being_written_and_read(tmp_path: Path) -> None:
    configurations: list[Configuration] = [
        {"a": 0.1, "b": True, "c": None, "d": "x,y"},
        {"a": 0, "b": False, "d": "0?"},
    ]
    curves = Curves(
        np.array([[0.5, 0.25], [1.0, nan]]), np.array([1, 3]), np.array([[1.0, 2.0], [1.5, nan]]), configurations,
        {"source": "here"},
    )  # fmt: skip
    save(curves, tmp_path / "some" / "table.npz")
    back = load(tmp_path / "some" / "table.npz")
    np.testing.assert_array_equal(back.error, curves.error)
    np.testing.assert_array_equal(back.seconds, curves.seconds)  # pyright: ignore
    assert list(back.configurations) == configurations and back.meta == {"source": "here"}
    assert back.resource.tolist() == [1, 3] and not back.dense


def test_a_table_keeps_its_name_and_what_single_precision_cannot_hold(tmp_path: Path) -> None:
    curves = Curves(np.array([[0.5, 1e200]]), np.array([1, 3]), None, [{"a": "3_3"}])
    for name in ("mine_0.1", "mine_0.2.npz"):
        save(curves, tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"mine_0.{i}.{ending}" for i in (1, 2) for ending in ("csv", "npz")
    ]
    back = load(tmp_path / "mine_0.1.npz")
    assert back.error.tolist() == curves.error.tolist() and back.configurations == [{"a": "3_3"}]
    marked = (tmp_path / "mine_0.1.csv").read_text().encode("utf-8-sig")
    (tmp_path / "mine_0.1.csv").write_bytes(marked)
    assert load(tmp_path / "mine_0.1.npz").columns == back.columns


@pytest.mark.parametrize(
    ("arrays", "csv", "message"),
    [
        ({"error": [[0.5, 0.4]], "resource": [1, 2]}, "trial;x\n0;1\n", "commas must part them"),
        ({"error": [[0.5, 0.4]], "resource": [1, 2], "meta": "[1]"}, "trial,x\n0,1\n", "meta: must be a JSON object"),
        ({"error": [[0.5, 0.4]], "resource": [1, 2], "meta": "{"}, "trial,x\n0,1\n", "meta: is no JSON"),
        ({"error": [[0.5, 0.4]]}, "trial,x\n0,1\n", "no array resource"),
        ({"error": [0.5], "resource": [1]}, "trial,x\n0,1\n", "shape"),
        ({"error": [[0.5, 0.4]], "resource": [1, 1]}, "trial,x\n0,1\n", "ascending"),
        ({"error": [[0.5, 0.4]], "resource": [0, 1]}, "trial,x\n0,1\n", "ascending integers from 1"),
        ({"error": [[0.5, 0.4]], "resource": [1.0, 1.5]}, "trial,x\n0,1\n", "ascending integers from 1"),
        ({"error": [[nan, 0.4]], "resource": [1, 2]}, "trial,x\n0,1\n", "row 0 has a number after a NaN"),
        ({"error": [[0.5, 0.4]], "resource": [1, 2], "seconds": [[2, 1]]}, "trial,x\n0,1\n", "not cumulative"),
        ({"error": [[0.5, 0.4]], "resource": [1, 2], "seconds": [[2, nan]]}, "trial,x\n0,1\n", "without its seconds"),
        ({"error": [[0.5, 0.4]], "resource": [1, 2]}, "trial,x\n0,1\n1,2\n", "2 configurations for 1 rows"),
        ({"error": [[0.5, 0.4]], "resource": [1, 2]}, "trial,row\n0,1\n", "row"),
        ({"error": [[0.5, 0.4]], "resource": [1, 2]}, "trial,x\n0\n", "line 2 has 1 cells"),
        ({"error": [["a", "b"]], "resource": [1, 2]}, "trial,x\n0,1\n", "numbers"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, arrays: dict[str, Any], csv: str, message: str) -> None:
    np.savez(tmp_path / "t.npz", **{name: np.array(values) for name, values in arrays.items()})
    (tmp_path / "t.csv").write_text(csv)
    with pytest.raises(UserError, match=message) as refusal:
        load(tmp_path / "t.npz")
    assert "t." in str(refusal.value)


def test_a_missing_or_damaged_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "t.npz")
    (tmp_path / "t.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(UserError, match="damaged"):
        load(tmp_path / "t.npz")


def test_a_scheduler_without_an_end_needs_a_budget() -> None:
    with pytest.raises(UserError, match=r"tune: budget=600: give a halving.Budget, such as"):
        tune(lambda c, r: c["x"], {"x": [1, 2]}, budget=600)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no end of its own"):
        simulate(random_table(), ASHA, r_max=27)
    assert simulate(random_table(), ASHA, r_max=27, budget=Budget(seconds=50.0)).seconds >= 50.0


def test_the_recorded_tables_load_and_hold_what_their_readme_says(recorded: Path) -> None:
    shapes = {path.stem: load(path).error.shape for path in sorted(recorded.glob("*.npz"))}
    assert shapes["opda_convnext_tiny_imagenet"] == (512, 20)
    opda = load(recorded / "opda_convnext_tiny_imagenet.npz")
    assert np.isnan(opda.error[:, -1]).sum() == 224
    history = simulate(opda, SuccessiveHalving, seed=1, r_max=20, n=200)
    assert history.incumbent is not None
    best, evaluation = history.incumbent
    assert evaluation.error == opda.error[int(str(best.configuration["row"])), 19]
    assert sum(trial.state == "failed" for trial in history.trials.values()) > 20


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def power_laws(tmp_path: Path) -> Path:
    save(random_table(n=60), tmp_path / "power_laws.npz")
    return tmp_path / "power_laws.npz"


def test_the_command_line_simulates_a_study(fork: Run, power_laws: Path, tmp_path: Path) -> None:
    """What it decides is what the library decides; results.csv has the row, and r_max is the table's last level."""
    common = ("experiment=simulated", f"executor.curves={power_laws}", "seed=4", f"hydra.run.dir={tmp_path / 'run'}")
    result = fork(*common, "scheduler=asha", "scheduler.max_trials=20", "executor.workers=3")
    assert result.returncode == 0, result.stderr
    curves = load(power_laws)
    study = simulate(curves, ASHA, seed=4, workers=3, eta=3, r_max=27, max_trials=20)
    rows = list(csv.DictReader((tmp_path / "run" / "results.csv").open()))
    expected = [
        (t.trial, t.configuration["row"], e.resource, e.finished.seconds) for t, e in study.finished if e.finished
    ]
    assert [(int(r["trial"]), int(r["row"]), int(r["resource"]), float(r["seconds"])) for r in rows] == expected
    assert {"limit", "rate"} <= set(rows[0])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["wall_seconds"] == pytest.approx(study.seconds, abs=1e-5) and summary["command"] == ""
    assert study.incumbent is not None and summary["best_error"] == study.incumbent[1].error


@pytest.mark.parametrize("workers", [4, 60])
@pytest.mark.parametrize("scheduler", ["fifo", "asha", "async_hyperband", "concordant_asha", "median", "pasha"])
def test_the_default_end_has_an_answer(tmp_path: Path, scheduler: str, workers: int) -> None:
    """On 40 levels what one bracket spends, 256, is spent before anybody is at the last; PASHA stops where ranks agree.

    Where nobody can get there, it ends nevertheless.
    """
    conf = Path(__file__).resolve().parents[1] / "conf"
    register(conf)
    curves = random_table(n=600, levels=40, diverging=0.0)
    save(curves, tmp_path / "forty.npz")
    typed = [f"scheduler={scheduler}", f"executor.curves={tmp_path / 'forty.npz'}", f"executor.workers={workers}"]
    with initialize_config_dir(str(conf), version_base="1.3"):
        cfg = compose_config("config", ["experiment=simulated", *typed])

    def study() -> tuple[History, list[str]]:
        parts = compose(Request(cfg), tmp_path, History(), lambda space: Choices())
        tuner = Tuner(parts.scheduler, parts.executor, cost=parts.fidelity.cost, budget=parts.budget)
        tuner.run()
        return tuner.history, parts.notes

    history, notes = study()
    assert history.incumbent is not None and history.incumbent[1].resource >= (3 if scheduler == "pasha" else 40)
    assert history.halted == "the default budget.resource=256 reached" and history.spent >= 256
    assert [note.startswith(f"note: {workers} workers may spend the default budget") for note in notes] == (
        [True] if workers == 60 and scheduler not in ("fifo", "pasha") else []
    )
    error = np.where(curves.resource > 8, nan, curves.error)
    save(Curves(error, curves.resource, configurations=curves.configurations), tmp_path / "forty.npz")
    history, _ = study()
    assert 256 <= history.spent < 2 * (256 + workers * 40) + 40 * workers


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["executor.curves=nowhere.npz"], "nowhere.npz: no such file"),
        ([], "executor.curves"),
        (["executor.curves=TABLE", "r_max=28"], "levels from 1 to 27"),
        (["executor.curves=TABLE", "executor.workers=0"], "executor.workers=0: must be an integer of at least 1"),
        (["executor.curves=TABLE", "space=default"], "space.optimizer.lr: the table has no such column"),
        (["executor.curves=TABLE", "fidelity=epochs"], "executor=simulated needs fidelity=table"),
    ],
)
def test_mistakes_on_the_command_line_are_one_message(
    fork: Run, power_laws: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    typed = [argument.replace("TABLE", str(power_laws)) for argument in arguments]
    result = fork("experiment=simulated", *typed, f"hydra.run.dir={tmp_path / 'run'}")
    assert result.returncode == 1 and message in result.stderr and "Traceback" not in result.stderr


@pytest.fixture
def recorded() -> Path:
    directory = Path(os.environ.get("HALVING_DATA", "data")).parent / "curves"
    if not (directory / "opda_convnext_tiny_imagenet.npz").exists():
        pytest.skip(f"no recorded curves in {directory}, beside HALVING_DATA")
    return directory
