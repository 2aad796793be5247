"""torch's optimizers without its compiler, whose import takes a process a second and which nothing here runs."""

from collections.abc import Callable
from functools import partial
from inspect import unwrap
from typing import Any

import torch
from torch.optim import Optimizer

for _method in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
    # These are called through the compiler, to be kept out of what it compiles, unless they say that they already are.
    _plain = unwrap(getattr(Optimizer, _method))
    _plain.__dict__.setdefault("__dynamo_disable", _plain)


def step_of(optimizer: Optimizer) -> Callable[[], Any]:
    """Return what takes a step of an optimizer: of one of torch's its own code, without what wraps it for the compiler.

    Hooks on steps are part of that wrapping, and there are none on an optimizer that a trial has just built.
    """
    kind = type(optimizer)
    if not kind.__module__.startswith("torch.optim."):
        return optimizer.step
    return partial(_stepped, optimizer, unwrap(kind.step), bool(optimizer.defaults.get("differentiable")))


def _stepped(optimizer: Optimizer, step: Callable[[Optimizer], Any], differentiable: bool) -> None:
    with torch.set_grad_enabled(differentiable):
        try:
            step(optimizer)
        except RuntimeError as error:  # Adagrad is fused on CPUs alone before torch 2.13
            if "`fused=True` requires" not in str(error):
                raise
            for group in optimizer.param_groups:
                group["fused"] = False
            step(optimizer)
