"""Others' frameworks: trained straight, in pieces, by two workers and after a kill, a trial ends bit for bit alike."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import joblib
import pytest
import torch
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss
from torch.utils.data import DataLoader, TensorDataset

from halving.checkpoints.content import digest, read
from halving.checkpoints.names import DIRECTORY
from halving.checkpoints.store import Store
from halving.data.torchvision_shim import allow_import
from halving.errors import StudyError, UserError
from halving.executors import Process
from halving.training.own import Running, Trainings
from halving.trial import Epoch, Finished, Job, Restarted

allow_import()
if not all(map(find_spec, ("lightning", "transformers", "accelerate"))):  # workers import them only where they need to
    pytest.skip("needs Lightning and Transformers", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

R_MAX = 4
LIGHTNING = ["step", "cosine", "plateau"]
ALL = [*(f"lightning-{name}" for name in LIGHTNING), "huggingface", "sklearn"]
STRAIGHT = [(0, R_MAX)]
PIECES = [(since, since + 1) for since in range(R_MAX)]


def batches() -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(96, 8, generator=torch.Generator().manual_seed(1))
    return inputs, (inputs.sum(1) > 0).long()


def network(schedule: str, **hyperparameters: Any) -> Any:
    import lightning.pytorch as L
    from torch import nn
    from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau, StepLR

    class Network(L.LightningModule):
        def __init__(self, **hyperparameters: Any) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 2))

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            inputs, labels = batch
            loss = nn.functional.cross_entropy(self.net(inputs + 0.1 * torch.randn_like(inputs)), labels)
            self.log("train_loss", loss, on_epoch=True, on_step=False)
            return loss

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("eval_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
            chosen = {
                "step": lambda: StepLR(optimizer, 1, 0.7),
                "cosine": lambda: CosineAnnealingLR(optimizer, R_MAX),
                "plateau": lambda: ReduceLROnPlateau(optimizer, patience=0, threshold=10.0, threshold_mode="abs"),
            }[schedule]()
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": chosen, "monitor": "eval_loss"}}

    return Network(**hyperparameters)


def lightning(trial: Running, forgetful: bool = False, **hyperparameters: Any) -> None:
    from halving.lightning import Pausing  # isort: split

    import lightning.pytorch as L
    from lightning.pytorch.callbacks import ModelCheckpoint

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    model = network(str(trial.configuration.get("schedule", "step")), **hyperparameters)
    pausing = Pausing(trial)
    trainer = L.Trainer(
        max_epochs=R_MAX,
        accelerator="cpu",
        callbacks=[pausing, ModelCheckpoint(trial.directory / "best", monitor="eval_loss", save_last="link")],
        default_root_dir=trial.directory,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    data = TensorDataset(*batches())
    training, validation = DataLoader(data, 16, shuffle=True), DataLoader(data, 96)
    trainer.fit(model, training, validation, ckpt_path=None if forgetful else pausing.checkpoint)


def huggingface(trial: Running) -> None:
    from halving.huggingface import Pausing  # isort: split

    from transformers import PrinterCallback, Trainer, TrainingArguments, ViTConfig, ViTForImageClassification
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_channels=1, **sizes))
    inputs, labels = batches()
    images = inputs[:, None, :, None] * inputs[:, None, None, :]
    data = [{"pixel_values": image, "labels": label} for image, label in zip(images, labels, strict=True)]
    pausing = Pausing(trial)
    options = TrainingArguments(
        output_dir=str(trial.directory),
        num_train_epochs=R_MAX,
        per_device_train_batch_size=16,
        learning_rate=0.01,
        lr_scheduler_type="cosine",
        eval_strategy="steps",
        eval_steps=4,
        seed=trial.seed,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model, options, train_dataset=data[:64], eval_dataset=data[64:], callbacks=[pausing])
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=pausing.checkpoint)


def sklearn(trial: Running) -> Iterator[dict[str, float]]:
    inputs, labels = (part.numpy() for part in batches())
    model = SGDClassifier(loss="log_loss")  # without a random_state it draws from NumPy's own generator
    if trial.since:
        model = joblib.load(trial.directory / "model.joblib")
        trial.keep()
    while True:
        model.partial_fit(inputs, labels, classes=[0, 1])
        joblib.dump(model, trial.directory / "model.joblib")
        yield {"eval_loss": log_loss(labels, model.predict_proba(inputs))}


def train(trial: Running) -> Any:
    """Train by the framework that the configuration names; where it says so, die in epoch 3 the first time."""
    framework, _, trial.configuration["schedule"] = str(trial.configuration["by"]).partition("-")
    mark = Path(str(trial.configuration.get("mark", "")))
    if mark.name:
        report = trial.report

        def deadly(metrics: dict[str, float]) -> None:
            if trial.until == 4 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            report(metrics)

        trial.report = deadly
    return {"lightning": lightning, "huggingface": huggingface, "sklearn": sklearn}[framework](trial)


def trainings(run_dir: Path, function: Any = train) -> Trainings:
    return Trainings(function, Store(run_dir), 0, "eval_loss", R_MAX + 1)


def ends(run_dir: Path, trial: int) -> str:
    """All that the next epoch would depend on, as a digest."""
    kept = run_dir / DIRECTORY / str(trial) / str(R_MAX)
    files, state = kept / "files", read(kept / "state.pt")["state"]
    content: dict[str, Any] = {"random": state["random"]}
    if (file := files / "trainer.ckpt").exists():
        saved = torch.load(file, weights_only=True)
        content |= {name: saved[name] for name in ("state_dict", "optimizer_states", "lr_schedulers", "global_step")}
    elif (file := files / "model.joblib").exists():
        content |= {name: x.tolist() for name, x in vars(joblib.load(file)).items() if hasattr(x, "tolist")}
    else:
        (checkpoint,) = files.glob("checkpoint-*")
        content["model"] = (checkpoint / "model.safetensors").read_bytes()
        content |= {
            name: torch.load(checkpoint / f"{name}.pt", weights_only=True) for name in ("optimizer", "scheduler")
        }
    return digest(content)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By framework, the curve and the end of a trial that never pauses: number n trains ALL[n]."""
    run_dir, found = tmp_path_factory.mktemp("straight"), {}
    for number, by in enumerate(ALL):
        *epochs, _ = trainings(run_dir)([Job(number, {"by": by}, 0, R_MAX)])
        found[by] = [each.metrics for each in epochs], ends(run_dir, number)
    return found


