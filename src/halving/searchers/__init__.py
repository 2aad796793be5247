"""Searchers propose configurations."""

from halving.searchers.annealing import AnnealingSearcher
from halving.searchers.base import Searcher
from halving.searchers.bayesian import BayesianSearcher
from halving.searchers.bohb import BOHBSearcher
from halving.searchers.evolution import EvolutionSearcher
from halving.searchers.grid import GridSearcher
from halving.searchers.local import LocalSearcher
from halving.searchers.one_at_a_time import OneAtATimeSearcher
from halving.searchers.optuna import OptunaSearcher
from halving.searchers.prior import PriorSearcher
from halving.searchers.random import RandomSearcher
from halving.searchers.sobol import SobolSearcher

__all__ = [
    "AnnealingSearcher",
    "BOHBSearcher",
    "BayesianSearcher",
    "EvolutionSearcher",
    "GridSearcher",
    "LocalSearcher",
    "OneAtATimeSearcher",
    "OptunaSearcher",
    "PriorSearcher",
    "RandomSearcher",
    "Searcher",
    "SobolSearcher",
]
