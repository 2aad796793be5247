"""Other resources than epochs: shares of the training set, folds of cross-validation, shares of the width."""

import csv
import json
import time
from collections.abc import Callable
from itertools import chain, pairwise
from pathlib import Path
from statistics import fmean
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from torch import nn

from halving import study
from halving.checkpoints.store import State, Store
from halving.config import trials
from halving.config.polite import register
from halving.data.base import Data, split_data
from halving.errors import StudyError, UserError
from halving.targets import instantiate
from halving.training.fidelities.base import Setting
from halving.training.fidelities.command import Command
from halving.training.loop import evaluate
from halving.training.recipe import Recipe
from halving.training.trainer import Trainer
from halving.trial import Epoch, Finished, Job, Restarted

CONF = Path(__file__).resolve().parents[1] / "conf"
SMALL = ["data.train_samples=90", "data.validation=30", "data.batch_size=25", "device=cpu", "model=mlp", "epochs=2"]


def build(run_dir: Path, *overrides: str) -> tuple[Any, Setting]:
    GlobalHydra.instance().clear()
    register(CONF)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = trials.plain(compose("config", [*SMALL, *overrides]))
    return instantiate(config["fidelity"]), Setting(config, Store(run_dir))


def train(run_dir: Path, since: int, until: int, *overrides: str) -> tuple[list[Epoch], Finished]:
    torch.set_num_threads(1)
    fidelity, setting = build(run_dir, *overrides)
    *epochs, finished = fidelity.run(setting, Job(0, {}, since, until))
    return epochs, finished


def state(run_dir: Path, resource: int) -> dict[str, Any]:
    return torch.load(run_dir / f"checkpoints/0/{resource}.pt", weights_only=True)["state"]


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def numbered(validation: Any = 20, seed: int = 0) -> Data:
    """120 training and 10 test examples whose one feature is their number (test: from 1000), 2 of 3 in class 0."""
    numbers, classes = torch.arange(120.0)[:, None], (torch.arange(120) % 3 == 0).long()
    test = torch.arange(1000.0, 1010.0)[:, None]
    return split_data(
        numbers, classes, test, torch.zeros(10, dtype=torch.int64), batch_size=7, seed=seed, validation=validation
    )


def numbers(split: Any) -> list[int]:
    return [int(number) for number in split.inputs[:, 0]]


def test_subsets_are_nested_stratified_and_the_same_for_every_trial() -> None:
    data = numbered()
    sizes = (1, 11, 33, 99, 100)
    subsets = [numbers(data.subset(size).train) for size in sizes]
    assert [len(set(subset)) for subset in subsets] == list(sizes)
    assert all(set(small) < set(large) for small, large in pairwise(subsets))
    assert subsets[-1] == numbers(data.train)
    assert [numbers(numbered().subset(size).train) for size in sizes] == subsets
    assert numbers(numbered(seed=1).subset(33).train) != subsets[2]
    share = data.subset(33).train.targets.double().mean()
    assert abs(share - data.train.targets.double().mean()) < 2 / 33


def test_a_subset_of_a_sorted_training_set_has_every_class() -> None:
    features, classes = torch.arange(100.0)[:, None], torch.arange(100) // 10
    data = split_data(features, classes, features, classes, batch_size=10, validation="test")
    order = data.train.targets.argsort()
    ordered = Data(data.train.take(order), data.validation, data.test, 10, data.mean, data.std)
    assert len(set(ordered.subset(20).train.targets.tolist())) == 10
    assert len(set(ordered.fold(1, 5).validation.targets.tolist())) == 10


