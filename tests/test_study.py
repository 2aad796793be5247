"""halving as a library: tune a function, load what was written."""

import json
import math
import random
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import make_regression
from sklearn.ensemble import GradientBoostingRegressor

import halving

LR = {"lr": {"_target_": "scipy.stats.loguniform", "a": 0.001, "b": 1.0}}


def bowl(configuration: dict[str, Any], resource: int) -> float:
    """Lowest at lr = 0.1, and lower with more resource."""
    return abs(math.log10(configuration["lr"]) + 1) + 1 / resource


def test_a_function_is_minimised_and_the_study_can_be_read(tmp_path: Path) -> None:
    calls: list[tuple[float, int]] = []

    def function(configuration: dict[str, Any], resource: int) -> float:
        calls.append((configuration["lr"], resource))
        return bowl(configuration, resource)

    study = halving.tune(function, LR, eta=3, r_min=1, r_max=9, seed=1, run_dir=tmp_path / "new" / "run")
    assert [resource for _, resource in calls] == [1] * 9 + [3] * 3 + [9]
    first = {lr: bowl({"lr": lr}, 1) for lr, resource in calls if resource == 1}
    assert study.best.configuration["lr"] == min(first, key=lambda lr: first[lr]), "the bowl keeps its ranking"
    assert study.best.last.error == min(first.values()) - 1 + 1 / 9
    assert [trial.trial for trial in study.trials] == list(range(9))

    loaded = halving.load(tmp_path / "new" / "run")
    assert loaded.trials == study.trials
    assert loaded.curves == study.curves
    assert loaded.best == study.best
    assert loaded.summary == study.summary == json.loads((tmp_path / "new/run/summary.json").read_text())
    assert study.summary["resource_spent"] == 9 + 3 * 3 + 9, "a function starts anew at each rung"
    assert study.summary["full_resource"] == 9 * 9
    rows = (tmp_path / "new/run/results.csv").read_text().splitlines()
    assert rows[0] == "trial,bracket,rung,resource,error,status,verdict,seconds,lr" and len(rows) == 14


def test_what_a_function_draws_follows_from_the_seed_and_leaves_the_callers_generators_alone() -> None:
    def noise(configuration: dict[str, Any], resource: int) -> float:
        return random.random() + float(np.random.rand())

    def errors(seed: int) -> list[float]:
        return [e.error for _, e in halving.tune(noise, LR, eta=3, r_max=3, seed=seed).history.finished]

    random.seed(7)
    np.random.seed(7)
    first = errors(0)
    assert (random.random(), np.random.rand()) == (random.Random(7).random(), np.random.RandomState(7).rand())
    assert errors(0) == first != errors(1) and len(set(first)) == len(first)


def test_gradient_boosted_trees_with_their_number_as_the_resource() -> None:
    inputs, targets, *_ = make_regression(200, 5, noise=10.0, random_state=0)
    train_x, test_x, train_y, test_y = inputs[:150], inputs[150:], targets[:150], targets[150:]

    def error(configuration: dict[str, Any], trees: int) -> float:
        model = GradientBoostingRegressor(n_estimators=trees, random_state=0, **configuration)
        return 1 - model.fit(train_x, train_y).score(test_x, test_y)

    space = {"learning_rate": LR["lr"], "max_depth": {"_target_": "scipy.stats.randint", "low": 1, "high": 5}}
    study = halving.tune(error, space, eta=3, r_min=3, r_max=27)
    assert study.best.last.resource == 27 and study.best.last.error < 0.3
    assert study.best.last.error == error(study.best.configuration, 27), "the winner can be had again"
    assert len(study.trials) == 9


def test_same_seed_gives_the_same_study_and_another_does_not() -> None:
    first, again, other = (halving.tune(bowl, LR, r_max=3, seed=seed) for seed in (0, 0, 1))
    assert [t.configuration for t in first.trials] == [t.configuration for t in again.trials]
    assert first.best.trial == again.best.trial
    assert first.best.configuration != other.best.configuration


def test_maximize_finds_the_greatest() -> None:
    greatest = halving.tune(lambda c, r: -bowl(c, r), LR, r_max=9, maximize=True)
    assert greatest.best.configuration == halving.tune(bowl, LR, r_max=9).best.configuration


