"""Schedulers allocate resource to trials: pure state machines, one rule a file."""

from halving.schedulers.asha import ASHA
from halving.schedulers.async_hyperband import AsyncHyperband
from halving.schedulers.base import Scheduler
from halving.schedulers.bracket import Bracket
from halving.schedulers.concordant_asha import ConcordantASHA
from halving.schedulers.curve import Curve
from halving.schedulers.fifo import FIFO
from halving.schedulers.hyperband import Hyperband
from halving.schedulers.median import Median
from halving.schedulers.one_epoch import OneEpoch
from halving.schedulers.pasha import PASHA
from halving.schedulers.successive_halving import SuccessiveHalving

__all__ = [
    "ASHA",
    "FIFO",
    "PASHA",
    "AsyncHyperband",
    "Bracket",
    "ConcordantASHA",
    "Curve",
    "Hyperband",
    "Median",
    "OneEpoch",
    "Scheduler",
    "SuccessiveHalving",
]
