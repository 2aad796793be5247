"""Searchers of a table of recorded curves: what they propose is a row."""

from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halving.curves.table import ROW, Curves, row_of
from halving.errors import UserError, whole
from halving.searchers.base import Searcher, place
from halving.searchers.random import RandomSearcher
from halving.space import Dimension, Space
from halving.trial import Configuration


def space_of(curves: Curves, config: Mapping[str, Any] | None = None) -> Space:
    """Return the space of a table: each column is a list of the values that it has, unless `config` says otherwise.

    Raises UserError where `config` names what is no column.
    """
    space = Space.from_config({**curves.columns, **(config or {})})
    if unknown := [name for name in space.names if name not in curves.columns]:
        columns = ", ".join(curves.columns) or "none"
        raise UserError(f"space.{unknown[0]}: the table has no such column; it has {columns} (space=table reads them)")
    return space


def on_table(searcher: Searcher, curves: Curves, space: Space, seed: int, reuse: bool = False) -> Searcher:
    """Return a searcher of rows in place of one of the table's space; random search becomes a draw of rows."""
    if type(searcher) is RandomSearcher:
        return RandomRows(curves, seed, reuse)
    return NearestRow(searcher, curves, space, reuse)


class RandomRows:
    """Draws rows without replacement; an exhausted table ends the search or, with `reuse`, is drawn from anew.

    The order follows from the seed, so that trial t's row does not depend on who finished first.
    """

    def __init__(self, curves: Curves, seed: int = 0, reuse: bool = False) -> None:
        self._curves = curves
        self._seed = whole("searcher.seed", seed, 0)
        self._reuse = reuse

    def propose(self, trial: int) -> Configuration | None:
        again, place = divmod(trial, len(self._curves))
        if again and not self._reuse:
            return None
        row = _order(self._seed, again, len(self._curves))[place]
        return {ROW: row, **self._curves.configurations[row]}

    def observe(self, trial: int, configuration: Configuration, resource: int, error: float) -> None:
        """Learn nothing."""


class NearestRow:
    """Answers a searcher's proposal with the nearest row that the fewest trials have used, the first of equals.

    Distance is Euclidean in the unit cube; two categories are 1 apart, a lacking one and any other as well, and what
    lacks or is not in the space lies in the middle. The searcher observes the row that was used. Without `reuse` an
    exhausted table ends the search.
    """

    def __init__(self, searcher: Searcher, curves: Curves, space: Space, reuse: bool = False) -> None:
        self._searcher = searcher
        self._curves = curves
        self._space = space
        self._reuse = reuse
        self._categories = np.array([dimension.kind == "categories" for dimension in space.dimensions], dtype=bool)
        self._points = np.array([self._encode(configuration) for configuration in curves.configurations])
        self._used = np.zeros(len(curves), dtype=np.int64)

    def propose(self, trial: int) -> Configuration | None:
        least = self._used.min()
        if least and not self._reuse:
            return None
        proposal = self._searcher.propose(trial)
        if proposal is None:
            return None
        free = np.flatnonzero(self._used == least)
        apart = np.abs(self._points[free] - self._encode(proposal))
        apart[:, self._categories] = apart[:, self._categories] > 0
        row = int(free[np.argmin((apart**2).sum(axis=1))])
        chosen = {ROW: row, **self._curves.configurations[row]}
        self._used[row] += 1
        if (recall := getattr(self._searcher, "recall", None)) is not None:
            recall(trial, _without_row(chosen))  # what it waits for is the row, not its own proposal
        return chosen

    def place(self, trial: int, below: int) -> None:
        place(self._searcher, trial, below)

    def recall(self, trial: int, configuration: Configuration) -> None:
        """Note a row that a recorded trial has used."""
        self._used[row_of(configuration)] += 1
        recall = getattr(self._searcher, "recall", None)
        if recall is None:
            self._searcher.propose(trial)
        else:
            recall(trial, _without_row(configuration))

    def observe(self, trial: int, configuration: Configuration, resource: int, error: float) -> None:
        self._searcher.observe(trial, _without_row(configuration), resource, error)

    def _encode(self, configuration: Configuration) -> NDArray[np.float64]:
        return np.array([_coordinate(each, configuration) for each in self._space.dimensions])


def _coordinate(dimension: Dimension, configuration: Configuration) -> float:
    with suppress(KeyError, ValueError):
        return dimension.encode(configuration[dimension.name])
    return 0.5


def _without_row(configuration: Configuration) -> Configuration:
    return {name: value for name, value in configuration.items() if name != ROW}


@lru_cache(maxsize=64)
def _order(seed: int, again: int, n: int) -> list[int]:
    return np.random.default_rng([seed, again]).permutation(n).tolist()
