"""One trial in training: exact to pause, save and resume at the end of any epoch."""

import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from halving.checkpoints.store import State
from halving.data.base import Data, Split
from halving.data.keys import key
from halving.errors import UserError
from halving.targets import lacking
from halving.training.averaging import Average
from halving.training.dropout import Dropout
from halving.training.loop import EVALUATION_BATCH, enough_examples, materialise, measure, place, train_epoch
from halving.training.lr_schedules import Plateau
from halving.training.randomness import seeded
from halving.training.recipe import ACCURACIES, Recipe
from halving.trial import AVERAGED, Epoch

# Purposes that keep the random streams of one (seed, trial) apart.
_WEIGHTS, _EPOCH, _DROPOUT, _EVALUATION, _TEST, _STATISTICS = range(6)


class Trainer:
    """Model, optimizer and learning-rate schedule of a trial, and the average of its weights where one is kept.

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
                self.optimizer = recipe.optimizer(self.model.parameters())
            except (TypeError, ValueError) as error:
                own = recipe.optimizer
                null = lacking(own.func, own.keywords, "optimizer") if isinstance(own, partial) else ""
                raise UserError(null or f"optimizer: {error}") from error
            self.schedule = recipe.lr_schedule()
            self._plateau = self.schedule if isinstance(self.schedule, Plateau) else None
            self.average = None if recipe.averaging is None else Average(self.model, recipe.averaging)
        self._lr: float = self.optimizer.param_groups[0]["lr"]
        self._dropouts = [module for module in self.model.modules() if isinstance(module, Dropout)]

    def steppers(self, model: nn.Module) -> tuple[Optimizer, Callable[[float], float]]:
        """Return an optimizer and a schedule of the learning rate like its own, for another model."""
        return self._recipe.optimizer(model.parameters()), self._recipe.lr_schedule()

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
        """Train epoch `epoch` (from 1) and validate; return the metrics.

        Those that begin with `averaged_` are of the averaged weights, and before any are averaged of the last ones, so
        that rungs compare. `seconds` leaves out the validation, with what batch norm needs for that.
        """
        data = self._recipe.data
        began = time.perf_counter()
        with self._seeded(_EPOCH, epoch):
            self.begin(epoch)
            take = None if self.average is None else self.average.take
            with enough_examples(data):
                metrics = train_epoch(self.model, self.optimizer, data, epoch, self.rate, take)
        return self.end(epoch, metrics, time.perf_counter() - began)

    def begin(self, epoch: int) -> None:
        """Let each dropout layer begin the masks of epoch `epoch`."""
        for i, dropout in enumerate(self._dropouts):
            dropout.key(key(self._recipe.seed, self._recipe.trial, _DROPOUT, epoch, i))

    def end(
        self, epoch: int, metrics: dict[str, float], seconds: float, last: dict[str, float] | None = None
    ) -> dict[str, float]:
        """Validate after epoch `epoch`, which gave `metrics` in so many `seconds`; return all that it comes to.

        `last` is what the validation set has measured of the last weights, where that is known.
        """
        data = self._recipe.data
        if self._begun is not None:
            with self._seeded(_STATISTICS, epoch):
                self._begun.settle(data, epoch)
        for prefix, measured in self._evaluated(data.validation, _EVALUATION, epoch, last=last).items():
            metrics |= {f"{prefix}val_{name}": value for name, value in measured.items()}
        if self._plateau is not None:
            self._plateau.observe(metrics["val_loss"])
        if error := ACCURACIES.get(self._recipe.metric):
            metrics[self._recipe.metric] = 1 - metrics[error]
        return metrics | {"seconds": seconds}

    def test(self) -> dict[str, float]:
        """Return the metrics of the test set; for classification also the counts that their intervals need.

        Those of the averaged weights, where such are kept, begin with `averaged_` and stand beside the last ones'.
        """
        data = self._recipe.data
        metrics: dict[str, float] = {}
        for prefix, measured in self._evaluated(data.test, _TEST).items():
            metrics |= self.named(measured, prefix)
        counts = {"test_samples": float(len(data.test)), "val_samples": float(len(data.validation))}
        return metrics | (counts if data.classification else {})

    def named(self, measured: Mapping[str, float], prefix: str) -> dict[str, float]:
        """Return what was measured on the test set as a test names it, an accuracy where that is optimised."""
        accuracy = {"accuracy": 1 - measured["error"]} if self._recipe.metric in ACCURACIES else {}
        return {f"{prefix}test_{name}": value for name, value in {**measured, **accuracy}.items()}

    @property
    def prefix(self) -> str:
        """What the metrics of the weights begin with that are optimised: the averaged ones, or nothing."""
        return AVERAGED if self._recipe.metric.startswith(AVERAGED) else ""

    @property
    def data(self) -> Data:
        """What it trains, validates and is tested on."""
        return self._recipe.data

    @torch.inference_mode()
    def predicted(self) -> Tensor:
        """Return what it makes of the test set, float64 (n, outputs): probabilities of classes, or numbers.

        Its weights are the averaged ones where these are optimised.
        """
        model = (self._begun.model if self.prefix and self._begun is not None else self.model).eval()
        data = self._recipe.data
        with self._seeded(_TEST):
            batches = data.batches(data.test, size=EVALUATION_BATCH)
            outputs = torch.cat([model(inputs) for inputs, _ in batches]).double()
        return outputs.softmax(1) if data.classification else outputs

    def state(self) -> State:
        """Return all that the next epoch depends on."""
        schedule = self._plateau.state() if self._plateau is not None else {}
        return State(self.weights() | {"optimizer": self.optimizer.state_dict(), "lr_schedule": schedule})

    def weights(self) -> dict[str, Any]:
        """Return the last weights, as "model", and what is known of their average, as "averaged", once it is begun."""
        averaged = {} if self._begun is None else {"averaged": self._begun.state()}
        return {"model": self.model.state_dict(), **averaged}

    def evaluating(self, epoch: int) -> AbstractContextManager[None]:
        """Let what draws random numbers draw what it does in the validation after `epoch`."""
        return self._seeded(_EVALUATION, epoch)

    def load(self, weights: Mapping[str, Any]) -> None:
        """Go back to what `weights` returned."""
        self.model.load_state_dict(weights["model"])
        if self.average is not None and "averaged" in weights:
            self.average.restore(weights["averaged"])

    def restore(self, state: State) -> None:
        """Go back to a state."""
        self.load(state.values)
        self.optimizer.load_state_dict(state.values["optimizer"])
        if self._plateau is not None:
            self._plateau.restore(state.values["lr_schedule"])

    def aim(self, until: int) -> None:
        """Train the same, whatever the rung."""

    def close(self) -> None:
        """Let nothing go: it holds memory alone."""

    @property
    def _begun(self) -> Average | None:
        """The average, once it is one."""
        return self.average if self.average is not None and self.average.taken else None

    def _evaluated(
        self, split: Split, *purpose: int, last: dict[str, float] | None = None
    ) -> dict[str, dict[str, float]]:
        """Return what a split measures of the last weights, unless known, and by AVERAGED of the averaged ones."""
        if last is None:
            with self._seeded(*purpose):
                last = measure(self.model, self._recipe.data, split)
        if self.average is None and not self.prefix:
            return {"": last}
        if self._begun is None:
            return {"": last, AVERAGED: last}
        with self._seeded(*purpose):
            return {"": last, AVERAGED: measure(self._begun.model, self._recipe.data, split)}

    def rate(self, epoch: float) -> float:
        """Return the learning rate of the step after `epoch` epochs."""
        return self._lr * self.schedule(epoch)

    def _seeded(self, *purpose: int) -> AbstractContextManager[None]:
        return seeded(key(self._recipe.seed, self._recipe.trial, *purpose), self._recipe.device)
