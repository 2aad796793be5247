"""The book's multilayer perceptron with dropout."""

import math
from collections.abc import Sequence

from torch import nn

from halving.errors import UserError
from halving.training.dropout import Dropout


class DropoutMLP(nn.Sequential):
    """Two hidden layers with ReLU, each of a width and with a dropout of its own: (b, *shape) -> (b, outputs).

    Raises UserError for a layer without a unit; `Dropout` refuses a bad probability. Source: D2L, chapter "Dropout".
    """

    def __init__(
        self, shape: Sequence[int], outputs: int, width_1: int, width_2: int, dropout_1: float, dropout_2: float
    ) -> None:
        if min(width_1, width_2) < 1:
            raise UserError(f"model.width_1={width_1}, model.width_2={width_2}: give at least 1 unit")
        super().__init__(
            nn.Flatten(),
            nn.Linear(math.prod(shape), width_1),
            nn.ReLU(),
            Dropout(dropout_1),
            nn.Linear(width_1, width_2),
            nn.ReLU(),
            Dropout(dropout_2),
            nn.Linear(width_2, outputs),
        )
