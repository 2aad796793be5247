"""One program that trains and evaluates several trials, each of which keeps a trainer of its own."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from halving.data.base import Split
from halving.training.batched.joint import Joint, mean_losses, sums
from halving.training.batched.recorded import Recorded
from halving.training.batched.steps import Gradients, Step, stepping
from halving.training.loop import EVALUATION_BATCH, minibatches
from halving.training.trainer import Trainer


class Pass:
    """A forward and backward pass, with the optimizers' step where that can be recorded; it sums losses and errors."""

    def __init__(self, joint: Joint, step: Step) -> None:
        self._joint, self._step = joint, step
        self.totals = torch.zeros(joint.trials, 2, dtype=torch.float64, device=joint.stack.device)

    def __call__(self, inputs: Tensor, targets: Tensor) -> Gradients:
        losses, outputs, gradients = self._joint.gradients(inputs, targets)
        self.totals += sums(losses, outputs, targets)
        if self._step.recordable:
            self._step(gradients)
        return gradients


class Program:
    """Trains alike trials together: their trainers' weights become views of its own, and stay true after each epoch."""

    def __init__(self, trainers: Sequence[Trainer], expanded: bool = False, recorded: bool = False) -> None:
        self._trainers, self._data = trainers, trainers[0].data
        self._joint = Joint([trainer.model for trainer in trainers], self._data.mean.device, expanded)
        self._step = stepping([trainer.optimizer for trainer in trainers], self._joint.stack.parameters)
        self._averages = [trainer.average for trainer in trainers if trainer.average is not None]
        self._totals = (passed := Pass(self._joint, self._step)).totals
        self._pass = Recorded(passed, self._joint.masks) if recorded else passed

    def epoch(self, epoch: int) -> list[dict[str, float]]:
        """Train epoch `epoch` (from 1) of all trials and validate; return the metrics of each.

        The `seconds` of a trial are its share of what all took.
        """
        began, trials = time.perf_counter(), len(self._trainers)
        for trainer in self._trainers:
            trainer.begin(epoch)
        self._joint.model.train()
        self._totals.zero_()
        rates: list[float] = []
        for inputs, targets, before, after in minibatches(self._data, epoch):
            rates = [trainer.rate(before) for trainer in self._trainers]
            self._step.at(rates)
            gradients = self._pass(inputs, targets)
            if not self._step.recordable:
                self._step(gradients)
            for average in self._averages:
                average.take(after)
        means = (self._totals / len(self._data.train)).tolist()
        seconds, measured = (time.perf_counter() - began) / trials, self.measure(self._data.validation, epoch)
        return [
            trainer.end(epoch, {"lr": rate, "train_loss": loss, "train_error": error}, seconds, last)
            for trainer, rate, (loss, error), last in zip(self._trainers, rates, means, measured, strict=True)
        ]

    @torch.inference_mode()
    def measure(self, split: Split, epoch: int) -> list[dict[str, float]]:
        """Return what `loop.measure` returns of each trial after an epoch."""
        self._joint.model.eval()
        trials, data = len(self._trainers), self._data
        size = max(1, EVALUATION_BATCH // trials)
        if data.mean.device.type != "cpu":  # which waits for Python where batches are small, and has room for these
            size = max(size, data.batch_size)
        totals = torch.zeros(trials, 2, dtype=torch.float64, device=data.mean.device)
        kept: list[tuple[Tensor, Tensor]] = []
        for inputs, targets in data.batches(split, size=size):
            outputs = self._joint.outputs(inputs)
            totals += sums(mean_losses(outputs, targets), outputs, targets)
            if data.metrics:
                kept.append((outputs, targets))
        measured = [{"loss": loss, "error": error} for loss, error in (totals / len(split)).tolist()]
        if kept:
            everything, targets = torch.cat([each for each, _ in kept], 1), torch.cat([each for _, each in kept])
            for each, outputs, trainer in zip(measured, everything, self._trainers, strict=True):
                with trainer.evaluating(epoch):
                    each |= {name: float(own(outputs, targets)) for name, own in data.metrics.items()}
        return measured
