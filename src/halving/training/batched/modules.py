"""The layers of many trials at once, each in the place of as many layers of one.

Images are (b, k c, h, w), so that an epoch of k trials is one convolution in groups; vectors are (k, b, f), for one
batched matrix product, or (b, k f) where they are flattened images. What no layer of the trials' own has met yet is
shared: images (b, c, h, w) and vectors (b, f).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from halving.training.batched.stacking import Stack
from halving.training.dropout import Dropout, words

# So many times as many filters as features of a patch are faster as one matrix product than as a convolution.
MANY = 1.9


class Linear(nn.Module):
    """`k` linear layers: shared vectors by one wide matrix product, others by a batched one."""

    def __init__(self, layers: Sequence[nn.Linear], stack: Stack) -> None:
        super().__init__()
        self._features = layers[0].in_features
        self.weight = stack([layer.weight for layer in layers])
        self.bias = None if layers[0].bias is None else stack([layer.bias for layer in layers])

    def forward(self, inputs: Tensor) -> Tensor:
        trials, outputs, features = self.weight.shape
        if inputs.ndim == 2 and inputs.shape[1] == features:
            bias = None if self.bias is None else self.bias.flatten()
            wide = functional.linear(inputs, self.weight.view(trials * outputs, features), bias)
            return wide.view(-1, trials, outputs).transpose(0, 1)
        vectors, weight = as_vectors(inputs, trials), self.weight.transpose(1, 2)
        return torch.bmm(vectors, weight) if self.bias is None else torch.baddbmm(self.bias[:, None], vectors, weight)


class Conv2d(nn.Module):
    """`k` convolutions: of shared images by one with k times the filters, of others by one in k times the groups.

    On a CPU, many filters meet the patches of shared images in one matrix product.
    """

    def __init__(self, layers: Sequence[nn.Conv2d], stack: Stack) -> None:
        super().__init__()
        first = layers[0]
        self._patches = _patches(first, len(layers))
        self._channels, self._groups = first.in_channels, first.groups
        self._how: dict[str, Any] = {"stride": first.stride, "padding": first.padding, "dilation": first.dilation}
        self.weight = stack([layer.weight for layer in layers])
        self.bias = None if first.bias is None else stack([layer.bias for layer in layers if layer.bias is not None])

    def forward(self, inputs: Tensor) -> Tensor:
        trials = len(self.weight)
        shared = inputs.shape[1] == self._channels
        if shared and self._groups > 1:
            inputs, shared = inputs.repeat(1, trials, 1, 1), False
        if shared and self._patches is not None and inputs.device.type == "cpu":
            return self._product(self._patches(inputs))
        groups = 1 if shared else trials * self._groups
        bias = None if self.bias is None else self.bias.flatten()
        return functional.conv2d(inputs, self.weight.flatten(0, 1), bias, groups=groups, **self._how)

    def _product(self, patches: Tensor) -> Tensor:
        """Return the images (b, k o, h, w) of patches (f + 1, b, h, w), the last feature of which is 1."""
        weight = self.weight.flatten(2).flatten(0, 1).t()
        bias = weight.new_zeros(1, weight.shape[1]) if self.bias is None else self.bias.view(1, -1)
        wide = patches.flatten(1).t() @ torch.cat((weight, bias))
        return wide.view(*patches.shape[1:], -1).permute(0, 3, 1, 2)


def _patches(layer: nn.Conv2d, trials: int) -> Callable[[Tensor], Tensor] | None:
    """Return what takes images (b, c, h, w) to the patches (f + 1, b, h', w') that a layer meets, and to a 1 for each.

    None where so many trials have too few filters, or layers that leave something out.
    """
    features = layer.in_channels * math.prod(layer.kernel_size)
    if trials * layer.out_channels < MANY * features or layer.groups > 1 or math.prod(layer.dilation) > 1:
        return None
    (high, wide), (down, across) = layer.kernel_size, layer.stride
    padding = [(wide - 1) // 2, wide // 2, (high - 1) // 2, high // 2] if layer.padding == "same" else [0, 0, 0, 0]
    if not isinstance(layer.padding, str):
        rows, columns = layer.padding
        padding = [columns, columns, rows, rows]

    def patches(images: Tensor) -> Tensor:
        windows = functional.pad(images, padding).unfold(2, high, down).unfold(3, wide, across)
        batch, channels, height, width, *_ = windows.shape
        found = images.new_empty(features + 1, batch, height, width)
        found[:-1].view(channels, high, wide, batch, height, width).copy_(windows.permute(1, 4, 5, 0, 2, 3))
        found[-1] = 1.0
        return found

    return patches


class BatchNorm(nn.Module):
    """`k` batch norms, of images or vectors, as one over k times the channels."""

    def __init__(self, layers: Sequence[nn.BatchNorm1d | nn.BatchNorm2d], stack: Stack) -> None:
        super().__init__()
        first = layers[0]
        self._momentum, self._eps, self._trials = first.momentum, first.eps, len(layers)
        self.weight = stack([layer.weight for layer in layers]) if first.affine else None
        self.bias = stack([layer.bias for layer in layers]) if first.affine else None
        names = ("running_mean", "running_var", "num_batches_tracked") if first.track_running_stats else ()
        self._running = [stack([getattr(layer, name) for layer in layers]) for name in names]

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.ndim == 3:
            flat = inputs.transpose(0, 1).flatten(1)
            return self._normalised(flat).view(-1, self._trials, inputs.shape[2]).transpose(0, 1)
        return self._normalised(inputs)

    def _normalised(self, inputs: Tensor) -> Tensor:
        mean, var = [each.flatten() for each in self._running[:2]] or (None, None)
        if self.training and self._running:
            self._running[2].add_(1)
        weight, bias = (None if each is None else each.flatten() for each in (self.weight, self.bias))
        training = self.training or mean is None
        return functional.batch_norm(inputs, mean, var, weight, bias, training, self._momentum or 0.0, self._eps)


class Masks(nn.Module):
    """`k` dropouts, with the masks that each of them would draw, whatever its probability."""

    def __init__(self, layers: Sequence[Dropout], stack: Stack) -> None:
        super().__init__()
        self._layers = layers
        self._active = any(layer.dropped for layer in layers)
        device = stack.device
        self._drawn: dict[int, Tensor] = {}  # by how many words a mask takes
        self._recorded: list[int] = []
        self._dropped = torch.tensor([layer.dropped for layer in layers], dtype=torch.uint8, device=device)[:, None]
        self._scale = torch.tensor([layer.scale for layer in layers], dtype=torch.float64, device=device)[:, None]

    def forward(self, inputs: Tensor) -> Tensor:
        if not (self.training and self._active):
            return inputs
        trials, each = len(self._layers), inputs.numel() // len(self._layers)
        count = words(each)
        if inputs.is_cuda and torch.cuda.is_current_stream_capturing():
            if count in self._recorded:
                raise RuntimeError("a dropout that draws two masks of a size in one pass")
            self._recorded.append(count)
        else:
            self._draw(count)
        kept = self._drawn[count].view(torch.uint8)[:, :each] >= self._dropped
        masks = kept.to(inputs.dtype).mul_(self._scale.to(inputs.dtype))
        if inputs.ndim == 3:
            return inputs * masks.view(inputs.shape)
        batch, width, *sides = inputs.shape
        masks = masks.view(trials, batch, width // trials, *sides).transpose(0, 1)
        return inputs * masks.reshape(inputs.shape)

    def draw(self) -> None:
        """Draw the masks of the next pass where the pass that was recorded as a CUDA graph reads them."""
        for count in self._recorded:
            self._draw(count)

    def _draw(self, count: int) -> None:
        if count not in self._drawn:
            shape = len(self._layers), count
            self._drawn[count] = torch.empty(shape, dtype=torch.int64, device=self._dropped.device)
        for layer, row in zip(self._layers, self._drawn[count], strict=True):
            if layer.dropped:
                layer.draw(row)


class Flatten(nn.Module):
    """Images to vectors; vectors of several trials stay as they are."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs if inputs.ndim == 3 else inputs.flatten(1)


def as_vectors(inputs: Tensor, trials: int) -> Tensor:
    """Return vectors (b, k f) as (k, b, f)."""
    return inputs if inputs.ndim == 3 else inputs.view(len(inputs), trials, -1).transpose(0, 1)


# By the type of a layer, that of as many.
JOINED: Mapping[type[nn.Module], Callable[[Any, Stack], nn.Module]] = {
    nn.Linear: Linear,
    nn.Conv2d: Conv2d,
    nn.BatchNorm1d: BatchNorm,
    nn.BatchNorm2d: BatchNorm,
    Dropout: Masks,
    nn.Flatten: lambda layers, stack: Flatten(),
}
