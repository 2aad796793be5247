"""halving as a library: tune a function, load what was written."""

import csv
import json
import math
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import rv_discrete
from sklearn.datasets import make_regression
from sklearn.ensemble import GradientBoostingRegressor

import halving
from halving.report import figures
from halving.review.rebuilding import rebuild
from halving.searchers import BOHBSearcher
from halving.tracking.csv import Csv
from halving.tracking.progress import Progress
from halving.tracking.wandb import Wandb
from halving.trial import Start

LR = {"lr": {"_target_": "scipy.stats.loguniform", "a": 0.001, "b": 1.0}}


def descent(trial: Any) -> Any:
    """A training of one trial, which leaves how far it is."""
    done = int((trial.directory / "done").read_text()) if trial.since else 0
    for epoch in range(done + 1, 1000):
        (trial.directory / "done").write_text(str(epoch))
        yield {"mse": bowl(trial.configuration, epoch), "norm": -float(epoch), "val_loss": 0.5}


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


def test_a_scheduler_that_lies_elsewhere_is_named_with_its_home() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'ASHA'; from halving\.schedulers import ASHA"):
        _ = halving.ASHA  # type: ignore
    assert not hasattr(halving, "Asha")


def test_maximize_finds_the_greatest() -> None:
    greatest = halving.tune(lambda c, r: -bowl(c, r), LR, r_max=9, maximize=True)
    least = halving.tune(bowl, LR, r_max=9)
    assert greatest.best.configuration == least.best.configuration
    assert repr(greatest.best) == repr(least.best).replace("completed: ", "completed: -").replace(", 0", ", -0")


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
    (tmp_path / "file").touch()
    with pytest.raises(halving.UserError, match=r"run_dir=.*file/below: a study cannot be written there"):
        halving.tune(bowl, LR, r_max=1, run_dir=tmp_path / "file/below")
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
    with pytest.raises(halving.UserError, match=r"no best model.*best_state\(\) has"):
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


def penalised(penalty: float) -> Callable[[dict[str, Any], int], float]:
    """Every third trial comes to `penalty`."""
    return lambda c, resource: penalty if int(c["lr"] * 1e9) % 3 == 0 else bowl(c, resource)


@pytest.mark.parametrize(
    ("function", "space", "maximize"),
    [
        (penalised(sys.float_info.max), LR, False),
        (penalised(-sys.float_info.max), LR, False),
        (penalised(1e200), LR, False),
        (penalised(5e-324), LR, True),
        (lambda c, r: c["x"] / r, {"x": {"_target_": "scipy.stats.loguniform", "a": 1e-200, "b": 1e200}}, False),
        (lambda c, r: c["y"], {"y": [-sys.float_info.max, 5e-324, 0.0, 1.0, 2.0, 3.0, 4.0, sys.float_info.max]}, True),
        (lambda c, r: 1e308, {"n": [1, 10**400], "x": [1.0, math.inf], "z": [1.0, 1.0 + 2**-52]}, False),
        (lambda c, r: c["x"], {"x": {"_target_": "scipy.stats.loguniform", "a": 1e-320, "b": 1e-310}}, False),
        (lambda c, r: -0.0, {"\udcff": ["a", "a\udcff"], "größe": ["größe", "大きさ"]}, False),
    ],
)
def test_no_number_or_text_costs_the_end_of_a_study(function: Any, space: Any, maximize: bool, tmp_path: Path) -> None:
    study = halving.tune(function, space, r_max=27, run_dir=tmp_path, maximize=maximize)
    assert study.summary["end"] == "finished" and study.best.last.resource == 27
    page = (tmp_path / "report.html").read_text("utf-8")
    assert page.count("<svg") == 6 and "could not" not in page


def test_a_function_may_change_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wandering(configuration: dict[str, Any], resource: int) -> float:
        with tempfile.TemporaryDirectory() as place:
            os.chdir(place)  # which is gone afterwards
        return bowl(configuration, resource)

    monkeypatch.chdir(tmp_path)
    halving.tune(wandering, LR, r_max=9, run_dir="run", budget=halving.Budget(evaluations=5))
    os.chdir(tmp_path)
    study = halving.tune(wandering, LR, r_max=9, run_dir="run", resume=True)
    assert len(study.history.finished) == 13 and study.run_dir == tmp_path / "run"
    os.chdir(tmp_path)
    loaded = halving.load("run")
    monkeypatch.chdir("/")
    assert rebuild(loaded.run_dir or Path()) and (tmp_path / "run/report.html").is_file()


