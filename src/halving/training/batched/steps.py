"""A step of many trials' optimizers."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from halving.training.eager import is_torchs, step_of

Gradients = Sequence[Tensor | None]
Parameters = Sequence[tuple[nn.Parameter, Sequence[Tensor]]]


class Step(Protocol):
    """What takes a step of all, at the rates that it was told before; `recordable` where it is of the device alone."""

    recordable: bool

    def at(self, rates: Sequence[float]) -> None:
        """Take the next step at these learning rates."""
        ...

    def __call__(self, gradients: Gradients) -> None:
        """Take a step by the gradients of stacked parameters."""
        ...


# Weights of a trial that stay in the cache, where several passes over those of all cost less than one call for each.
LIGHT = 20_000


def stepping(optimizers: Sequence[Optimizer], parameters: Parameters) -> Step:
    """Return what takes a step of all optimizers."""
    if all(_plain(optimizer, parameters) for optimizer in optimizers):
        moves = any(_value(optimizer, "momentum") or _value(optimizer, "weight_decay") for optimizer in optimizers)
        size = sum(stacked[0].numel() for stacked, _ in parameters)
        if size <= LIGHT or not moves or parameters[0][0].is_cuda:
            return Vectors(optimizers, parameters)
    return Each(optimizers, parameters)


class Each:
    """Lets each optimizer take its own step, on its trial's slices."""

    recordable = False

    def __init__(self, optimizers: Sequence[Optimizer], parameters: Parameters) -> None:
        self._optimizers, self._parameters = optimizers, parameters
        self._steps = [step_of(optimizer) for optimizer in optimizers]
        self._keeps = [not is_torchs(optimizer) for optimizer in optimizers]  # gradients, for all that is known
        self._places = [(own[-1], own[-1].data_ptr()) for _, own in parameters]

    def at(self, rates: Sequence[float]) -> None:
        for optimizer, rate in zip(self._optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate

    def __call__(self, gradients: Gradients) -> None:
        for (stacked, own), gradient in zip(self._parameters, gradients, strict=True):
            slices = [None] * len(own) if gradient is None else laid_out_as(stacked, gradient).unbind()
            for parameter, each, keeps in zip(own, slices, self._keeps, strict=True):
                parameter.grad = each.clone() if keeps and each is not None else each
        for step in self._steps:
            step()
        if any(weights.data_ptr() != place for weights, place in self._places):
            raise RuntimeError(f"{type(self._optimizers[-1]).__name__} puts other tensors in the place of weights")


class Vectors:
    """Takes the steps of all trials' stochastic gradient descent at once; their optimizers hold the momentum."""

    recordable = True

    def __init__(self, optimizers: Sequence[Optimizer], parameters: Parameters) -> None:
        self._groups = [optimizer.param_groups[0] for optimizer in optimizers]
        self._weights = [stacked for stacked, _ in parameters]
        self._lr = self._vector("lr").to(self._weights[0].device)
        self._decay, self._momentum = (self._moving(name) for name in ("weight_decay", "momentum"))
        self._buffers = [] if self._momentum is None else [_buffer(optimizers, *each) for each in parameters]

    def at(self, rates: Sequence[float]) -> None:
        for group, rate in zip(self._groups, rates, strict=True):
            group["lr"] = rate
        self._lr.copy_(self._vector("lr"), non_blocking=True)

    @torch.no_grad()
    def __call__(self, gradients: Gradients) -> None:
        for i, (weights, gradient) in enumerate(zip(self._weights, gradients, strict=True)):
            if gradient is None:
                continue
            shape = (-1, *(1,) * (weights.ndim - 1))
            if self._decay is not None:
                gradient = torch.addcmul(gradient, weights, self._decay.view(shape))
            if self._momentum is not None:
                gradient = self._buffers[i].mul_(self._momentum.view(shape)).add_(gradient)
            weights.addcmul_(gradient, self._lr.view(shape), value=-1)

    def _moving(self, name: str) -> Tensor | None:
        """Return a setting of all trials (k,), None where it is 0 in each."""
        vector = self._vector(name)
        return vector.to(self._weights[0].device) if vector.any() else None

    def _vector(self, name: str) -> Tensor:
        """Return a setting of all trials (k,), on the CPU."""
        weights = self._weights[0]
        return torch.tensor([group[name] for group in self._groups], dtype=weights.dtype, pin_memory=weights.is_cuda)


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
        and is_torchs(optimizer)
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
