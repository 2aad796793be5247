"""A step of many trials' optimizers."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from halving.training.eager import step_of

Gradients = Sequence[Tensor | None]
Step = Callable[[Gradients, Sequence[float]], None]
Parameters = Sequence[tuple[nn.Parameter, Sequence[Tensor]]]


def stepping(optimizers: Sequence[Optimizer], parameters: Parameters) -> Step:
    """Return what takes a step of all, by the gradients of stacked parameters and each learning rate."""
    return Each(optimizers, parameters)


class Each:
    """Lets each optimizer take its own step, on its trial's slices."""

    def __init__(self, optimizers: Sequence[Optimizer], parameters: Parameters) -> None:
        self._optimizers, self._parameters = optimizers, parameters
        self._steps = [step_of(optimizer) for optimizer in optimizers]

    def __call__(self, gradients: Gradients, rates: Sequence[float]) -> None:
        for (stacked, own), gradient in zip(self._parameters, gradients, strict=True):
            slices = [None] * len(own) if gradient is None else laid_out_as(stacked, gradient).unbind()
            for parameter, each in zip(own, slices, strict=True):
                parameter.grad = each
        for optimizer, step, rate in zip(self._optimizers, self._steps, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
            step()


def laid_out_as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Return a gradient with its parameter's strides: fused optimizers go by the order in memory."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter, memory_format=torch.preserve_format).copy_(gradient)
