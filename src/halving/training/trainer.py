"""One trial in training: exact to pause, save and resume at the end of any epoch."""

import math
import time
from collections.abc import Generator, Mapping
from typing import Any

import torch

from halving.data.keys import key
from halving.errors import UserError
from halving.training.dropout import Dropout
from halving.training.loop import evaluate, place, train_epoch
from halving.training.lr_schedules import Plateau
from halving.training.recipe import Recipe
from halving.trial import Epoch

# Purposes that keep the random streams of one (seed, trial) apart.
_WEIGHTS, _EPOCH, _DROPOUT = range(3)


class Trainer:
    """Model, optimizer and learning-rate schedule of a trial.

    Weights follow from (seed, trial), the data's order from (seed, epoch), dropout and whatever else draws from
    torch's global generator from (seed, trial, epoch): so an epoch's result depends on nothing that a checkpoint
    does not hold.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        with torch.random.fork_rng(self._cuda):
            torch.manual_seed(key(recipe.seed, recipe.trial, _WEIGHTS))
            self.model = place(recipe.model(), recipe.device)
        try:
            self._optimizer = recipe.optimizer(self.model.parameters())
        except (TypeError, ValueError) as error:
            raise UserError(f"optimizer: {error}") from error
        self._lr: float = self._optimizer.param_groups[0]["lr"]
        self._schedule = recipe.lr_schedule()
        self._dropouts = [module for module in self.model.modules() if isinstance(module, Dropout)]

    def train(self, trial: int, epochs: range, shift: int = 0) -> Generator[Epoch, None, tuple[list[float], str]]:
        """Train `epochs` (from 1); yield each as an event of `trial`, numbered `shift` higher.

        Returns the metric after each epoch and, where the last of them diverged, the cause.
        """
        metric = self._recipe.metric
        curve: list[float] = []
        for epoch in epochs:
            metrics = self.train_epoch(epoch)
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

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train epoch `epoch` (from 1) and validate; return the metrics. `seconds` leaves out the validation."""
        seed, trial = self._recipe.seed, self._recipe.trial
        began = time.perf_counter()
        with torch.random.fork_rng(self._cuda):
            torch.manual_seed(key(seed, trial, _EPOCH, epoch))
            for i, dropout in enumerate(self._dropouts):
                dropout.key(key(seed, trial, _DROPOUT, epoch, i))
            metrics = train_epoch(self.model, self._optimizer, self._recipe.data, epoch, self._rate)
        seconds = time.perf_counter() - began
        val_loss, val_error = evaluate(self.model, self._recipe.data, self._recipe.data.validation)
        if isinstance(self._schedule, Plateau):
            self._schedule.observe(val_loss)
        return metrics | {"val_loss": val_loss, "val_error": val_error, "seconds": seconds}

    def test(self) -> dict[str, float]:
        """Return loss and error on the test set; for classification also the counts that their intervals need."""
        data = self._recipe.data
        loss, error = evaluate(self.model, data, data.test)
        counts = {"test_samples": float(len(data.test)), "val_samples": float(len(data.validation))}
        return {"test_loss": loss, "test_error": error} | (counts if data.classification else {})

    def state(self) -> dict[str, Any]:
        """Return all that the next epoch depends on."""
        schedule = self._schedule.state() if isinstance(self._schedule, Plateau) else {}
        return {"model": self.model.state_dict(), "optimizer": self._optimizer.state_dict(), "lr_schedule": schedule}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        if isinstance(self._schedule, Plateau):
            self._schedule.restore(state["lr_schedule"])

    def _rate(self, epoch: float) -> float:
        return self._lr * self._schedule(epoch)

    @property
    def _cuda(self) -> list[str]:
        return [self._recipe.device] if self._recipe.device.startswith("cuda") else []
