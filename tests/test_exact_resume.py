"""Training to r1, saving, and going on in another process ends bit for bit where straight training does."""

import json
import random
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Forks
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from halving.checkpoints.store import Store
from halving.config import trials
from halving.config.polite import register
from halving.data import Data, digits
from halving.targets import instantiate
from halving.training.dropout import Dropout
from halving.training.fidelities.base import Setting
from halving.training.recipe import Recipe
from halving.training.trainer import Trainer
from halving.trial import Epoch, Finished, Job

REPOSITORY = Path(__file__).resolve().parents[1]
CONF = REPOSITORY / "conf"
SMALL = ["data.train_samples=160", "data.batch_size=50", "r_max=4", "device=cpu", "model=mlp", "model.dropout=0.3"]
OPTIMIZERS = sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml"))
SCHEDULES = sorted(path.stem for path in (CONF / "lr_schedule").glob("*.yaml"))
OWN_GENERATORS = ["model=softmax", "model._target_=test_exact_resume.Drawing", "data._target_=test_exact_resume.drawn"]
OWN_LAZY = ["model=softmax", "model._target_=test_exact_resume.Lazy"]
COMBINATIONS = {
    "own-generators": OWN_GENERATORS,
    "own-lazy": OWN_LAZY,
    **{f"optimizer-{name}": [f"optimizer={name}", "lr_schedule=cosine"] for name in OPTIMIZERS},
    **{f"schedule-{name}": [f"lr_schedule={name}", "optimizer.momentum=0.9"] for name in SCHEDULES},
    "schedule-cosine_warmup": ["lr_schedule=cosine_warmup", "lr_schedule.warmup=2.5"],
    "plateau-drops": ["lr_schedule=plateau", "lr_schedule.patience=0", "optimizer.lr=1.0"],
    "convolutions": ["model=lenet_modern"],
    "batch-norm": ["model=resnet18", "data.train_samples=8", "data.batch_size=4", "data.validation=4"],
    "averaging-ema": ["averaging=ema", "model=cnn", "model.width=4", "metric=averaged_val_error"],
    "averaging-swa": ["averaging=swa", "averaging.start=0.5", *OWN_LAZY],  # whose average begins before the pause
    "averaging-later": ["averaging=swa", "lr_schedule=plateau", "optimizer=adam"],
}


def draw() -> float:
    """Draw from every generator that people use."""
    return random.random() + float(np.random.rand()) + float(torch.rand(()))


class Drawing(nn.Module):
    def __init__(self, shape: list[int], outputs: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], outputs))
        self.scale = nn.Parameter(torch.tensor(draw()))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs) * self.scale * draw()


class Lazy(nn.Sequential):
    def __init__(self, shape: list[int], outputs: int) -> None:
        super().__init__(
            nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.LazyLinear(outputs)
        )


def drawn(**settings: Any) -> Data:
    return replace(digits(**settings), seed=int(1000 * draw()))


@cache
def composed(*overrides: str) -> dict[str, Any]:
    register(CONF)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        small = SMALL[:4] if any(item.startswith("model=") for item in overrides) else SMALL
        return trials.plain(compose("config", [*small, *overrides]))


def build(overrides: list[str], run_dir: Path) -> tuple[Any, Setting]:
    return built(composed(*overrides), run_dir)


def built(config: dict[str, Any], run_dir: Path) -> tuple[Any, Setting]:
    torch.set_num_threads(1)
    config = deepcopy(config)
    return instantiate(config["fidelity"]), Setting(config, Store(run_dir))


def train(overrides: list[str], run_dir: Path, since: int, until: int) -> Finished:
    return trained(composed(*overrides), run_dir, since, until)


def trained(config: dict[str, Any], run_dir: Path, since: int, until: int) -> Finished:
    fidelity, setting = built(config, run_dir)
    *steps, finished = fidelity.run(setting, Job(0, {}, since, until))
    assert [getattr(step, "epoch", step) for step in steps] == [*range(since + 1, until + 1)], "nothing is restarted"
    return finished


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    """Return the last weights and, where there are such, the averaged ones."""
    state = torch.load(run_dir / "checkpoints/0/4.pt", weights_only=True)["state"]
    averaged = state["averaged"]["model"] if "averaged" in state else {}
    return state["model"] | {f"averaged {name}": value for name, value in averaged.items()}