@pytest.mark.parametrize("kept", ["on disk", "in memory"])
@pytest.mark.parametrize("by", ALL)
def test_paused_after_every_epoch_it_ends_where_it_ends_straight(
    by: str, kept: str, straight: dict[str, Any], tmp_path: Path
) -> None:
    number, remembering = ALL.index(by), trainings(tmp_path)
    curve: list[dict[str, float]] = []
    for since, until in PIECES:
        objective = remembering if kept == "in memory" else trainings(tmp_path)
        *epochs, finished = objective([Job(number, {"by": by}, since, until)])
        assert isinstance(finished, Finished) and not any(isinstance(each, Restarted) for each in epochs)
        curve += [each.metrics for each in epochs]
    assert (curve, ends(tmp_path, number)) == straight[by]
    assert len({metrics["eval_loss"] for metrics in curve}) == R_MAX


def test_two_workers_and_a_kill_end_where_it_ends_straight(straight: dict[str, Any], tmp_path: Path) -> None:
    curves: dict[int, dict[int, dict[str, float]]] = {number: {} for number in range(len(ALL))}
    deadly = {ALL.index("lightning-step"), ALL.index("huggingface")}
    executor = Process(trainings(tmp_path / "study"), workers=2)
    try:
        for since, until in [(0, 2), (2, R_MAX)]:
            waiting = [
                Job(number, {"by": by} | ({"mark": str(tmp_path / by)} if number in deadly else {}), since, until)
                for number, by in enumerate(ALL)
            ]
            while waiting or not executor.idle():
                while waiting and executor.has_room():
                    executor.submit(waiting.pop())
                for step in executor.wait():
                    assert not (isinstance(step, Finished) and step.outcome.failed), step
                    if isinstance(step, Epoch):
                        curves[step.trial][step.epoch] = step.metrics
    finally:
        executor.shutdown(graceful=False)
    assert {each.name for each in tmp_path.iterdir()} == {"study", "lightning-step", "huggingface"}  # they died
    for number, by in enumerate(ALL):
        assert (list(curves[number].values()), ends(tmp_path / "study", number)) == straight[by]


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_a_trainer_that_is_ended_at_rungs_ends_where_it_ends_straight(schedule: str, tmp_path: Path) -> None:
    from halving.lightning import pausing_at  # isort: split

    import lightning.pytorch as L

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    def app() -> Any:
        """Fit as an app does that knows nothing of rungs."""
        L.seed_everything(3, verbose=False)
        model, data = network(schedule), TensorDataset(*batches())
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        trainer = L.Trainer(max_epochs=R_MAX, accelerator="cpu", logger=False, log_every_n_steps=1, **quiet)
        trainer.fit(model, DataLoader(data, 16, shuffle=True), DataLoader(data, 96))
        return [*model.parameters()], {name: float(value) for name, value in trainer.callback_metrics.items()}

    straight, last = app()
    epochs: list[dict[str, float]] = []
    for since, until in [(0, 1), (1, 3), (3, R_MAX)]:
        with pausing_at(tmp_path, since, until, epochs):
            parameters, metrics = app()
        assert len(epochs) == until and epochs[-1] == metrics
    assert all(map(torch.equal, parameters, straight)) and metrics == last
    with pytest.raises(StudyError, match="the app's function calls no fit"), pausing_at(tmp_path, 0, 1, []):
        pass