@pytest.mark.parametrize("folds", [2, 7, 120])
def test_folds_are_disjoint_cover_training_and_validation_set_and_are_the_same_for_every_trial(folds: int) -> None:
    data = numbered()
    held_out = [numbers(data.fold(number, folds).validation) for number in range(1, folds + 1)]
    assert sorted(chain(*held_out)) == list(range(120))
    assert {len(fold) for fold in held_out} <= {120 // folds, -(-120 // folds)}
    for number, fold in enumerate(held_out, start=1):
        part = data.fold(number, folds)
        assert set(numbers(part.train)) == set(range(120)) - set(fold)
        assert numbers(numbered().fold(number, folds).validation) == fold
        assert part.test is data.test


def test_no_fold_holds_the_test_set_where_it_is_what_validates() -> None:
    data = numbered(validation="test")
    held_out = [numbers(data.fold(number, 4).validation) for number in (1, 2, 3, 4)]
    assert sorted(chain(*held_out)) == list(range(120))
    assert numbers(data.fold(2, 4).test) == list(range(1000, 1010))


@pytest.mark.parametrize(
    ("overrides", "costs", "resumable"),
    [
        (["fidelity=epochs"], (1, 2, 6), True),
        (["fidelity=folds"], (1, 2, 6), True),
        (["fidelity=samples"], (1, 3, 9), False),
        (["fidelity=samples", "fidelity.warm_start=true"], (1, 3, 9), True),
        (["fidelity=width"], (1, 3, 9), False),
    ],
)
def test_what_the_rungs_1_3_9_cost(
    overrides: list[str], costs: tuple[int, ...], resumable: bool, tmp_path: Path
) -> None:
    fidelity, _ = build(tmp_path, *overrides)
    assert tuple(fidelity.cost(since, until) for since, until in ((0, 1), (1, 3), (3, 9))) == costs
    assert fidelity.cost(0, 9) == 9
    assert fidelity.resumable == resumable


def test_all_samples_are_the_training_that_epochs_do(tmp_path: Path) -> None:
    epochs, finished = train(tmp_path / "samples", 0, 9, "fidelity=samples", "r_max=9")
    straight, _ = train(tmp_path / "epochs", 0, 2, "fidelity=epochs")
    assert equal(state(tmp_path / "samples", 9)["model"], state(tmp_path / "epochs", 2)["model"])
    assert [epoch.metrics["val_error"] for epoch in epochs] == [epoch.metrics["val_error"] for epoch in straight]
    assert finished.outcome.error == straight[-1].metrics["val_error"]
    assert finished.outcome.curve == (), "the errors between since and until were not measured"


def test_fewer_samples_train_as_many_epochs_on_them_alone(tmp_path: Path) -> None:
    # Of 90 examples 20 make one batch an epoch, so that the rate of its last step is the rate of its first.
    epochs, finished = train(tmp_path, 0, 2, "fidelity=samples", "r_max=9", "lr_schedule=polynomial")
    assert [epoch.epoch for epoch in epochs] == [1, 2]
    assert [epoch.metrics["lr"] for epoch in epochs] == pytest.approx([0.1, 0.05])
    assert finished.outcome.resource == 2


@pytest.mark.parametrize("warm_start", [True, False])
def test_a_warm_start_begins_with_the_paused_weights(warm_start: bool, tmp_path: Path) -> None:
    # The rate is too small to change a weight: what a rung ends with is what it began with.
    still = ["fidelity=samples", "r_max=9", f"fidelity.warm_start={warm_start}", "optimizer.lr=1e-30"]
    train(tmp_path, 0, 1, *still)
    begun = state(tmp_path, 1)["model"]
    paused = {name: weight + 0.125 for name, weight in begun.items()}
    _, setting = build(tmp_path, *still)
    for again in (False, True):  # where it was interrupted before the journal knew of its end, the same
        setting.store.save(0, 1, setting.recipe().config, State({"model": paused}))
        if again:
            setting.store.save(
                0, 3, setting.recipe().config, State({"model": {name: weight + 1 for name, weight in paused.items()}})
            )
        train(tmp_path, 1, 3, *still)
        assert equal(state(tmp_path, 3)["model"], paused if warm_start else begun)


def test_folds_resumed_equal_folds_evaluated_straight(tmp_path: Path) -> None:
    folds = ("fidelity=folds", "r_max=4", "optimizer.momentum=0.9", "model.dropout=0.3", "lr_schedule=plateau")
    epochs, straight = train(tmp_path / "straight", 0, 4, *folds)
    before, paused = train(tmp_path / "paused", 0, 1, *folds)
    after, resumed = train(tmp_path / "paused", 1, 4, *folds)

    last = [epoch.metrics["val_error"] for epoch in epochs if epoch.epoch % 2 == 0]
    assert straight.outcome.curve == tuple(fmean(last[:fold]) for fold in (1, 2, 3, 4))
    assert len(set(last)) > 1
    assert paused.outcome.curve + resumed.outcome.curve == straight.outcome.curve
    assert resumed.outcome.error == straight.outcome.error == straight.outcome.curve[-1]
    assert [epoch.epoch for epoch in before] == [1, 2]
    assert [epoch.epoch for epoch in before + after] == [epoch.epoch for epoch in epochs] == list(range(1, 9))

    whole, parts = state(tmp_path / "straight", 4), state(tmp_path / "paused", 4)
    assert whole["errors"] == parts["errors"] == last
    assert all(equal(*models) for models in zip(whole["models"], parts["models"], strict=True))
    assert equal(whole["model"], whole["models"][3])
    assert not equal(whole["models"][0], whole["models"][3])

    (tmp_path / "paused/checkpoints/0/4.pt").unlink()
    (tmp_path / "paused/checkpoints/0/1.pt").unlink()
    torch.set_num_threads(1)
    fidelity, setting = build(tmp_path / "paused", *folds)
    restarted, *again, once_more = fidelity.run(setting, Job(0, {}, 1, 4))
    assert isinstance(restarted, Restarted) and restarted.since == 0
    assert [epoch.epoch for epoch in again] == [epoch.epoch for epoch in after], "the first fold is known already"
    assert once_more.outcome == resumed.outcome


def test_the_test_of_folds_is_the_mean_over_their_models(tmp_path: Path) -> None:
    train(tmp_path, 0, 3, "fidelity=folds", "r_max=4")
    fidelity, setting = build(tmp_path, "fidelity=folds", "r_max=4")
    made = setting.recipe()
    errors: list[float] = []
    for weights in state(tmp_path, 3)["models"]:
        model = made.model()
        model.load_state_dict(weights)
        errors.append(evaluate(model, made.data, made.data.test)[1])
    found = fidelity.test(setting, Job(0, {}, 0, 3))
    assert found["test_error"] == pytest.approx(fmean(errors))
    assert (found["val_samples"], found["test_samples"]) == (90, len(made.data.test))  # 3 folds of 4 of 90 + 30


@pytest.mark.parametrize("name", ["epochs", "samples", "width", "folds"])
def test_an_assignment_comes_to_its_last_error_not_to_its_least(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "epoch", lambda trainer, epoch: {"train_loss": 1.0, "val_error": epoch / 8})
    epochs, finished = train(tmp_path, 0, 3, f"fidelity={name}", "r_max=3")
    assert finished.outcome.error == epochs[-1].metrics["val_error"] > epochs[0].metrics["val_error"]


@pytest.mark.parametrize(("name", "resource"), [("samples", 9), ("width", 9), ("folds", 1)])
def test_a_divergence_fails_the_trial_and_leaves_no_checkpoint(name: str, resource: int, tmp_path: Path) -> None:
    epochs, finished = train(tmp_path, 0, 9, f"fidelity={name}", "r_max=9", "optimizer.lr=1e30", "model.depth=2")
    assert finished.outcome.failed and finished.outcome.resource == resource
    assert "diverged" in finished.cause and finished.checkpoint is None
    assert len(epochs) < 4 and not (tmp_path / "checkpoints").exists()


EPOCHS = """
echo begins; sed 's/^/goes on after /' "$HALVING_DIRECTORY/done" 2>/dev/null
i=$1; while [ $i -lt $2 ]; do i=$((i + 1)); echo "{\\"epoch\\": $i, \\"val_error\\": 0.$((9 - i)), \\"lr\\": $3}"; done
echo "$2 $4 $5 $HALVING_SINCE $HALVING_TRIAL" > "$HALVING_DIRECTORY/done"
"""


def told(script: str, run_dir: Path, since: int, until: int) -> tuple[list[Epoch], Finished]:
    """Run a shell script as the training of one assignment."""
    _, setting = build(run_dir, "r_max=3", "seed=5", "trial=4")
    (run_dir / "program.sh").write_text(script)
    words = f"sh {run_dir / 'program.sh'} {{since}} {{until}} {{optimizer.lr}} {{own}} {{trial}}"
    command = Command(words, {"own": "mine"})
    command.prepare(setting)
    *epochs, finished = command.run(setting, Job(0, {}, since, until))
    assert not list(run_dir.glob("checkpoints/0/working-*")), "where it worked is gone"
    return epochs, finished


def test_a_command_goes_on_where_it_left_its_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    epochs, finished = told(EPOCHS, tmp_path, 0, 2)
    assert epochs == [Epoch(0, 1, {"val_error": 0.8, "lr": 0.1}), Epoch(0, 2, {"val_error": 0.7, "lr": 0.1})]
    assert (finished.outcome.error, finished.outcome.curve) == (0.7, (0.8, 0.7))
    assert finished.checkpoint == "checkpoints/0/2" and 0 < finished.seconds < 60
    assert (tmp_path / "checkpoints/0/2/files/done").read_text() == "2 mine 4 0 4\n"
    assert told("exit 1", tmp_path, 0, 2)[0] == epochs, "what was whole before the journal could name it stays"
    epochs, finished = told(EPOCHS, tmp_path, 2, 3)
    assert epochs == [Epoch(0, 3, {"val_error": 0.6, "lr": 0.1})] and finished.outcome.curve == (0.6,)
    assert "goes on after 2 mine 4 0 4" in caplog.text and '"epoch"' not in caplog.text
    for path in (tmp_path / "checkpoints/0/2/files/done", tmp_path / "checkpoints/0/3/files/done"):
        path.write_text("damaged")
    _, setting = build(tmp_path, "r_max=3", "seed=5", "trial=4")
    again = Command(f"sh {tmp_path / 'program.sh'} {{since}} {{until}} {{optimizer.lr}}").run(setting, Job(0, {}, 2, 3))
    restarted, *rest = again
    assert restarted.since == 0 and rest[:-1] == epochs, "all of it, of which the journal knows the first two"  # pyright: ignore


def test_a_command_ends_with_all_that_it_started(tmp_path: Path) -> None:
    """What stays behind holds its output open, and would hold the study."""
    script = """sleep 100 & echo $! > "$HALVING_DIRECTORY/pid"; echo '{"val_error": 0.5}'"""
    began = time.monotonic()
    told(script, tmp_path, 0, 1)
    assert time.monotonic() - began < 20
    pid = int((tmp_path / "checkpoints/0/1/files/pid").read_text())
    stat = Path(f"/proc/{pid}/stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo '{\"val_error\": 1}'; echo it broke >&2; exit 3", "the command ended with status 3: it broke"),
        ("exit 4", "the command ended with status 4: it says nothing"),
        ("yes '{\"val_error\": 1}'", "tells of more than the 2 epochs it was asked for"),
        ('echo \'{"val_error": 1, "epoch": 2}\'', "says that this is epoch 2, where 1 follows"),
        ("echo '{\"val_error\": 1}'", "the command told of 1 epochs after 0, and was asked for 2"),
        ("echo '{\"val_loss\": 1}'; echo '{\"val_loss\": 1}'", "prints val_loss and no val_error"),
        ("for i in 1 2; do echo '{\"val_error\": 1}'; done", "leaves nothing in HALVING_DIRECTORY"),
        ('echo \'{"val_error": "low"}\'', "low"),
    ],
)
def test_a_command_that_does_otherwise_is_told_so(script: str, message: str, tmp_path: Path) -> None:
    with pytest.raises((UserError, StudyError), match=message):
        told(script, tmp_path, 0, 2)


