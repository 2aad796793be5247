"""One trial in training: exact to pause, save and resume at the end of any epoch."""

import math
import time
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor

from halving.checkpoints.store import State
from halving.data.base import Data
from halving.data.keys import key
from halving.errors import UserError
from halving.targets import lacking
from halving.training.dropout import Dropout
from halving.training.loop import EVALUATION_BATCH, materialise, measure, place, train_epoch
from halving.training.lr_schedules import Plateau
from halving.training.randomness import seeded
from halving.training.recipe import ACCURACIES, Recipe
from halving.trial import Epoch

# Purposes that keep the random streams of one (seed, trial) apart.
_WEIGHTS, _EPOCH, _DROPOUT, _EVALUATION, _TEST = range(5)


class Trainer:
    """Model, optimizer and learning-rate schedule of a trial.

    Weights follow from (seed, trial), the data's order from (seed, epoch), dropout and whatever else draws from
    Python's, NumPy's or torch's global generators from (seed, trial, epoch): so an epoch's result depends on nothing
    that a checkpoint does not hold. Lazy layers get their shapes by a pass over two examples.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        torch.backends.cudnn.deterministic = True  # some of its convolutions add up gradients in any order
        with self._seeded(_WEIGHTS):
            model = recipe.model()
            materialise(model, recipe.data)
            self.model = place(model, recipe.device)
            try:
                self._optimizer = recipe.optimizer(self.model.parameters())
            except (TypeError, ValueError) as error:
                own = recipe.optimizer
                null = lacking(own.func, own.keywords, "optimizer") if isinstance(own, partial) else ""
                raise UserError(null or f"optimizer: {error}") from error
            self._schedule = recipe.lr_schedule()
        self._lr: float = self._optimizer.param_groups[0]["lr"]
        self._dropouts = [module for module in self.model.modules() if isinstance(module, Dropout)]

    def train(self, trial: int, epochs: range, shift: int = 0) -> Generator[Epoch, None, tuple[list[float], str]]:
        """Train `epochs` (from 1); yield each as an event of `trial`, numbered `shift` higher.

        Returns the metric after each epoch and, where the last of them diverged, the cause.
        """
        metric = self._recipe.metric
        curve: list[float] = []
        for epoch in epochs:
            metrics = self.epoch(epoch)
            yield Epoch(trial, epoch + shift, metrics)
            curve.append(metrics[metric])
            if cause := self.divergence(epoch, metrics):
                return curve, cause
        return curve, ""

    def divergence(self, epoch: int, metrics: Mapping[str, float]) -> str:
        """Say which metric is not finite after an epoch, if one that matters is not."""
        for name in ("train_loss", self._recipe.metric):
            if not math.isfinite(metrics[name]):
                return f"diverged: {name} is {metrics[name]} after epoch {epoch}"
        return ""

    def epoch(self, epoch: int) -> dict[str, float]:
        """Train epoch `epoch` (from 1) and validate; return the metrics. `seconds` leaves out the validation."""
        seed, trial, data = self._recipe.seed, self._recipe.trial, self._recipe.data
        began = time.perf_counter()
        with self._seeded(_EPOCH, epoch):
            for i, dropout in enumerate(self._dropouts):
                dropout.key(key(seed, trial, _DROPOUT, epoch, i))
            try:
                metrics = train_epoch(self.model, self._optimizer, data, epoch, self._rate)
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise UserError(
                    f"model: batch norm cannot train on a batch of one example: data.batch_size={data.batch_size} of a "
                    f"training set of {len(data.train)}; give 2 or more of both"
                ) from error
        seconds = time.perf_counter() - began
        with self._seeded(_EVALUATION, epoch):
            measured = measure(self.model, data, data.validation)
        if isinstance(self._schedule, Plateau):
            self._schedule.observe(measured["loss"])
        metrics |= {f"val_{name}": value for name, value in measured.items()}
        if error := ACCURACIES.get(self._recipe.metric):
            metrics[self._recipe.metric] = 1 - metrics[error]
        return metrics | {"seconds": seconds}

    def test(self) -> dict[str, float]:
        """Return the metrics of the test set; for classification also the counts that their intervals need."""
        data = self._recipe.data
        with self._seeded(_TEST):
            metrics = self.named(measure(self.model, data, data.test))
        counts = {"test_samples": float(len(data.test)), "val_samples": float(len(data.validation))}
        return metrics | (counts if data.classification else {})

    def named(self, measured: Mapping[str, float]) -> dict[str, float]:
        """Return what was measured on the test set as a test names it, an accuracy where that is optimised."""
        accuracy = {"accuracy": 1 - measured["error"]} if self._recipe.metric in ACCURACIES else {}
        return {f"test_{name}": value for name, value in {**measured, **accuracy}.items()}

    @property
    def data(self) -> Data:
        """What it trains, validates and is tested on."""
        return self._recipe.data

    @torch.inference_mode()
    def predicted(self) -> Tensor:
        """Return what it makes of the test set, float64 (n, outputs): probabilities of classes, or numbers."""
        self.model.eval()
        data = self._recipe.data
        with self._seeded(_TEST):
            batches = data.batches(data.test, size=EVALUATION_BATCH)
            outputs = torch.cat([self.model(inputs) for inputs, _ in batches]).double()
        return outputs.softmax(1) if data.classification else outputs

    def state(self) -> State:
        """Return all that the next epoch depends on."""
        schedule = self._schedule.state() if isinstance(self._schedule, Plateau) else {}
        parts = {"model": self.model, "optimizer": self._optimizer}
        return State({name: part.state_dict() for name, part in parts.items()} | {"lr_schedule": schedule})

    def restore(self, state: State) -> None:
        """Go back to a state."""
        self.model.load_state_dict(state.values["model"])
        self._optimizer.load_state_dict(state.values["optimizer"])
        if isinstance(self._schedule, Plateau):
            self._schedule.restore(state.values["lr_schedule"])

    def aim(self, until: int) -> None:
        """Train the same, whatever the rung."""

    def close(self) -> None:
        """Let nothing go: it holds memory alone."""

    def _rate(self, epoch: float) -> float:
        return self._lr * self._schedule(epoch)

    def _seeded(self, *purpose: int) -> AbstractContextManager[None]:
        return seeded(key(self._recipe.seed, self._recipe.trial, *purpose), self._recipe.device)