def test_ready_scheduler_initial_configuration_and_budget_are_used() -> None:
    study = halving.tune(
        bowl, LR, halving.FIFO, r_max=4, max_trials=9, initial={"lr": 0.1}, budget=halving.Budget(evaluations=5)
    )
    assert len(study.trials) == 5 and study.trials[0].configuration == {"lr": 0.1}
    assert study.best.trial == 0 and study.best.last.resource == 4
    space = halving.Space.from_config(LR)
    ready = halving.FIFO(halving.RandomSearcher(space), r_max=2, max_trials=3)
    assert len(halving.tune(bowl, space, ready).trials) == 3


def test_a_used_run_dir_is_refused_and_kept(tmp_path: Path) -> None:
    halving.tune(bowl, LR, r_max=1, run_dir=tmp_path)
    before = (tmp_path / "journal.jsonl").read_bytes()
    for _ in range(2):
        with pytest.raises(halving.UserError, match="already holds a study"):
            halving.tune(bowl, LR, r_max=1, run_dir=tmp_path)
    assert (tmp_path / "journal.jsonl").read_bytes() == before


def test_some_failures_leave_a_study_and_all_failures_an_error(tmp_path: Path) -> None:
    def fragile(configuration: dict[str, Any], resource: int) -> float:
        if configuration["lr"] > 0.1:
            raise FloatingPointError("overflow")
        return bowl(configuration, resource)

    study = halving.tune(fragile, LR, r_max=9, seed=0)
    assert {t.state for t in study.trials} == {"completed", "stopped", "failed"}
    assert study.best.configuration["lr"] in [t.configuration["lr"] for t in study.trials if t.state == "completed"]

    with pytest.raises(halving.UserError, match=r"no trial survived; 3 failed, the first with: KeyError: 'no lr'"):
        halving.tune(lambda configuration, _: {}["no lr"], LR, r_max=3, run_dir=tmp_path)
    told = halving.load(tmp_path)
    assert [trial.state for trial in told.trials] == ["failed"] * 3
    with pytest.raises(halving.UserError, match="no trial of this study survived"):
        _ = told.best


def test_there_is_no_best_model_where_none_was_trained(tmp_path: Path) -> None:
    with pytest.raises(halving.UserError, match="no best model"):
        halving.tune(bowl, LR, r_max=1, run_dir=tmp_path).best_model()


@pytest.mark.parametrize(
    ("mistake", "message"),
    [({"eta": 1}, "eta=1"), ({"r_min": 5, "r_max": 4}, "r_min=5 is more than r_max=4")],
)
def test_a_ladder_that_cannot_be_leaves_no_directory(tmp_path: Path, mistake: dict[str, Any], message: str) -> None:
    with pytest.raises(halving.UserError, match=message):
        halving.tune(bowl, LR, run_dir=tmp_path / "run", **mistake)
    assert not (tmp_path / "run").exists()


def test_importing_halving_loads_nothing_heavy_and_offers_all_it_names() -> None:
    code = (
        "import sys, halving; "
        "heavy = {'torch', 'torchvision', 'wandb', 'scipy', 'sklearn', 'numpy', 'matplotlib', 'hydra', 'omegaconf'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); "
        "assert all(getattr(halving, name) for name in halving.__all__); "
        "assert 'torch' not in sys.modules and 'hydra' not in sys.modules and 'wandb' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_workers_find_what_one_process_finds(tmp_path: Path) -> None:
    alone = halving.tune(bowl, LR, r_max=9)
    together = halving.tune(bowl, LR, r_max=9, executor=partial(halving.Process, workers=2))
    assert together.best.configuration == alone.best.configuration
    assert len(together.trials) == len(alone.trials)


def test_a_study_of_a_function_is_extended(tmp_path: Path) -> None:
    whole = halving.tune(bowl, LR, r_max=9)
    part = halving.tune(bowl, LR, r_max=9, run_dir=tmp_path, budget=halving.Budget(evaluations=5))
    assert len(part.history.finished) == 5
    resumed = halving.tune(bowl, LR, r_max=9, run_dir=tmp_path, resume=True)
    assert [(t.trial, e.error) for t, e in resumed.history.finished] == [
        (t.trial, e.error) for t, e in whole.history.finished
    ]
    tables = {name: (tmp_path / name).read_bytes() for name in ("results.csv", "summary.json")}
    with pytest.raises(halving.UserError, match="does not follow from its configuration"):
        halving.tune(bowl, LR, r_max=9, run_dir=tmp_path, resume=True, seed=1)
    assert {name: (tmp_path / name).read_bytes() for name in tables} == tables