def go_on(root: Path) -> None:
    """Be the other process: train every paused combination from 2 to 4, and no epoch that was trained before."""
    epochs: list[int] = []
    train = Trainer.epoch
    Trainer.epoch = lambda self, epoch: (epochs.append(epoch), train(self, epoch))[1]  # type: ignore
    for name, config in json.loads((root / "configs.json").read_text()).items():
        trained(config, root / name / "paused", 2, 4)
        assert epochs == [3, 4], (name, epochs)
        epochs.clear()


@pytest.fixture(scope="module")
def root(fork: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("resume")
    for name, overrides in COMBINATIONS.items():
        train(overrides, directory / name / "straight", 0, 4)
        train(overrides, directory / name / "paused", 0, 2)
    configs = {name: composed(*overrides) for name, overrides in COMBINATIONS.items()}
    (directory / "configs.json").write_text(json.dumps(configs))
    script = directory / "elsewhere.py"
    script.write_text("from pathlib import Path; import test_exact_resume as t; t.go_on(Path(__file__).parent)")
    result = fork(program=str(script), PYTHONPATH=str(Path(__file__).parent))
    assert result.returncode == 0, result.stderr
    return directory


@pytest.mark.parametrize("name", COMBINATIONS)
def test_resumed_in_another_process_equals_straight(name: str, root: Path) -> None:
    straight, paused = weights(root / name / "straight"), weights(root / name / "paused")
    assert straight.keys() == paused.keys()
    assert any(key.startswith("averaged") for key in straight) == name.startswith("averaging")
    assert all(torch.equal(straight[key], paused[key]) for key in straight)


def test_the_comparison_would_notice_another_trial(root: Path) -> None:
    straight = weights(root / "optimizer-sgd" / "straight")
    other = weights(root / "optimizer-adam" / "straight")
    assert not any(torch.equal(straight[key], other[key]) for key in straight)


def test_the_same_seed_gives_the_same_errors_whatever_was_drawn_before(tmp_path: Path) -> None:
    outcomes = []
    for before in (1, 2):
        random.seed(before)
        np.random.seed(before)
        torch.manual_seed(before)
        fidelity, setting = build(OWN_GENERATORS, tmp_path / str(before))
        *_, finished = fidelity.run(setting, Job(0, {}, 0, 2))
        outcomes.append((finished.outcome, fidelity.test(setting, Job(0, {}, 0, 2))))
        expected = random.Random(before).random(), np.random.RandomState(before).rand()
        assert (random.random(), np.random.rand()) == expected
        assert torch.rand(()) == torch.rand((), generator=torch.Generator().manual_seed(before))
    assert outcomes[0] == outcomes[1]


class Probe(nn.Module):
    """Notes what every stream draws: in building, and in the first batches of training and evaluation."""

    def __init__(self, shape: list[int], outputs: int) -> None:
        super().__init__()
        self.net = nn.Linear(shape[1] * shape[2], outputs)
        self.dropouts = nn.ModuleList([Dropout(0.5), Dropout(0.5)])
        self.noted: dict[str, Any] = {"weights": draw()}

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.noted.setdefault("order", tuple(inputs.flatten(1).sum(1).tolist()))
            self.noted.setdefault("training", draw())
            for i, layer in enumerate(self.dropouts):
                self.noted.setdefault(f"dropout {i}", tuple(layer(torch.ones(64)).tolist()))
        else:
            self.noted.setdefault("evaluation", draw())
        return self.net(inputs.flatten(1))


def probed(**settings: Any) -> Data:
    noted: list[float] = []

    def augment(images: Tensor, generator: torch.Generator) -> Tensor:
        noted.append(float(torch.rand((), generator=generator)))
        return images

    augment.noted = noted  # type: ignore[attr-defined]
    return replace(digits(**settings), augment=augment, metrics={f"built_{draw()}": lambda outputs, targets: 0.0})


def streams(*overrides: str) -> dict[str, Any]:
    """Return what each random stream of two epochs and a test draws."""
    own = ("model=softmax", "model._target_=test_exact_resume.Probe", "data._target_=test_exact_resume.probed")
    recipe = Recipe.from_config(composed(*own, *overrides))
    trainer, data = Trainer(recipe), recipe.data
    noted: dict[str, Any] = trainer.model.noted  # type: ignore[assignment]
    drawn = {"weights": noted["weights"], "built": next(iter(data.metrics))}
    for name, part in (("split", data), ("subset", data.subset(40)), ("folds", data.fold(1, 4))):
        drawn[name] = tuple(part.train.inputs.flatten(1).sum(1).tolist())
    for epoch in (1, 2):
        noted.clear()
        data.augment.noted.clear()  # type: ignore[union-attr]
        trainer.epoch(epoch)
        drawn |= {f"{name} of epoch {epoch}": value for name, value in noted.items()}
        drawn[f"augmentation of epoch {epoch}"] = data.augment.noted[0]  # type: ignore[union-attr]
    noted.clear()
    trainer.test()
    return drawn | {"test": noted["evaluation"]}


def test_every_random_stream_follows_from_its_own_seeds_and_from_no_other() -> None:
    drawn = streams()
    assert len(drawn) == 18 and len(set(drawn.values())) == 18, "no two are one"

    def changed(*overrides: str) -> set[str]:
        other = streams(*overrides)
        return {name for name in drawn if other[name] != drawn[name]}

    def of_epochs(*names: str) -> set[str]:
        return {f"{name} of epoch {epoch}" for name in names for epoch in (1, 2)}

    of_the_order = of_epochs("order", "augmentation")
    of_a_trial = {"weights", "test", *of_epochs("training", "dropout 0", "dropout 1", "evaluation")}
    assert changed() == set()
    assert changed("trial=1") == of_a_trial
    assert changed("order_seed=1") == of_the_order
    assert changed("seed=1") == {*drawn}


def noise(configuration: dict[str, Any], resource: int) -> float:
    return draw()


def test_an_objective_draws_by_seed_trial_and_resource(tmp_path: Path) -> None:
    own = ["fidelity=function", "fidelity.function=test_exact_resume.noise"]

    def error(until: int, *more: str) -> float:
        fidelity, setting = build([*own, *more], tmp_path)
        (finished,) = fidelity.run(setting, Job(0, {}, 0, until))
        return finished.outcome.error

    assert error(2) == error(2)
    assert len({error(2), error(3), error(2, "seed=1"), error(2, "trial=1")}) == 4


def test_the_schedule_spans_the_full_training_and_not_the_rung(tmp_path: Path) -> None:
    fidelity, setting = build(["lr_schedule=cosine", "optimizer.lr=1.0"], tmp_path)
    to_rung = [e.metrics["lr"] for e in fidelity.run(setting, Job(0, {}, 0, 2)) if not isinstance(e, Finished)]
    to_end = [e.metrics["lr"] for e in fidelity.run(setting, Job(1, {}, 0, 4)) if not isinstance(e, Finished)]
    assert to_rung == to_end[:2]
    assert to_end[3] < 0.1 < to_rung[1]


DAMAGE: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "flipped": (lambda path, other: path.write_bytes(flipped(path.read_bytes())), r"1\.pt is damaged"),
    "truncated": (lambda path, other: path.write_bytes(path.read_bytes()[:1000]), r"1\.pt is damaged"),
    "empty": (lambda path, other: path.write_bytes(b""), r"1\.pt is damaged"),
    "deleted": (lambda path, other: path.unlink(), "trial 0 has no checkpoint at 1"),
    "swapped": (lambda path, other: path.write_bytes(other.read_bytes()), "its trial is 7, not 0"),
}


