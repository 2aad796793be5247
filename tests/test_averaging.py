"""Averaged weights: as worked out from the weights of each step and epoch, beside them, and optimised."""

import csv
import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from test_exact_resume import build
from torch import nn

import halving
from halving.errors import UserError
from halving.targets import instantiate
from halving.tracking import wandb_runs
from halving.training.averaging import EMA, SWA, Averaging
from halving.training.loop import measure
from halving.training.trainer import Trainer
from halving.trial import Finished, Job

OLD = Path(__file__).parent / "golden/killed_0.2.0"
OWN = ("fidelity=function", "fidelity.function=math.hypot", "trusted_packages=[math]")
SMALL = ("model=softmax", "data.train_samples=100", "r_max=3", "tracker=none", "executor.threads=1")
# Batch norm and dropout; four batches an epoch.
NET = ["model=softmax", "model._target_=test_averaging.Net", "data.train_samples=200", "data.batch_size=50", "r_max=4"]
Weights = dict[str, torch.Tensor]
passed: list[Weights] = []  # the weights after each step


class Recording(torch.optim.SGD):
    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr)

    def step(self, closure: Any = None) -> None:
        super().step()
        passed.append({str(i): p.detach().clone() for i, p in enumerate(self.param_groups[0]["params"])})


class Uncopied(nn.Linear):
    def __init__(self, shape: list[int], outputs: int) -> None:
        super().__init__(shape[1], outputs)
        self.own = (i for i in range(3))


class Net(nn.Sequential):
    def __init__(self, shape: list[int], outputs: int) -> None:
        normed = (nn.Conv2d(1, 4, 3, stride=3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 8, 3))
        super().__init__(*normed, nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(outputs))


def trainer_of(tmp_path: Path, *overrides: str) -> Trainer:
    own = ["optimizer=sgd_from_scratch", "optimizer._target_=test_averaging.Recording", "optimizer.lr=0.3"]
    _, setting = build([*NET, *own, *overrides], tmp_path)
    passed.clear()
    return Trainer(setting.recipe())


def averaged(trainer: Trainer) -> Weights:
    names = [name for name, _ in trainer.model.named_parameters()]
    return {str(i): trainer.weights()["averaged"]["model"][name] for i, name in enumerate(names)}


def test_averages_are_those_of_the_weights_after_each_epoch_or_step(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "averaging=swa", "averaging.start=0.5")
    assert "averaged" not in trainer.weights()
    for epoch in range(1, 5):
        metrics = trainer.epoch(epoch)
        assert (metrics["averaged_val_loss"] == metrics["val_loss"]) == (epoch < 2)
    assert len(passed) == 16
    for name, found in averaged(trainer).items():
        torch.testing.assert_close(found, torch.stack([passed[i][name] for i in (7, 11, 15)]).mean(0))

    trainer = trainer_of(tmp_path, "averaging=ema", "averaging.decay=0.4")
    for epoch in (1, 2):
        trainer.epoch(epoch)
    expected = passed[0]
    for n, weights in enumerate(passed[1:], start=1):
        d = [0, 2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 0.4, 0.4][n]
        expected = {name: d * expected[name] + (1 - d) * weights[name] for name in weights}
    assert len(passed) == 8
    for name, found in averaged(trainer).items():
        torch.testing.assert_close(found, expected[name])


