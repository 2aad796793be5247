"""Activations that take the place of what a layer gave them, which nobody else needs.

Of many trials, an image's activations are more than a cache holds: each pass over them that is saved counts.
"""

from typing import Any

import torch
from torch import Tensor, nn

from halving.training.batched.modules import BatchNorm, Conv2d, Linear
from halving.training.models.lenet import AveragePool


class Sigmoid(nn.Module):
    """The sigmoid, in place."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.sigmoid_()


class SigmoidAveragePool(nn.Module):
    """The sigmoid in place, then the mean over 2 x 2 windows: images (b, c, h, w) -> (b, c, h // 2, w // 2)."""

    def forward(self, inputs: Tensor) -> Tensor:
        return _Pooled.apply(inputs)  # pyright: ignore[reportReturnType]


class _Pooled(torch.autograd.Function):
    """Whose gradients take the place of its activations: a window shares one before it is multiplied out."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        activated = inputs.detach().sigmoid_()
        ctx.save_for_backward(activated)
        return AveragePool()(activated)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (activated,), (gradient,) = ctx.saved_tensors, grad_outputs
        height, width = gradient.shape[2:]
        activated[:, :, 2 * height :] = 0.0
        activated[:, :, :, 2 * width :] = 0.0
        windows = activated[:, :, : 2 * height, : 2 * width].unflatten(3, (width, 2)).unflatten(2, (height, 2))
        shared = (gradient.contiguous(memory_format=torch.channels_last) * 0.25)[:, :, :, None, :, None]
        torch.ops.aten.sigmoid_backward(shared.expand_as(windows), windows, grad_input=windows)
        return activated


def fuse(model: nn.Module) -> None:
    """Replace the activations of `model` that follow a layer with weights in a plain sequence."""
    for chain in model.modules():
        if isinstance(chain, nn.Sequential) and type(chain).forward is nn.Sequential.forward:
            for i in range(1, len(chain)):
                if not isinstance(chain[i - 1], (Linear, Conv2d, BatchNorm)):
                    continue
                after = chain[i + 1] if i + 1 < len(chain) else None
                kind = type(chain[i])  # of a subclass nobody knows what it does
                if kind is nn.Sigmoid and type(after) is AveragePool:
                    chain[i], chain[i + 1] = SigmoidAveragePool(), nn.Identity()
                elif kind is nn.Sigmoid:
                    chain[i] = Sigmoid()
                elif kind is nn.ReLU:
                    chain[i] = nn.ReLU(inplace=True)
