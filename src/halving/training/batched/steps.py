"""A step of many trials' optimizers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from halving.training.eager import step_of

Gradients = Sequence[Tensor | None]
Step = Callable[[Gradients, Sequence[float]], None]
Parameters = Sequence[tuple[nn.Parameter, Sequence[Tensor]]]

# Weights of a trial that stay in the cache, where several passes over those of all cost less than one call for each.
LIGHT = 20_000


def stepping(optimizers: Sequence[Optimizer], parameters: Parameters) -> Step:
    """Return what takes a step of all, by the gradients of stacked parameters and each learning rate."""
    if all(_plain(optimizer, parameters) for optimizer in optimizers):
        moves = any(_value(optimizer, "momentum") or _value(optimizer, "weight_decay") for optimizer in optimizers)
        size = sum(stacked[0].numel() for stacked, _ in parameters)
        if size <= LIGHT or not moves or parameters[0][0].is_cuda:
            return Vectors(optimizers, parameters)
    return Each(optimizers, parameters)


class Each:
    """Lets each optimizer take its own step, on its trial's slices."""

    def __init__(self, optimizers: Sequence[Optimizer], parameters: Parameters) -> None:
        self._optimizers, self._parameters = optimizers, parameters
        self._steps = [step_of(optimizer) for optimizer in optimizers]
        self._places = [(own[-1], own[-1].data_ptr()) for _, own in parameters]

    def __call__(self, gradients: Gradients, rates: Sequence[float]) -> None:
        for (stacked, own), gradient in zip(self._parameters, gradients, strict=True):
            slices = [None] * len(own) if gradient is None else laid_out_as(stacked, gradient).unbind()
            for parameter, each in zip(own, slices, strict=True):
                parameter.grad = each
        for optimizer, step, rate in zip(self._optimizers, self._steps, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
            step()
        if any(weights.data_ptr() != place for weights, place in self._places):
            raise RuntimeError(f"{type(self._optimizers[-1]).__name__} puts other tensors in the place of weights")


class Vectors:
    """Takes the steps of all trials' stochastic gradient descent at once; their optimizers hold the momentum."""

    def __init__(self, optimizers: Sequence[Optimizer], parameters: Parameters) -> None:
        self._groups = [optimizer.param_groups[0] for optimizer in optimizers]
        self._weights = [stacked for stacked, _ in parameters]
        self._decay, self._momentum = (self._vector(name) for name in ("weight_decay", "momentum"))
        self._buffers = [] if self._momentum is None else [_buffer(optimizers, *each) for each in parameters]

    @torch.no_grad()
    def __call__(self, gradients: Gradients, rates: Sequence[float]) -> None:
        for group, rate in zip(self._groups, rates, strict=True):
            group["lr"] = rate
        lr = self._vector("lr")
        for i, (weights, gradient) in enumerate(zip(self._weights, gradients, strict=True)):
            if gradient is None:
                continue
            shape = (-1, *(1,) * (weights.ndim - 1))
            if self._decay is not None:
                gradient = torch.addcmul(gradient, weights, self._decay.view(shape))
            if self._momentum is not None:
                gradient = self._buffers[i].mul_(self._momentum.view(shape)).add_(gradient)
            if lr is not None:
                weights.addcmul_(gradient, lr.view(shape), value=-1)

    def _vector(self, name: str) -> Tensor | None:
        """Return a setting of all trials (k,), None where it is 0 in each."""
        values = [group[name] for group in self._groups]
        if not any(values):
            return None
        weights = self._weights[0]
        vector = torch.tensor(values, dtype=weights.dtype, pin_memory=weights.is_cuda)
        return vector.to(weights.device, non_blocking=True)


def laid_out_as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Return a gradient with its parameter's strides: fused optimizers go by the order in memory."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter, memory_format=torch.preserve_format).copy_(gradient)


def _plain(optimizer: Optimizer, parameters: Parameters) -> bool:
    """Whether an optimizer is SGD as `Vectors` takes it, of all weights."""
    special = ("nesterov", "dampening", "maximize", "differentiable")
    return (
        type(optimizer) is SGD
        and len(optimizer.param_groups) == 1
        and len(optimizer.param_groups[0]["params"]) == len(parameters)
        and not any(_value(optimizer, name) for name in special)
        and not any(isinstance(_value(optimizer, name), Tensor) for name in ("lr", "momentum", "weight_decay"))
    )


def _value(optimizer: Optimizer, name: str) -> Any:
    return optimizer.param_groups[0][name]


def _buffer(optimizers: Sequence[Optimizer], stacked: nn.Parameter, own: Sequence[Tensor]) -> Tensor:
    """Return the momentum of all trials for a parameter, of which that in their optimizers becomes a view."""
    buffer = torch.zeros_like(stacked, memory_format=torch.preserve_format, requires_grad=False)
    for optimizer, parameter, view in zip(optimizers, own, buffer, strict=True):
        if _value(optimizer, "momentum"):
            state = optimizer.state[parameter]
            if state.get("momentum_buffer") is not None:
                view.copy_(state["momentum_buffer"])
            state["momentum_buffer"] = view
    return buffer
