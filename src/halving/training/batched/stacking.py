"""The tensors of many trials, each of which stays a tensor of its own: a view of one with a leading axis of trials."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Stack:
    """Moves tensors of equal shape into one, of which they are views from then on; once each, where they are tied."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.parameters: list[tuple[nn.Parameter, list[Tensor]]] = []
        self._known: dict[int, Tensor] = {}

    def __call__(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return the stacked tensor (k, ...), a parameter where these are parameters."""
        first = tensors[0]
        if id(first) not in self._known:
            stacked = stack(tensors)
            if isinstance(first, nn.Parameter):
                stacked = nn.Parameter(stacked, first.requires_grad)
                if first.requires_grad:
                    self.parameters.append((stacked, list(tensors)))
            self._known[id(first)] = stacked
        return self._known[id(first)]


@torch.no_grad()
def stack(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors (...) as one (k, ...), each of them laid out as before, and let them be views of it."""
    first = tensors[0]
    strides = (first.numel(), *first.stride())
    stacked = torch.empty_strided((len(tensors), *first.shape), strides, dtype=first.dtype, device=first.device)
    for tensor, view in zip(tensors, stacked, strict=True):
        view.copy_(tensor)
        tensor.data = view
    return stacked
