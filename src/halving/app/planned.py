"""A study before it runs: what every door makes of its request."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from halving.errors import UserError
from halving.executors import Executor
from halving.history import Event, Header, planned_cost
from halving.journal import Journal
from halving.schedulers import Scheduler
from halving.schedulers.base import is_endless, plan_of
from halving.tracking.base import Trackers
from halving.tuner import Budget, Tuner


@dataclass(frozen=True)
class Planned:
    """What a door has composed of a request: a study, but for its journal and those who watch it.

    `cost(since, until)` is what a job spends. `root` is where checkpoints lie, if there are any. `clean` takes out of
    an event what nobody else may see.
    """

    header: Header
    scheduler: Scheduler
    executor: Executor
    cost: Callable[[int, int], float]
    budget: Budget | None = None
    root: Path | None = None
    clean: Callable[[Event], Event] | None = None

    def tuner(self, journal: Journal | None = None, trackers: Trackers | None = None) -> Tuner:
        return Tuner(
            self.scheduler,
            self.executor,
            cost=self.cost,
            journal=journal,
            trackers=trackers,
            budget=self.budget,
            maximize=self.header.maximize,
            root=self.root,
            clean=self.clean,
        )


def planned(header: Header, scheduler: Scheduler, cost: Callable[[int, int], float]) -> Header:
    """Return a header with what follows from a scheduler and from what a job costs: all that is known of the plan."""
    plan = plan_of(scheduler)
    known = planned_cost(plan, cost)
    return replace(
        header,
        full_cost=cost(0, header.r_max),
        planned_cost=header.planned_cost if known is None else known,
        plan=plan,
        resumes=cost(1, 2) < cost(0, 2),
    )


def check_end(scheduler: Scheduler, budget: Budget | None, door: str) -> None:
    """Raise UserError for a scheduler that would go on for ever, and for a budget that is none."""
    if budget is not None and not isinstance(budget, Budget):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UserError(f"{door}: budget={budget!r}: give a halving.Budget, such as halving.Budget(seconds=600)")
    if is_endless(scheduler) and budget is None:
        raise UserError(f"{door}: {type(scheduler).__name__} has no end of its own; give max_trials=... or a Budget")


def cost_of(resumes: bool) -> Callable[[int, int], float]:
    """Return what a job spends, in units of resource: what it adds where training resumes, else all of it anew."""
    return lambda since, until: until - since * resumes
