"""Hugging Face's Trainer as a trial's training."""

from typing import Any

from halving.data.torchvision_shim import allow_import
from halving.errors import UserError
from halving.training.own import Running
from halving.training.randomness import seeded

allow_import()
try:
    with seeded(0):  # its imports draw, of which a trial may be the first
        from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
        from transformers.trainer_utils import get_last_checkpoint
except ImportError as error:
    raise UserError(f"halving.huggingface needs Transformers ({error}): pip install 'halving[transformers]'") from error

_TIMES = ("_runtime", "_per_second", "_preparation_time")


class Pausing(TrainerCallback):
    """After each epoch evaluates, leaves the trainer's checkpoint to go on from, and reports the evaluation's metrics.

    `trainer.train(resume_from_checkpoint=pausing.checkpoint)` goes on; `TrainingArguments(num_train_epochs=...)` is
    the most that any trial trains, never the rung. Checkpoints, of which only the newest stays, lie in the trial's
    directory, wherever `output_dir` is.
    """

    def __init__(self, trial: Running) -> None:
        self.checkpoint = get_last_checkpoint(str(trial.directory)) if trial.since else None
        self._trial = trial
        self._metrics: dict[str, float] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        self._trial.keep(model=more["model"])  # of some architectures the trainer's checkpoint loads no weights
        args.output_dir = str(self._trial.directory)
        args.save_total_limit = args.save_total_limit or 1
        args.save_only_model = False

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._metrics = {}
        control.should_evaluate = control.should_save = True

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        if self._metrics is not None:
            self._metrics |= {name: x for name, x in more["metrics"].items() if not name.endswith(_TIMES)}

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._metrics is not None:  # not a save in an epoch's midst
            metrics, self._metrics = self._metrics, None
            self._trial.report(metrics)