def test_batch_norm_gets_the_statistics_of_the_averaged_weights_on_the_training_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(tmp_path, "averaging=ema", "averaging.decay=0.9", "data.train_samples=230")
    for epoch in (1, 2):
        metrics = trainer.epoch(epoch)
    state, data = trainer.weights()["averaged"]["model"], trainer.data
    net = Net([1, 28, 28], 10).eval()
    net(next(data.batches(data.train))[0])
    net.load_state_dict(state)
    assert metrics["averaged_val_loss"] == measure(net, data, data.validation)["loss"]
    ((hidden, _),) = data.batches(data.train, size=230)
    raw = trainer.weights()["model"]
    for i, layer in enumerate(net):
        if isinstance(layer, nn.BatchNorm2d):
            mean, variance = (state[f"{i}.running_{name}"] for name in ("mean", "var"))
            torch.testing.assert_close(mean, hidden.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(variance, hidden.transpose(0, 1).flatten(1).var(1), rtol=1e-4, atol=1e-5)
            assert not torch.allclose(raw[f"{i}.running_mean"], mean, rtol=0.01)
            hidden = nn.BatchNorm2d(len(mean)).requires_grad_(False)(hidden)
            hidden = hidden * layer.weight.view(-1, 1, 1) + layer.bias.view(-1, 1, 1)
        elif i < 5:
            hidden = layer(hidden)
    monkeypatch.setattr("halving.training.averaging.EVALUATION_BATCH", 60)
    trainer.epoch(3)
    state = trainer.weights()["averaged"]["model"]
    net.load_state_dict(state)
    ((inputs, _),) = data.batches(data.train, size=230)
    torch.testing.assert_close(state["1.running_mean"], net[0](inputs).mean((0, 2, 3)))  # of 60, 60, 60 and 50


@pytest.mark.parametrize("more", [[], ["fidelity=folds"], ["fidelity=samples"], ["fidelity=width", "model=cnn"]])
def test_the_last_weights_are_what_they_are_without_an_average(more: list[str], tmp_path: Path) -> None:
    """Under every axis; and what it is tested with is what it was validated with."""
    small = [*NET[:2], "data.train_samples=60", "data.batch_size=20", "r_max=2"]
    common = [*(small[2:] if "model=cnn" in more else small), *more, *(["epochs=2"] if more else [])]
    found: list[Any] = []
    for name in ("none", "ema", "swa"):
        fidelity, setting = build([*common, f"averaging={name}"], tmp_path / name)
        *epochs, finished = fidelity.run(setting, Job(0, {}, 0, 2))
        assert isinstance(finished, Finished)
        _, paused = build([*common, f"averaging={name}"], tmp_path / f"{name} paused")
        for job in (Job(0, {}, 0, 1), Job(0, {}, 1, 2)):
            list(fidelity.run(paused, job))
        assert fidelity.test(paused, job) == fidelity.test(setting, job)
        curves = [{key: v for key, v in each.metrics.items() if key != "seconds"} for each in epochs]
        state = torch.load(tmp_path / name / "checkpoints/0/2.pt", weights_only=True)["state"]
        found.append((finished.outcome, curves, fidelity.test(setting, Job(0, {}, 0, 2)), state))
    bare, *others = found
    assert "averaged" not in bare[3] and not any("averaged" in key for each in (*bare[1], bare[2]) for key in each)
    for outcome, curves, test, state in others:
        assert outcome == bare[0]
        for mine, own in zip([*curves, test], [*bare[1], bare[2]], strict=True):
            assert {key: v for key, v in mine.items() if not key.startswith("averaged")} == own
            assert {f"averaged_{key}" for key in own if key.startswith(("val_e", "val_l", "test_e"))} <= mine.keys()
        assert all(torch.equal(state["model"][key], value) for key, value in bare[3]["model"].items())
        assert state["averaged"]["taken"] >= 1 and test["averaged_test_loss"] != test["test_loss"]


def test_the_rung_below_the_start_compares_the_last_weights(tmp_path: Path) -> None:
    fidelity, setting = build([*NET, "averaging=swa", "metric=max:averaged_val_accuracy"], tmp_path)
    for job in (Job(0, {}, 0, 2), Job(0, {}, 2, 4)):
        *epochs, finished = fidelity.run(setting, job)
        metrics = epochs[-1].metrics
        assert finished.outcome.error == metrics["averaged_val_accuracy"] == 1 - metrics["averaged_val_error"]
        assert (metrics["averaged_val_loss"] == metrics["val_loss"]) == (job.until == 2)
        test = fidelity.test(setting, job)
        assert (test["averaged_test_loss"] == test["test_loss"]) == (job.until == 2)
        assert test["averaged_test_accuracy"] == 1 - test["averaged_test_error"]


def test_own_metrics_are_measured_of_averaged_weights_too(tmp_path: Path) -> None:
    _, setting = build([*NET, "averaging=ema"], tmp_path)
    recipe = setting.recipe()
    data = replace(recipe.data, metrics={"sure": lambda outputs, targets: float(outputs.softmax(1).amax(1).mean())})
    trainer = Trainer(replace(recipe, data=data))
    metrics = trainer.epoch(1)
    assert metrics["averaged_val_sure"] != metrics["val_sure"]
    assert trainer.test()["averaged_test_sure"] != trainer.test()["test_sure"]


@pytest.fixture(scope="module")
def study(fork: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that chooses whether to average, by the averaged error, and confirms its best."""
    run_dir = tmp_path_factory.mktemp("averaging") / "run"
    space = "+space.averaging={_choice_: {none: {}, ema: {decay: [0.9, 0.99]}}}"
    done = fork(
        *("scheduler=sha", "model=cnn", "model.width=4", "data.train_samples=200", "r_max=3", "executor.threads=1"),
        *(
            "metric=averaged_val_error",
            "averaging=ema",
            space,
            "optimizer.lr=0.3",
            "seed=1",
            "confirm.top=1",
            "confirm.seeds=2",
        ),
        *("tracker=csv", f"hydra.run.dir={run_dir}"),
    )
    assert done.returncode == 0, done.stderr
    assert "averaged validation error" in done.stdout and "averaged test error" in done.stdout
    return run_dir


def test_a_study_by_the_averaged_error_gives_the_averaged_model(study: Path) -> None:
    summary = json.loads((study / "summary.json").read_text())
    assert summary["best_configuration"]["averaging"] == "ema" and "averaging=ema" in summary["command"].split()
    loaded = halving.load(study)
    assert loaded.history.ended is not None and loaded.history.chosen is not None
    cfg = loaded.history.ended.config
    data = instantiate(cfg["data"] | {"device": "cpu"}, "data")
    found = measure(loaded.best_model(), data, data.validation)
    best = max(loaded.best.evaluations, key=lambda each: each.resource)
    assert found["error"] == pytest.approx(summary["best_error"], abs=1e-12)
    assert found["loss"] == best.epochs[-1].metrics["averaged_val_loss"] != best.epochs[-1].metrics["val_loss"]
    tests = loaded.history.chosen.tests.values()
    assert summary["test_error"] == summary["averaged_test_error"]
    assert summary["test_error"] == pytest.approx(fmean(test["averaged_test_error"] for test in tests))
    for name in ("curves.csv", "metrics.csv"):
        with (study / name).open() as file:
            rows = list(csv.DictReader(file))
        assert all(row["averaged_val_error"] and row["averaged_val_loss"] for row in rows)
    bare = {t.trial for t in loaded.trials if t.configuration["averaging"] == "none"}
    assert bare and all(
        (row["averaged_val_loss"] == row["val_loss"]) == (trial in bare)
        for trial, curve in loaded.curves.items()
        for row in curve
    ), "without an average it is the last weights that count"


def test_the_ensemble_of_the_confirmations_is_of_averaged_weights(study: Path) -> None:
    history = halving.load(study).history
    assert history.chosen is not None and history.ended is not None and len(history.confirmations) == 2
    cfg = history.ended.config
    data = instantiate(cfg["data"] | {"device": "cpu"}, "data")
    ((inputs, targets),) = data.batches(data.test, size=1000)
    model, outputs = instantiate(cfg["model"], "model").eval(), 0.0
    for number in history.confirmations:
        state = torch.load(study / f"checkpoints/-{number}/3.pt", weights_only=True)["state"]
        model.load_state_dict(state["averaged"]["model"])
        outputs += model(inputs).double().softmax(1)
    assert history.chosen.ensemble["averaged_test_error"] == float((outputs.argmax(1) != targets).double().mean())
    assert set(history.chosen.ensemble) == {"averaged_test_error", "averaged_test_loss"}
    assert {"averaged_test_error", "test_error", "test_loss"} <= wandb_runs.test_metrics(history).keys()


def test_a_winner_is_trained_again_with_its_average(study: Path, fork: Callable[..., Any], tmp_path: Path) -> None:
    summary = json.loads((study / "summary.json").read_text())
    words = shlex.split(summary["command"])[2:]
    for i, command in enumerate((words, ["-cp", str(study), "-cn", "best"])):
        done = fork(*command, f"hydra.run.dir={tmp_path}/{i}")
        assert done.returncode == 0, done.stderr
        again = json.loads((tmp_path / str(i) / "summary.json").read_text())
        assert (again["metric"], again["best_error"]) == ("averaged_val_error", summary["best_error"])


def test_runs_of_versions_that_did_not_average_go_on_without(fork: Callable[..., Any], tmp_path: Path) -> None:
    run_dir = tmp_path / "old"
    shutil.copytree(OLD, run_dir, ignore=shutil.ignore_patterns("results.csv", "winner.pt"))
    refused = fork(f"resume={run_dir}", "averaging=ema", "device=cpu")
    assert refused.returncode == 1 and "averaging: {} in the study" in refused.stderr
    done = fork(f"resume={run_dir}", "averaging=none", "device=cpu")
    assert done.returncode == 0, done.stderr
    best = run_dir / "best.yaml"
    text = best.read_text()
    assert "\naveraging: {}\n" in text
    best.write_text(text.replace("averaging: {}\n", ""))
    done = fork("-cp", str(run_dir), "-cn", "best", f"hydra.run.dir={tmp_path / 'again'}")
    assert done.returncode == 0, done.stderr
    summaries = [json.loads((path / "summary.json").read_text()) for path in (run_dir, tmp_path / "again")]
    assert summaries[0]["best_error"] == summaries[1]["best_error"]


def test_a_job_of_a_version_that_did_not_average_is_found_again(fork: Callable[..., Any], tmp_path: Path) -> None:
    assert fork("-m", "seed=0", *SMALL, f"hydra.sweep.dir={tmp_path}").returncode == 0
    (tmp_path / "0/journal.jsonl").unlink()  # as if it had been ended before its first trial
    config = tmp_path / "0/.hydra/config.yaml"
    assert "averaging: {}\n" in config.read_text()
    config.write_text(config.read_text().replace("averaging: {}\n", ""))
    done = fork("-m", "seed=0", "averaging=none", *SMALL, f"resume={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert [path.parent.name for path in tmp_path.glob("*/journal.jsonl")] == ["0"]


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: SWA(9, 1.0), "averaging.start=1.0"),
        (lambda: SWA(9, -0.1), "averaging.start=-0.1"),
        (lambda: SWA(0), "averaging.epochs=0"),
        (lambda: EMA(1.0), "averaging.decay=1.0"),
        (lambda: EMA(-0.1), "averaging.decay=-0.1"),
    ],
)
def test_an_average_of_nothing_is_refused(build: Callable[[], Averaging], name: str) -> None:
    with pytest.raises(UserError, match=name):
        build()
    assert SWA(9, 0.0).takes(1.0) and EMA(0.0).share(1) == 1.0


def test_what_cannot_be_averaged_is_said_before_anything_trains(fork: Callable[..., Any], tmp_path: Path) -> None:
    _, setting = build([*NET, "model._target_=test_averaging.Uncopied", "averaging=swa"], tmp_path)
    with pytest.raises(UserError, match=r"averaging: the model cannot be copied: .* averaging=none does without"):
        Trainer(setting.recipe())
    done = fork(*SMALL, "metric=averaged_val_error")
    assert "note: metric=averaged_val_error is val_error itself without averaging=ema" in done.stdout
    assert ", averaged test error 0." in done.stdout and ", test error 0." in done.stdout
    assert "note: averaging has no effect" in fork(*SMALL, "averaging=ema", *OWN).stdout
