"""Recorded learning curves: tables of them, recording, simulated studies, and which settings would have been best."""

from halving.curves.table import ROW, Curves, load, row_of, save

__all__ = ["ROW", "Curves", "load", "row_of", "save"]
