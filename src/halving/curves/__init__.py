"""Recorded learning curves: tables of them, and how they come about."""

from halving.curves.table import ROW, Curves, load, row_of, save

__all__ = ["ROW", "Curves", "load", "row_of", "save"]
