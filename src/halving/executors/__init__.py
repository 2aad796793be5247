"""Executors run jobs and say what comes of them."""

from halving.executors.base import Executor, Objective
from halving.executors.serial import Serial

__all__ = ["Executor", "Objective", "Serial"]
