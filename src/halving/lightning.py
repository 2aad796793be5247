"""Lightning's Trainer as a trial's training."""

from typing import Any

from halving.data.torchvision_shim import allow_import
from halving.errors import StudyError, UserError
from halving.training.own import Running
from halving.training.randomness import seeded

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
        self._trial = trial
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
            due = config.interval == "epoch" and self._trial.since % config.frequency == 0
            if config.reduce_on_plateau and due and config.monitor in self._metrics:
                pl_module.lr_scheduler_step(config.scheduler, self._metrics[config.monitor])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._metrics = dict(trainer.callback_metrics)
        trainer.save_checkpoint(self._trial.directory / FILE)
        self._trial.report({**self._metrics, "epoch": trainer.current_epoch + 1})
