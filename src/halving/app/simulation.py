"""A study on recorded learning curves, in this process, in no time and without a journal."""

from collections.abc import Callable, Mapping
from typing import Any

from halving.app.planned import Planned, check_end, planned
from halving.curves.table import Curves
from halving.executors.simulated import Simulated
from halving.history import Header, History
from halving.schedulers import Scheduler, SuccessiveHalving
from halving.searchers import RandomSearcher, Searcher
from halving.searchers.table import RandomRows, on_table, space_of
from halving.training.fidelities.table import Table
from halving.tuner import Budget


def simulate(
    curves: Curves,
    scheduler: Callable[..., Scheduler] = SuccessiveHalving,
    *,
    searcher: Callable[..., Searcher] = RandomSearcher,
    workers: int = 1,
    seed: int = 0,
    budget: Budget | None = None,
    resumable: bool = True,
    reuse: bool = False,
    executor: Mapping[str, Any] | None = None,
    **options: Any,
) -> History:
    """Run a study on a table: the same tuner, searcher and scheduler as in training, under a virtual clock.

    `scheduler` is a class, called with the searcher and `options` (eta, r_min, r_max, ...); random search draws rows,
    any other `searcher` gets the row nearest to what it proposes. `resumable`, `reuse` and `executor` are the options
    of `Table`, `RandomRows` and `Simulated`. Equal arguments give equal histories.

    Raises UserError for options that cannot be, and for a scheduler without an end where there is no budget.
    """
    fidelity = Table(curves, resumable)
    if searcher is RandomSearcher:
        proposer: Searcher = RandomRows(curves, seed, reuse)
    else:
        space = space_of(curves)
        proposer = on_table(searcher(space, seed=seed), curves, space, seed, reuse)
    allocator = scheduler(proposer, **options)
    check_end(allocator, budget, "simulate")
    header = Header(
        name=str(curves.meta.get("name", "simulated")),
        scheduler=type(allocator).__name__,
        searcher=type(proposer).__name__,
        seed=seed,
        r_max=int(options.get("r_max", curves.resource[-1])),
        unit=curves.unit,
        dimensions=("row", *curves.columns),
    )
    study = Planned(
        planned(header, allocator, fidelity.cost),
        allocator,
        Simulated(fidelity, workers, seed=seed, **(executor or {})),
        fidelity.cost,
        budget,
    )
    tuner = study.tuner()
    tuner.record(study.header)
    tuner.run()
    return tuner.history


def idle_seconds(history: History, workers: int) -> float:
    """Return the worker-seconds without a job before the study handed out its last one."""
    evaluations = [evaluation for trial in history.trials.values() for evaluation in trial.evaluations]
    end = max((evaluation.started for evaluation in evaluations), default=0.0)
    return workers * end - sum(min(evaluation.ended, end) - evaluation.started for evaluation in evaluations)
