"""Training to r1, saving, and going on in another process ends bit for bit where straight training does."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from halving.config import trials
from halving.config.polite import register
from halving.errors import UserError
from halving.targets import instantiate
from halving.training.recipe import Recipe
from halving.trial import Finished, Job

REPOSITORY = Path(__file__).resolve().parents[1]
CONF = REPOSITORY / "conf"
SMALL = ["data.train_samples=160", "data.batch_size=50", "r_max=4", "device=cpu", "model=mlp", "model.dropout=0.3"]
OPTIMIZERS = sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml"))
SCHEDULES = sorted(path.stem for path in (CONF / "lr_schedule").glob("*.yaml"))
COMBINATIONS = {
    **{f"optimizer-{name}": [f"optimizer={name}", "lr_schedule=cosine"] for name in OPTIMIZERS},
    **{f"schedule-{name}": [f"lr_schedule={name}", "optimizer.momentum=0.9"] for name in SCHEDULES},
    "plateau-drops": ["lr_schedule=plateau", "lr_schedule.patience=0", "optimizer.lr=1.0"],
    "convolutions": ["model=lenet_modern"],
    "batch-norm": ["model=resnet18", "data.train_samples=20", "data.batch_size=10", "data.validation=10"],
}


def build(overrides: list[str], run_dir: Path) -> tuple:
    register(CONF)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        small = SMALL[:4] if any(item.startswith("model=") for item in overrides) else SMALL
        config = trials.plain(compose("config", [*small, *overrides]))
    return instantiate(config["fidelity"]), partial(Recipe.from_config, config, run_dir)


def train(overrides: list[str], run_dir: Path, since: int, until: int) -> Finished:
    torch.set_num_threads(1)
    fidelity, recipe = build(overrides, run_dir)
    *_, finished = fidelity.run(recipe, Job(0, {}, since, until))
    return finished


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    content = torch.load(run_dir / "checkpoints/0/4.pt", weights_only=True)
    return content["state"]["model"]


def go_on(root: Path) -> None:
    """Be the other process: train every paused combination from 2 to 4."""
    for name, overrides in COMBINATIONS.items():
        train(overrides, root / name / "paused", 2, 4)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("resume")
    for name, overrides in COMBINATIONS.items():
        train(overrides, directory / name / "straight", 0, 4)
        train(overrides, directory / name / "paused", 0, 2)
    script = "import sys; from pathlib import Path; import test_exact_resume as t; t.go_on(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", script, str(directory)], cwd=Path(__file__).parent, check=True)
    return directory


@pytest.mark.parametrize("name", COMBINATIONS)
def test_resumed_in_another_process_equals_straight(name: str, root: Path) -> None:
    straight, paused = weights(root / name / "straight"), weights(root / name / "paused")
    assert straight.keys() == paused.keys()
    assert all(torch.equal(straight[key], paused[key]) for key in straight)


def test_the_comparison_would_notice_another_trial(root: Path) -> None:
    straight = weights(root / "optimizer-sgd" / "straight")
    other = weights(root / "optimizer-adam" / "straight")
    assert not any(torch.equal(straight[key], other[key]) for key in straight)


def test_the_schedule_spans_the_full_training_and_not_the_rung(tmp_path: Path) -> None:
    fidelity, recipe = build(["lr_schedule=cosine", "optimizer.lr=1.0"], tmp_path)
    to_rung = [e.metrics["lr"] for e in fidelity.run(recipe, Job(0, {}, 0, 2)) if not isinstance(e, Finished)]
    to_end = [e.metrics["lr"] for e in fidelity.run(recipe, Job(1, {}, 0, 4)) if not isinstance(e, Finished)]
    assert to_rung == to_end[:2]
    assert to_end[3] < 0.1 < to_rung[1]


def test_a_damaged_or_foreign_checkpoint_is_refused_and_named(tmp_path: Path) -> None:
    train(["optimizer=sgd"], tmp_path, 0, 1)
    path = tmp_path / "checkpoints/0/1.pt"
    whole = path.read_bytes()
    fidelity, recipe = build(["optimizer=sgd"], tmp_path)
    position = whole.index(b"archive/data/0") + 300
    flipped = bytearray(whole)
    flipped[position] ^= 1
    for content in (bytes(flipped), whole[: len(whole) // 2], b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"1\.pt is damaged"):
            list(fidelity.run(recipe, Job(0, {}, 1, 2)))
    path.write_bytes(whole)
    _, other_recipe = build(["optimizer=sgd", "optimizer.lr=0.3"], tmp_path)
    with pytest.raises(UserError, match="not the checkpoint asked for: its config"):
        list(fidelity.run(other_recipe, Job(0, {}, 1, 2)))
    (tmp_path / "checkpoints/5").mkdir()
    path.rename(tmp_path / "checkpoints/5/1.pt")
    with pytest.raises(UserError, match="its trial is 0, not 5"):
        list(fidelity.run(recipe, Job(5, {}, 1, 2)))
