"""Schedulers allocate resource to trials: pure state machines, one rule a file."""

from halving.schedulers.base import Scheduler
from halving.schedulers.bracket import Bracket
from halving.schedulers.fifo import FIFO
from halving.schedulers.successive_halving import SuccessiveHalving

__all__ = ["FIFO", "Bracket", "Scheduler", "SuccessiveHalving"]