def flipped(content: bytes) -> bytes:
    position = content.index(b"archive/data/0") + 300
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_noticed_and_made_up_for(damage: str, tmp_path: Path) -> None:
    damaging, message = DAMAGE[damage]
    fidelity, setting = build(["optimizer=sgd"], tmp_path)
    list(fidelity.run(setting, Job(0, {}, 0, 1)))
    list(fidelity.run(setting, Job(7, {}, 0, 1)))
    damaging(tmp_path / "checkpoints/0/1.pt", tmp_path / "checkpoints/7/1.pt")
    restarted, *epochs, _ = fidelity.run(setting, Job(0, {}, 1, 4))
    assert (restarted.trial, restarted.since) == (0, 0)
    assert re.search(message, restarted.reason)
    assert [epoch.epoch for epoch in epochs] == [2, 3, 4]
    train(["optimizer=sgd"], tmp_path / "straight", 0, 4)
    made_up, straight = weights(tmp_path), weights(tmp_path / "straight")
    assert all(torch.equal(straight[key], made_up[key]) for key in straight)


def test_an_assignment_tells_the_error_of_each_of_its_epochs(tmp_path: Path) -> None:
    words = ["model=softmax", "data.train_samples=60", "device=cpu"]
    straight = train(words, tmp_path / "straight", 0, 3).outcome
    first, second = (train(words, tmp_path / "paused", *rung).outcome for rung in ((0, 2), (2, 3)))
    assert len(straight.curve) == 3 and straight.curve[-1] == straight.error
    assert first.curve + second.curve == straight.curve


