"""Many trials as one program, in this process."""

from halving.executors.base import Objective
from halving.executors.pool import Batching, Pool
from halving.executors.serial import Here


class Batched(Pool):
    """Takes up to `batch` jobs at a time, and trains those together that are alike, one group after the other.

    With `patience` a larger group goes before one that has not waited so many seconds yet, and may grow meanwhile. Any
    other executor can go on with what a group leaves, and the other way round. Raises UserError for numbers out of
    range.
    """

    workers = 1

    def __init__(self, objective: Objective, batch: int = 8, patience: float = 0.0) -> None:
        super().__init__(Here(objective), batching=Batching.of(objective, batch, patience))