def test_a_file_that_cannot_be_written_is_named_and_the_study_returned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "results.csv/in the way").mkdir(parents=True)
    study = halving.tune(bowl, LR, r_max=3, run_dir=tmp_path)
    assert study.best.last.resource == 3
    assert "results.csv could not be written" in caplog.text
    assert f"python -m halving study rebuild {tmp_path}" in caplog.text
    assert halving.load(tmp_path).summary == study.summary == json.loads((tmp_path / "summary.json").read_text())
    with pytest.raises(halving.UserError, match=r"^results\.csv could not be written"):
        rebuild(tmp_path)
    assert (tmp_path / "report.html").is_file()


def test_a_figure_that_cannot_be_drawn_leaves_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(history: Any) -> str:
        raise ZeroDivisionError("no <room>")

    monkeypatch.setattr(figures, "rung_scatter", broken)
    study = halving.tune(bowl, LR, r_max=3, run_dir=tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 5 and "ZeroDivisionError: no &lt;room&gt;" in page
    assert study.best and "study rebuild" in caplog.text and "Traceback" in caplog.text


def test_what_ended_a_study_is_not_hidden_by_what_follows(tmp_path: Path) -> None:
    class Broken(halving.RandomSearcher):
        def propose(self, trial: int) -> Any:
            raise LookupError("my own bug")

    (tmp_path / "results.csv/in the way").mkdir(parents=True)
    with pytest.raises(LookupError, match="my own bug"):
        halving.tune(bowl, LR, r_max=3, run_dir=tmp_path, searcher=Broken)
    with pytest.raises(TypeError, match="does not go into the journal"):
        halving.tune(bowl, LR, r_max=3, run_dir=tmp_path / "new", initial={"lr": object()})  # type: ignore


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"maximize": True}, "maximize: False in the study, True now"),
        ({"metric": "loss"}, "metric: error in the study, loss now"),
        ({"seed": 1}, "seed: 0 in the study, 1 now"),
        ({"eta": 2}, "eta: 3 in the study, 2 now"),
        ({"n": 8}, "n: None in the study, 8 now"),
        ({"r_max": 27}, "r_max: 9 in the study, 27 now"),
        ({"initial": {"lr": 0.1}}, r"initial: None in the study, {'lr': 0.1} now"),
        ({"scheduler": halving.FIFO, "max_trials": 3}, "scheduler: SuccessiveHalving in the study, FIFO now"),
        ({"space": {"lr": [0.1, 0.2]}}, r"space: lr: loguniform\(a=0.001, b=1.0\) in the study, lr: \[0.1, 0.2\] now"),
        ({"function": lambda configuration, resource: 0.0}, "name: bowl in the study, <lambda> now"),
        ({"searcher": partial(BOHBSearcher, good=0.5)}, "searcher.good: 0.15 in the study, 0.5 now"),
        ({"space": {"lr": rv_discrete(values=([0.1, 0.2], [0.1, 0.9]))}}, r"weighted \[0.5, 0.5\] in the study"),
    ],
)
def test_another_study_is_refused_with_the_difference(change: dict[str, Any], difference: str, tmp_path: Path) -> None:
    begun = {"function": bowl, "space": LR, "r_max": 9}
    if "weighted" in difference:
        begun["space"] = {"lr": rv_discrete(values=([0.1, 0.2], [0.5, 0.5]))}
    if "searcher" in change:
        begun["searcher"] = BOHBSearcher
    halving.tune(**begun, run_dir=tmp_path, budget=halving.Budget(evaluations=5))
    before = (tmp_path / "journal.jsonl").read_bytes()
    with pytest.raises(halving.UserError, match=difference):
        halving.tune(**begun | change, run_dir=tmp_path, resume=True)
    assert (tmp_path / "journal.jsonl").read_bytes() == before