def test_a_checkpoint_of_another_configuration_is_not_trained_on(tmp_path: Path) -> None:
    train(["optimizer=sgd"], tmp_path, 0, 1)
    fidelity, setting = build(["optimizer=sgd", "optimizer.lr=0.3"], tmp_path)
    restarted, *_ = fidelity.run(setting, Job(0, {}, 1, 2))
    assert "1.pt is not the checkpoint asked for: its config" in restarted.reason


def test_an_older_whole_checkpoint_serves_where_the_newest_is_damaged(tmp_path: Path) -> None:
    fidelity, setting = build(["optimizer=sgd", "executor.checkpoint_every=1"], tmp_path)
    list(fidelity.run(setting, Job(0, {}, 0, 1)))
    steps = fidelity.run(setting, Job(0, {}, 1, 4))
    assert [next(steps).epoch, next(steps).epoch, next(steps).epoch] == [2, 3, 4]  # and 3.pt is written
    newest = tmp_path / "checkpoints/0/3.pt"
    newest.write_bytes(flipped(newest.read_bytes()))
    restarted, *epochs, _ = fidelity.run(setting, Job(0, {}, 1, 4))
    assert restarted.since == 1 and "3.pt is damaged" in restarted.reason
    assert [epoch.epoch for epoch in epochs] == [2, 3, 4]


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_interrupted_training_goes_on_where_it_was(stop_after: int, tmp_path: Path) -> None:
    fidelity, setting = build(["optimizer=adam", "model.dropout=0.3"], tmp_path)
    steps = fidelity.run(setting, Job(0, {}, 0, 4))
    before = [next(steps) for _ in range(stop_after)]
    steps.close()
    assert [file.name for file in (tmp_path / "checkpoints/0").iterdir()] == [f"{stop_after}.pt"]
    *epochs, finished = fidelity.run(setting, Job(0, {}, 0, 4))
    assert epochs[:stop_after] == before  # known from the checkpoint, the seconds that they took included
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3, 4]
    straight, expected = fidelity_run_straight(tmp_path / "straight")
    assert finished.outcome == expected
    assert all(torch.equal(value, straight[key]) for key, value in weights(tmp_path).items())


def fidelity_run_straight(run_dir: Path) -> tuple[dict[str, torch.Tensor], object]:
    finished = train(["optimizer=adam", "model.dropout=0.3"], run_dir, 0, 4)
    return weights(run_dir), finished.outcome


def test_a_trial_in_memory_equals_one_read_from_disk(tmp_path: Path) -> None:
    fidelity, setting = build(["optimizer=adam", "model.dropout=0.3"], tmp_path)
    list(fidelity.run(setting, Job(0, {}, 0, 2)))
    (tmp_path / "checkpoints/0/2.pt").unlink()  # nothing to read
    *epochs, _ = fidelity.run(setting, Job(0, {}, 2, 4))
    assert all(isinstance(epoch, Epoch) for epoch in epochs)
    straight, _ = fidelity_run_straight(tmp_path / "straight")
    assert all(torch.equal(value, straight[key]) for key, value in weights(tmp_path).items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("name", ["optimizer-adam", "convolutions", "batch-norm", "own-generators", "averaging-ema"])
def test_on_a_gpu_paused_training_equals_straight(name: str, tmp_path: Path) -> None:
    overrides = [*COMBINATIONS[name], "device=cuda"]
    train(overrides, tmp_path / "straight", 0, 4)
    train(overrides, tmp_path / "paused", 0, 2)
    train(overrides, tmp_path / "paused", 2, 4)
    straight, paused = weights(tmp_path / "straight"), weights(tmp_path / "paused")
    assert all(torch.equal(straight[key], paused[key]) for key in straight)