def test_a_command_that_diverges_fails_its_trial_alone(tmp_path: Path) -> None:
    epochs, finished = told(
        "echo []; echo {}; echo '{\"val_error\": NaN}'; echo '{\"val_error\": NaN}'", tmp_path, 0, 2
    )
    assert len(epochs) == 2 and finished.outcome.failed and finished.checkpoint is None
    assert finished.cause == "diverged: val_error is nan after epoch 2"


@pytest.mark.parametrize(("model", "widths"), [("lenet_modern", {1: 1, 3: 2, 9: 6}), ("mlp", {1: 29, 3: 86, 9: 256})])
def test_width_multiplies_channels(model: str, widths: dict[int, int], tmp_path: Path) -> None:
    wide = (f"model={model}", "fidelity=width", "epochs=1", "r_max=9")
    for resource, width in widths.items():
        epochs, finished = train(tmp_path, 0, resource, *wide)
        kept = state(tmp_path, resource)
        first = next(weight for name, weight in kept["model"].items() if name.endswith("weight"))
        assert len(first) == width == kept["arguments"]["width"]
        assert (finished.outcome.error, finished.outcome.curve) == (epochs[0].metrics["val_error"], ())
        fidelity, setting = build(tmp_path, *wide)
        made = setting.recipe()
        narrow = made.model(width=width)
        narrow.load_state_dict(kept["model"])
        tested = fidelity.test(setting, Job(0, {}, 0, resource))
        assert tested["test_error"] == evaluate(narrow, made.data, made.data.test)[1]


