"""Executors run jobs and say what comes of them."""

from halving.executors.base import Executor, Objective
from halving.executors.batched import Batched
from halving.executors.process import Process
from halving.executors.serial import Serial
from halving.executors.simulated import Simulated

__all__ = ["Batched", "Executor", "Objective", "Process", "Serial", "Simulated"]