def test_a_finished_study_says_what_extends_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    more = {"resume": True, "budget": halving.Budget(evaluations=60)}
    for scheduler, options, cure in (
        (halving.SuccessiveHalving, {}, "rounds=2 does"),
        (halving.FIFO, {"max_trials": 2}, "max_trials=4 does"),
    ):
        begun = {"function": bowl, "space": LR, "scheduler": scheduler, "r_max": 3, "run_dir": tmp_path / cure}
        first = halving.tune(**begun, **options)
        caplog.clear()
        assert len(halving.tune(**begun, **options, **more).trials) == len(first.trials)
        assert cure in caplog.text
        knob, value = cure.removesuffix(" does").split("=")
        assert len(halving.tune(**begun, **options | {knob: int(value)}, **more).trials) == 2 * len(first.trials)
    halving.tune(bowl, {"lr": [0.1, 0.2]}, halving.FIFO, r_max=1, max_trials=9, run_dir=tmp_path / "small")
    halving.tune(bowl, {"lr": [0.1, 0.2]}, halving.FIFO, r_max=1, max_trials=9, run_dir=tmp_path / "small", **more)


def test_numpys_numbers_are_numbers(tmp_path: Path) -> None:
    def function(configuration: dict[str, Any], resource: int) -> Any:
        assert {name: type(value) for name, value in configuration.items()} == {
            "lr": float, "width": int, "flag": bool, "act": str,
        }  # fmt: skip
        error = bowl(configuration, resource)
        return (np.float32(error), np.array([error]), torch.tensor(error))[configuration["width"] % 3]

    space = {
        "lr": np.logspace(-3, 0, 4), "width": [np.int64(3), np.uint8(4), 5], "flag": [np.True_, np.False_],
        "act": [np.str_("relu"), "tanh"],
    }  # fmt: skip
    for seed in np.arange(2):
        study = halving.tune(
            function,
            space,
            eta=np.int64(3),
            r_min=np.uint8(1),
            r_max=np.int32(9),
            rounds=np.array(1),
            seed=seed,
            initial={"lr": np.float64(0.1), "width": np.int16(4), "flag": np.bool_(True), "act": "tanh"},
            budget=halving.Budget(evaluations=np.int64(40), seconds=np.float32(60)),  # type: ignore
            maximize=np.bool_(False),  # type: ignore
            run_dir=tmp_path / str(seed),
        )
        assert study.trials == halving.load(tmp_path / str(seed)).trials
        plain = json.loads((tmp_path / str(seed) / "summary.json").read_text())
        assert plain["seed"] == seed and plain["best_error"] == study.best.last.error
    ready = halving.FIFO(
        halving.RandomSearcher(halving.Space.from_config(LR)), r_max=np.int64(2), max_trials=np.int64(3)
    )
    assert len(halving.tune(bowl, LR, ready, run_dir=tmp_path / "ready").trials) == 3
    for seed in (-1, 0.5, "0", None):
        with pytest.raises(halving.UserError, match="must be an integer of at least 0"):
            halving.tune(bowl, LR, seed=seed)  # type: ignore
    with pytest.raises(halving.UserError, match="maximize='no': must be True or False"):
        halving.tune(bowl, LR, maximize="no")  # type: ignore