def test_what_torch_refuses_is_said_in_words(tmp_path: Path) -> None:
    def function(trial: Running) -> None:
        lightning(trial, root=Path("data"))

    list(trainings(tmp_path, function)([Job(0, {}, 0, 1)]))
    with pytest.raises(StudyError, match=r"it holds a pathlib\.\w*Path; .*add_safe_globals.* weights_only=False"):
        list(trainings(tmp_path, function)([Job(0, {}, 1, 2)]))


def test_a_forgotten_checkpoint_is_noticed(tmp_path: Path) -> None:
    def function(trial: Running) -> None:
        lightning(trial, forgetful=True)

    list(trainings(tmp_path, function)([Job(0, {}, 0, 1)]))
    with pytest.raises(StudyError, match=r"says that this is epoch 1, where 2 follows.*pausing.checkpoint"):
        list(trainings(tmp_path, function)([Job(0, {}, 1, 2)]))


def test_several_devices_are_refused() -> None:
    from halving.lightning import Pausing  # isort: split

    from lightning.pytorch import Trainer

    pausing = Pausing(Running(0, {}, 0))
    with pytest.raises(StudyError, match=r"one device; give Trainer\(devices=1\)"):
        pausing.setup(Trainer(accelerator="cpu", devices=2, callbacks=[pausing], logger=False), network("step"), "fit")


@pytest.mark.parametrize(
    ("ours", "theirs", "extra"),
    [("lightning", "lightning.pytorch", "lightning"), ("huggingface", "transformers", "transformers")],
)
def test_without_the_framework_a_command_is_named(
    ours: str, theirs: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"halving.{ours}", raising=False)
    monkeypatch.setitem(sys.modules, theirs, None)
    with pytest.raises(UserError, match=rf"pip install 'halving\[{extra}\]'"):
        import_module(f"halving.{ours}")
