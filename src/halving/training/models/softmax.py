"""Softmax regression."""

import math
from collections.abc import Sequence

from torch import nn


class Softmax(nn.Sequential):
    """One linear layer from the flattened input (b, *shape) to logits (b, outputs).

    The softmax itself is in the loss; on numeric targets this is linear regression. Source: D2L, chapter "Linear Neural
    Networks for Classification".
    """

    def __init__(self, shape: Sequence[int], outputs: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(math.prod(shape), outputs))
