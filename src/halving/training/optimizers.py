"""The optimizer that *Dive into Deep Learning* writes out; `conf/optimizer` takes all others from `torch.optim`."""

import math
from collections.abc import Callable
from typing import overload

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from halving.errors import UserError


class SGDFromScratch(Optimizer):
    """Minibatch stochastic gradient descent: w <- w - lr * g, with g the mean gradient of the minibatch.

    D2L, chapter "Minibatch Stochastic Gradient Descent": `lr` is its eta. No momentum, no weight decay, no state.
    Parameters without a gradient stay as they are.

    Raises UserError for an `lr` that is negative or not finite.
    """

    def __init__(self, params: ParamsT, lr: float = 0.1) -> None:
        if not (math.isfinite(lr) and lr >= 0):
            raise UserError(f"optimizer.lr={lr!r} must be a finite number, at least 0")
        super().__init__(params, {"lr": lr})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter once; a `closure` computes loss and gradients first, and its loss is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.add_(parameter.grad, alpha=-group["lr"])
        return loss
