"""Lightning's Trainer as a trial's training."""

import inspect
from collections.abc import Generator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from halving.data.torchvision_shim import allow_import
from halving.errors import StudyError, UserError
from halving.training.own import Running
from halving.training.randomness import captured, restore, seeded

allow_import()  # by way of torchmetrics
try:
    with seeded(0):  # its imports draw, of which a trial may be the first
        from lightning.pytorch import LightningModule, Trainer
        from lightning.pytorch.callbacks import Checkpoint
except ImportError as error:
    raise UserError(f"halving.lightning needs Lightning ({error}): pip install 'halving[lightning]'") from error

FILE = "trainer.ckpt"


class Pausing(Checkpoint):  # as such it comes after other callbacks, and there is no ModelCheckpoint by default
    """Reports `trainer.callback_metrics` after each epoch, and leaves the trainer's checkpoint to go on from.

    `trainer.fit(model, ckpt_path=pausing.checkpoint)` goes on; `Trainer(max_epochs=...)` is the most that any trial
    trains, never the rung, and `devices=1`. Raises StudyError for several devices, and for another package's Trainer.
    """

    def __init__(self, trial: Running) -> None:
        self.checkpoint = str(trial.directory / FILE) if trial.since else None
        self._trial, self._since = trial, trial.since
        self._metrics: dict[str, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self not in trainer.checkpoint_callbacks:
            raise StudyError("halving.lightning: Pausing is for a Trainer of lightning.pytorch, not of another package")
        if trainer.world_size > 1:  # as it is by default where there are several GPUs
            raise StudyError("halving.lightning: a trial trains on one device; give Trainer(devices=1)")

    def state_dict(self) -> dict[str, Any]:
        return {"metrics": self._metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._metrics = state_dict["metrics"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trial.keep()  # before the loaders' iterators are made, which draw

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Step the schedules on metrics, which the trainer does only after its last hook of an epoch."""
        for config in trainer.lr_scheduler_configs if pl_module.automatic_optimization else []:
            due = config.interval == "epoch" and self._since % config.frequency == 0
            if config.reduce_on_plateau and due and config.monitor in self._metrics:
                pl_module.lr_scheduler_step(config.scheduler, self._metrics[config.monitor])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._metrics = dict(trainer.callback_metrics)
        trainer.save_checkpoint(self._trial.directory / FILE)
        self._trial.report({**self._metrics, "epoch": trainer.current_epoch + 1})


class Rung(Pausing):
    """Ends the training of somebody else's Trainer after epoch `until`, and leaves a checkpoint to go on from.

    So it does where the trainer ends earlier by itself. `epochs` gets the metrics of each.
    """

    def __init__(self, directory: Path, since: int, until: int, epochs: list[dict[str, float]]) -> None:
        self.checkpoint = str(directory / f"{since}.ckpt") if since else None
        self._file, self._since, self._until, self._epochs = directory / f"{until}.ckpt", since, until, epochs
        self._metrics: dict[str, Any] = {}
        self._random: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "random": captured()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._random = state_dict["random"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._random is not None:
            restore(self._random)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._metrics = dict(trainer.callback_metrics)
        self._epochs.append({name: float(value) for name, value in self._metrics.items()})
        if trainer.should_stop or trainer.current_epoch + 1 >= self._until:
            trainer.save_checkpoint(self._file, weights_only=False)
            trainer.should_stop = True


@contextmanager
def pausing_at(directory: Path, since: int, until: int, epochs: list[dict[str, float]]) -> Generator[None]:
    """Let `Trainer.fit` go on from what lies in a directory for `since`, and end at `until`, whoever calls it.

    Raises StudyError where nobody does, and for a second call.
    """
    fit, signature = Trainer.fit, inspect.signature(Trainer.fit)
    fitted: list[Trainer] = []

    @wraps(fit)
    def paused(*args: Any, **kwargs: Any) -> None:
        call = signature.bind(*args, **kwargs)
        trainer: Trainer = call.arguments["self"]
        if fitted:
            raise StudyError(
                "hydra.sweeper.inject=lightning: the app fits twice, which one rung is not to end; use resume"
            )
        fitted.append(trainer)
        rung = Rung(directory, since, until, epochs)
        trainer.callbacks.append(rung)  # type: ignore[attr-defined]
        if rung.checkpoint is not None:
            call.arguments["ckpt_path"] = rung.checkpoint
            if "weights_only" in signature.parameters:  # the file is ours, and may hold what the app keeps in it
                call.arguments["weights_only"] = False
        fit(*call.args, **call.kwargs)

    Trainer.fit = paused
    try:
        yield
    finally:
        Trainer.fit = fit
    if not fitted:
        raise StudyError(
            "hydra.sweeper.inject=lightning: the app's function calls no fit of lightning.pytorch's Trainer"
        )