@pytest.mark.parametrize(
    ("come_to", "maximize", "message"),
    [
        ([math.nan], False, r"all 3 came to NaN, the first at lr=0\.\d+$"),
        ([math.inf], False, "all 3 came to inf, the first at lr="),
        ([-math.inf], True, "all 3 came to -inf, the first at lr="),
        ([math.nan, None], False, "; 2 came to NaN, the first at lr=0.* 1 failed, the first with: KeyError: 'lost'$"),
    ],
)
def test_a_study_without_a_number_says_what_it_came_to(come_to: list[Any], maximize: bool, message: str) -> None:
    calls: list[int] = []

    def function(configuration: dict[str, Any], resource: int) -> float:
        calls.append(resource)
        value = come_to[(len(calls) - 1) % len(come_to)]
        return value if value is not None else {}["lost"]

    with pytest.raises(halving.UserError, match=message):
        halving.tune(function, LR, r_max=3, maximize=maximize)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scheduler": "asha"}, "tune: scheduler='asha': give a class of halving.schedulers, not its name"),
        ({"searcher": "random"}, "tune: searcher='random': give a class of halving.searchers, not its name"),
        ({"space": [1, 2]}, r"tune: space=\[1, 2\]: give a mapping of names"),
        ({"space": {"lr": rv_discrete}}, r"_target_ \(from Python also as loguniform"),
        *(
            ({"metric": each}, "give its name")
            for each in (None, 3, "", "MAX:acc", " max:acc", "maximize:a", "max:max:a")
        ),
        ({"initial": [1]}, "a mapping of the space's names"),
        ({"initial": {"lx": 0.1}}, "initial: the space has no lx; there is lr"),
        ({"initial": {}}, "initial: it says nothing of lr"),
        ({"run_dir": ""}, "give a path"),
        ({"run_dir": 3}, "give a path"),
        ({"executor": "process"}, "give halving.Process"),
        ({"executor": halving.Process}, "missing a required argument: 'workers'"),
        *(({"trackers": each}, "tune: trackers") for each in ("wandb", 3, ["wandb"], [halving.tracking.csv.Csv])),
        ({"test": 3}, "give a function of a trial"),
        ({"function": None}, "None is no function"),
    ],
)
def test_what_is_no_class_or_space_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(halving.UserError, match=message):
        halving.tune(**({"function": bowl, "space": LR} | arguments))


def test_what_a_notebook_shows_is_for_reading(tmp_path: Path) -> None:
    study = halving.tune(bowl, LR, r_max=27, run_dir=tmp_path)
    shown = {repr(each) for each in (study, study.history, study.best, study.best.last, halving.Space.from_config(LR))}
    assert max(map(len, shown)) < 250 and not any("\n" in text for text in shown)
    assert f"trial {study.best.trial} is best: error {study.best.last.error:.6g} after 27 units" in repr(study)
    assert "27 trials, 40 evaluations" in repr(study)
    one = halving.tune(bowl, LR, halving.schedulers.FIFO, r_max=1, max_trials=1)
    assert "1 trial, 1 evaluation; trial 0 is best: " in repr(one) and " after 1 unit)" in repr(one)
    assert repr(halving.Space.from_config(LR)) == "Space(lr: loguniform(a=0.001, b=1.0))"


def test_a_study_as_a_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = halving.tune(bowl, LR, r_max=3)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(halving.UserError, match="pip install pandas"):
        study.to_frame()
    frame: Any = SimpleNamespace(DataFrame=lambda rows, columns=None: (columns, rows))
    monkeypatch.setitem(sys.modules, "pandas", frame)
    columns, rows = study.to_frame()
    assert columns == ["trial", "bracket", "rung", "resource", "error", "status", "verdict", "seconds", "lr"]
    assert [set(row) <= set(columns) for row in rows] == [True] * 4
    assert min(row["error"] for row in rows if row["resource"] == 3) == study.best.last.error
    assert study.to_frame("curves") == (None, [])
    trained = halving.tune(descent, LR, metric="mse", r_max=3)
    assert [row["trial"] for row in trained.to_frame("curves")[1]].count(trained.best.trial) == 3
    assert set(trained.to_frame("curves")[1][0]) == {"trial", "resource", "epoch", "mse", "norm", "val_loss"}
    with pytest.raises(halving.UserError, match="no table 'curve'; give evaluations or curves"):
        study.to_frame("curve")  # pyright: ignore[reportArgumentType]


