"""Multilayer perceptron."""

import math
from collections.abc import Sequence

from torch import nn

from halving.errors import UserError, did_you_mean
from halving.training.dropout import Dropout

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU, "silu": nn.SiLU}


class MLP(nn.Sequential):
    """`depth` hidden layers of `width` units, each followed by `activation` and dropout: (b, *shape) -> (b, outputs).

    Raises UserError for an unknown activation, a width below 1 or a depth below 0; `Dropout` refuses a bad probability.
    Source: D2L, chapter "Multilayer Perceptrons".
    """

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        width: int = 256,
        depth: int = 1,
        dropout: float = 0.0,
        activation: str = "relu",
    ) -> None:
        if activation not in ACTIVATIONS:
            raise UserError(f"model.activation={activation}: unknown{did_you_mean(activation, ACTIVATIONS)}")
        if width < 1 or depth < 0:
            raise UserError(f"model.width={width}, model.depth={depth}: give at least 1 unit and at least 0 layers")
        layers: list[nn.Module] = [nn.Flatten()]
        units = math.prod(shape)
        for _ in range(depth):
            layers += [nn.Linear(units, width), ACTIVATIONS[activation]()]
            if dropout:
                layers.append(Dropout(dropout))
            units = width
        super().__init__(*layers, nn.Linear(units, outputs))
