"""The forward and backward pass of many trials at once."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from halving.training.batched.fused import fuse
from halving.training.batched.modules import JOINED, Masks, as_vectors
from halving.training.batched.stacking import Stack


class Joint:
    """Models of one structure as one, with their own `forward`: their weights become views of its `stack`.

    The inputs are shared up to the first layer that has weights, or expanded to each trial's own from the beginning.
    """

    def __init__(self, models: Sequence[nn.Module], device: torch.device, expanded: bool = False) -> None:
        self.trials, self._expanded = len(models), expanded
        self.stack = Stack(device)
        named = [dict(model.named_modules()) for model in models]
        replaced: dict[int, Any] = {}
        for name, module in named[0].items():
            if type(module) in JOINED:
                replaced[id(module)] = JOINED[type(module)]([each[name] for each in named], self.stack)
        self.model: nn.Module = deepcopy(models[0], replaced)
        fuse(self.model)
        self.masks = [module for module in self.model.modules() if isinstance(module, Masks)]
        self._parameters = [stacked for stacked, _ in self.stack.parameters]

    def gradients(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
        """Return losses (k,) and outputs (k, b, o) of a minibatch, and the gradients of each trial's loss, stacked."""
        outputs = self.outputs(inputs)
        losses = mean_losses(outputs, targets)
        gradients = torch.autograd.grad(losses.sum(), self._parameters, allow_unused=True)
        return losses.detach(), outputs.detach(), gradients

    def outputs(self, inputs: Tensor) -> Tensor:
        """Return the outputs (k, b, o) of shared inputs."""
        if self._expanded and inputs.ndim == 2:
            inputs = inputs.expand(self.trials, *inputs.shape)
        elif self._expanded:
            inputs = inputs.repeat(1, self.trials, 1, 1)
        return as_vectors(self.model(inputs), self.trials)


def mean_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return what `loop.mean_loss` makes of each trial's outputs (k, b, o): (k,)."""
    trials, batch, _ = outputs.shape
    if targets.is_floating_point():
        return (outputs.reshape(trials, batch) - targets.view(batch)).square().mean(1)
    if outputs.is_contiguous():
        each = functional.cross_entropy(outputs.flatten(0, 1), targets.repeat(trials), reduction="none")
        return each.view(trials, batch).mean(1)
    rows = outputs.transpose(0, 1).flatten(0, 1)  # as a shared linear layer leaves them
    return functional.cross_entropy(rows, targets.repeat_interleave(trials), reduction="none").view(batch, -1).mean(0)


def sums(losses: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return what `loop.sums` makes of each trial's loss and outputs: (k, 2)."""
    loss_sums = losses * len(targets)
    if targets.is_floating_point():
        return torch.stack((loss_sums, loss_sums), 1)
    return torch.stack((loss_sums, (outputs.argmax(2) != targets).sum(1)), 1)