def test_a_training_has_what_the_command_line_has(tmp_path: Path) -> None:
    study = halving.tune(
        descent,
        LR,
        metric="mse",
        r_max=9,
        run_dir=tmp_path,
        trackers=[Wandb(mode="offline", project="own"), Csv()],
        test=lambda trial: {"test_mse": float((trial.directory / "done").read_text())},
    )
    assert study.history.ended and study.history.ended.test == {"test_mse": 9.0}
    assert study.summary["resource_spent"] == 21 and (study.best_directory / "done").read_text() == "9"
    with (tmp_path / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    fixed = ["trial", "resource", "epoch", "lr", "train_loss", "train_error", "val_loss", "val_error", "seconds"]
    assert list(rows[0]) == [*fixed, "mse", "norm"] and (rows[0]["val_loss"], rows[0]["val_error"]) == ("0.5", "")
    assert [float(row["mse"]) for row in rows if row["trial"] == str(study.best.trial)] == [
        row["mse"] for row in study.curves[study.best.trial]
    ]
    runs = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(runs) == 10 and all(b"mse" in run.read_bytes() for run in runs)
    assert (tmp_path / "metrics.csv").read_text().startswith("elapsed,trial,resource,epoch,mse,norm,val_loss\n")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert page.count("<svg") == 7 and "could not" not in page
    assert "best mse: <b>" in page and "with a test mse of <b>9</b>" in page
    for tracker in (Wandb(mode="offline"), Csv()):
        with pytest.raises(halving.UserError, match=r"trackers: \w+ writes into the run directory; give run_dir="):
            halving.tune(descent, LR, metric="mse", r_max=1, trackers=[tracker])


@pytest.mark.parametrize(
    ("terminal", "progress", "shown"),
    [
        ("terminal", None, True),
        ("notebook", None, True),
        ("file", None, False),
        ("terminal", False, False),
        ("file", True, True),
    ],
)
def test_progress_is_on_where_somebody_looks(
    terminal: str,
    progress: bool | None,
    shown: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = SimpleNamespace(is_interactive=terminal == "terminal", is_jupyter=terminal == "notebook")
    monkeypatch.setattr("halving.app.tune.Terminal", lambda: console)
    monkeypatch.setattr(Progress, "__init__", lambda self: print("progress begins"))
    for method in ("resume", "record", "close"):
        monkeypatch.setattr(Progress, method, lambda self, *rest: None)
    halving.tune(descent, LR, metric="mse", r_max=1, progress=progress)
    assert ("progress begins" in capsys.readouterr().out) is shown


def test_the_metric_may_be_a_greatest_one_and_must_be_there() -> None:
    for options in ({"metric": "max:norm"}, {"metric": "norm", "maximize": True}):
        study = halving.tune(descent, LR, r_max=3, **options)
        assert (study.summary["metric"], study.summary["maximize"], study.summary["best_error"]) == ("norm", True, -3)
    with pytest.raises(
        halving.UserError, match="reports mse, norm, val_loss and no error, which is the metric; give m"
    ):
        halving.tune(descent, LR, r_max=3)


def test_a_test_that_fails_costs_no_study(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken(trial: Any) -> Any:
        raise LookupError("no test set")

    study = halving.tune(descent, LR, metric="mse", r_max=3, run_dir=tmp_path, test=broken)
    assert study.best.last.resource == 3 and "the winner's test failed: LookupError: no test set" in caplog.text
    again = halving.tune(
        descent, LR, metric="mse", r_max=3, run_dir=tmp_path, test=lambda trial: {"test_mse": 1}, resume=True
    )
    assert again.history.ended and again.history.ended.test == {"test_mse": 1.0} and not again.history.ended.failure


class Answering(halving.SuccessiveHalving):
    """Answers what its `wrong` says: `suggest` nothing or a trial twice, `update` nothing."""

    wrong = ""

    def suggest(self) -> Any:
        if self.wrong == "twice":
            return Start(0, {"lr": 0.1}, 1, 0, 0, "again")
        return None if self.wrong == "nothing" else super().suggest()

    def update(self, outcome: Any) -> Any:
        if self.wrong == "twice":
            return ()
        return None if self.wrong == "verdicts" else super().update(outcome)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("nothing", r"the scheduler Wrong suggests None; python -m halving.conformance test_study:"),
        ("twice", "starts trial 0, which has been started"),
        ("verdicts", "answers None to an outcome, where verdicts are due"),
    ],
)
def test_a_schedulers_mistake_is_told_in_words(wrong: str, said: str) -> None:
    class Wrong(Answering):
        pass

    Wrong.wrong = wrong
    with pytest.raises(halving.UserError, match=said):
        halving.tune(bowl, LR, Wrong, r_max=3)
