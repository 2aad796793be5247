"""Averages of the weights that a training passes through, evaluated beside its last ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]  (which update_bn goes by)
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from halving.data.base import Data
from halving.errors import UserError, real
from halving.training.loop import EVALUATION_BATCH


class Averaging(Protocol):
    """Which weights an average is of, and how much each of them counts."""

    def takes(self, done: float) -> bool:
        """Say whether the weights after `done` epochs, whole at the end of each, are taken."""
        ...

    def share(self, taken: int) -> float:
        """Return the share in the average that weights get on top of `taken` others, from 1."""
        ...


@dataclass(frozen=True)
class SWA:
    """The mean of the weights at the end of each epoch from the fraction `start` of a full training on.

    It finds flat minima where the learning rate stays high enough to move between them: pair it with a constant or a
    cyclic one. `epochs` is the length of a full training, never a rung's. Raises UserError unless 0 <= start < 1 and
    epochs > 0.

    Source: Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, UAI 2018.
    """

    epochs: float
    start: float = 0.75

    def __post_init__(self) -> None:
        real("averaging.epochs", self.epochs, lambda x: x > 0, "must be a number of epochs above 0")
        real("averaging.start", self.start, lambda x: 0 <= x < 1, "must be a fraction of the training, 0 up to below 1")

    def takes(self, done: float) -> bool:
        return done.is_integer() and done / self.epochs >= self.start

    def share(self, taken: int) -> float:
        return 1 / (taken + 1)


@dataclass(frozen=True)
class EMA:
    """The exponential average of the weights after each step: d times itself plus 1 - d times the new ones.

    After n steps d is `decay`, but at most (1 + n) / (10 + n): so it holds about the last ninth of a training that is
    shorter than 9 / (1 - decay) steps, and never its first weights. Raises UserError unless 0 <= decay < 1.

    Source: Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992; the rule for the first
    steps is that of TensorFlow's ExponentialMovingAverage where it is told their number.
    """

    decay: float = 0.999

    def __post_init__(self) -> None:
        real("averaging.decay", self.decay, lambda x: 0 <= x < 1, "must be a number of at least 0 and below 1")

    def takes(self, done: float) -> bool:
        return True

    def share(self, taken: int) -> float:
        return 1 - min(self.decay, (1 + taken) / (10 + taken))


class Average:
    """The average of a model's weights in the course of its training, as a model of its own.

    Buffers are those of the newest weights taken, except for the running statistics of batch norm: they belong to other
    weights, and `settle` computes them anew. Raises UserError for a model that cannot be copied.
    """

    def __init__(self, model: nn.Module, averaging: Averaging) -> None:
        self._source, self._averaging = model, averaging
        try:
            self._averaged = AveragedModel(model, multi_avg_fn=self._blend)
        except Exception as error:  # what a model holds may raise anything
            raise UserError(
                f"averaging: the model cannot be copied: {type(error).__name__}: {error}; averaging=none does without"
            ) from error
        self.model: nn.Module = self._averaged.module.eval()
        norms = (each for each in self.model.modules() if isinstance(each, _BatchNorm))
        self._norms = [norm for norm in norms if norm.track_running_stats]

    @property
    def taken(self) -> int:
        """How many weights the average is of; before the first, it is none."""
        return int(self._averaged.n_averaged)

    def take(self, done: float) -> None:
        """Take the weights after `done` epochs into the average, if they belong to it."""
        if self._averaging.takes(done):
            self._averaged.update_parameters(self._source)

    @torch.no_grad()
    def settle(self, data: Data, epoch: int) -> None:
        """Give batch norm the statistics of the averaged weights, by one pass over the training set.

        As in evaluation nothing is augmented, all other layers evaluate, and batches are large, which brings each the
        nearer to the whole; in the order of `epoch`, so that none holds one class alone. Every example counts alike.
        Source: Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021 (PreciseBN).
        """
        if not self._norms:
            return
        for norm in self._norms:
            norm.reset_running_stats()
            norm.train()
        seen = 0
        for inputs, _ in data.batches(data.train, data.order(epoch), size=EVALUATION_BATCH):
            seen += len(inputs)
            for norm in self._norms:
                norm.momentum = len(inputs) / seen
            self.model(inputs)
        self.model.eval()

    def state(self) -> dict[str, Any]:
        """Return the averaged weights and how many they are of."""
        return {"model": self.model.state_dict(), "taken": self.taken}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self.model.load_state_dict(state["model"])
        self._averaged.n_averaged.fill_(state["taken"])

    def _blend(self, averaged: Any, new: Any, taken: Tensor | int) -> None:
        get_ema_multi_avg_fn(1 - self._averaging.share(self.taken))(averaged, new, taken)
