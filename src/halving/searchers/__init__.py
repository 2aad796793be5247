"""Searchers propose configurations."""

from halving.searchers.base import Searcher
from halving.searchers.random import RandomSearcher

__all__ = ["RandomSearcher", "Searcher"]