def test_a_model_without_width_is_refused_and_those_with_one_are_named(tmp_path: Path) -> None:
    options = {path.stem: OmegaConf.load(path) for path in (CONF / "model").glob("*.yaml")}
    fidelity, setting = build(tmp_path, "fidelity=width", "model=softmax")
    with pytest.raises(UserError) as refused:
        fidelity.prepare(setting)
    assert {name for name in options if f"model={name} " in str(refused.value)} == {
        name for name, option in options.items() if "width" in option
    }


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["fidelity=samples", "r_max=91"], "r_max=91: .* has only 90 examples"),
        (["fidelity=folds", "r_max=1"], "r_max=1: .* at least 2 folds"),
        (["fidelity=folds", "r_max=121"], "r_max=121: .* only 120 examples"),
    ],
)
def test_what_cannot_be_cut_is_refused_before_training(overrides: list[str], message: str, tmp_path: Path) -> None:
    fidelity, setting = build(tmp_path, *overrides)
    with pytest.raises(UserError, match=message):
        fidelity.prepare(setting)


@pytest.mark.parametrize(
    ("overrides", "spent", "numbers"),
    [
        (["fidelity=samples"], 6, {1: [1, 2], 3: [1, 2]}),
        (["fidelity=samples", "fidelity.warm_start=true"], 6, {1: [1, 2], 3: [1, 2]}),
        (["fidelity=folds"], 5, {1: [1, 2], 3: [3, 4, 5, 6]}),
        (["fidelity=width", "model=lenet_modern"], 6, {1: [1, 2], 3: [1, 2]}),
    ],
)
def test_a_study_from_the_command_line(
    overrides: list[str],
    spent: int,
    numbers: dict[int, list[int]],
    fork: Callable[..., CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    small = [item for item in SMALL if not item.startswith("epochs")]
    done = fork(
        *small, "scheduler=sha", "r_max=3", "fidelity.epochs=2", *overrides, "tracker=none", f"hydra.run.dir={tmp_path}"
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["resource"] for row in rows] == ["1", "1", "1", "3"]
    assert all(row["status"] == "ok" for row in rows)
    with (tmp_path / "curves.csv").open() as file:
        curve = [(row["trial"], int(row["resource"]), int(row["epoch"])) for row in csv.DictReader(file)]
    assert len(set(curve)) == len(curve)
    summary = json.loads((tmp_path / "summary.json").read_text())
    best = str(summary["best_trial"])
    for resource, epochs in numbers.items():
        assert [epoch for trial, until, epoch in curve if (trial, until) == (best, resource)] == epochs
    assert (summary["resource_spent"], summary["full_resource"]) == (spent, 9)

    loaded = study.load(tmp_path)
    model = loaded.best_model()
    assert isinstance(model, nn.Module)
    ended = loaded.history.ended
    assert ended is not None
    data = Recipe.from_config({**ended.config}).data
    if "fidelity=folds" not in overrides:
        assert evaluate(model, data, data.test)[1] == pytest.approx(summary["test_error"])
