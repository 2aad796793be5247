"""Methods compared over tasks and seeds: incumbents at any time, ranks, paired tests, regret."""

from halving.comparison.over_time import Band, band, grid, ranks
from halving.comparison.paired import Pair, across, holm, paired, pairs, untested
from halving.comparison.runs import (
    Array,
    Axis,
    Run,
    by_method,
    by_regret,
    by_task,
    common_end,
    curves_of,
    labelled,
    run_of,
    tables,
)

__all__ = [
    "Array",
    "Axis",
    "Band",
    "Pair",
    "Run",
    "across",
    "band",
    "by_method",
    "by_regret",
    "by_task",
    "common_end",
    "curves_of",
    "grid",
    "holm",
    "labelled",
    "paired",
    "pairs",
    "ranks",
    "run_of",
    "tables",
    "untested",
]
