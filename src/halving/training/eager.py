"""torch's optimizers without its compiler, whose import takes a process a second and which nothing here runs."""

from collections.abc import Callable
from functools import partial
from inspect import unwrap
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

for _method in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
    # These are called through the compiler, to be kept out of what it compiles, unless they say that they already are.
    _plain = unwrap(getattr(Optimizer, _method))
    _plain.__dict__.setdefault("__dynamo_disable", _plain)


def step_of(optimizer: Optimizer) -> Callable[[], Any]:
    """Return what takes a step of an optimizer, of one of torch's without what wraps it for the compiler."""
    if not is_torchs(optimizer):
        return optimizer.step
    differentiable = bool(optimizer.defaults.get("differentiable"))
    return partial(_stepped, optimizer, unwrap(type(optimizer).step), differentiable)


def is_torchs(own: Optimizer) -> bool:
    """Whether an optimizer's step is that of one of torch's, without hooks, which are part of what wraps it."""
    hooks = (own._optimizer_step_pre_hooks, own._optimizer_step_post_hooks)
    of_all = (_global_optimizer_pre_hooks, _global_optimizer_post_hooks)
    return type(own).__module__.startswith("torch.optim.") and not any((*hooks, *of_all)) and "step" not in vars(own)


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
