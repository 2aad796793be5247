"""The loop: suggestions become jobs, events become decisions, and the journal has each before it is acted on."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from halving.errors import UserError
from halving.executors import Executor
from halving.history import Event, Halted, History
from halving.journal import Journal
from halving.schedulers import Scheduler
from halving.tracking.base import Trackers
from halving.trial import Assignment, Done, Epoch, Finished, Job, Start, Wait


@dataclass(frozen=True)
class Budget:
    """What ends a study early: whichever is reached first stops new assignments, and running ones finish.

    `evaluations` and `resource` count what was started, in assignments and in units of resource; `seconds` is the
    executor's time; `target` is a metric to reach; `patience` is evaluations without a better incumbent.
    """

    evaluations: int | None = None
    resource: float | None = None
    seconds: float | None = None
    target: float | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        for name in ("evaluations", "resource", "seconds", "patience"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"budget.{name}={value}: must be more than 0")

    def reached(self, history: History, committed: float, now: float, sign: int = 1) -> str:
        """Return what was reached, in words, or nothing.

        `committed` is the cost of the jobs that run; `sign` is -1 where the errors are a maximised metric, flipped.
        """
        evaluations = len(history.finished)
        best = history.incumbent
        if self.evaluations is not None and evaluations + history.running >= self.evaluations:
            return f"budget.evaluations={self.evaluations} reached"
        if self.resource is not None and history.spent + committed >= self.resource:
            return f"budget.resource={self.resource:g} reached"
        if self.seconds is not None and now >= self.seconds:
            return f"budget.seconds={self.seconds:g} reached"
        if self.target is not None and best is not None and best[1].error <= sign * self.target:
            return f"budget.target={self.target:g} reached"
        if self.patience is not None and best is not None and evaluations - history.improved_at >= self.patience:
            return f"budget.patience={self.patience} reached: no better incumbent for as many evaluations"
        return ""


class Tuner:
    """Runs a study until its scheduler is done, its budget reached, or `stop` says why it should end now.

    `cost(since, until)` is what an assignment spends. `root` is where checkpoint paths begin. With `maximize` the
    metric's sign is flipped here, and only here, so that everything else minimises.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        *,
        history: History,
        cost: Callable[[int, int], float],
        journal: Journal | None = None,
        trackers: Trackers | None = None,
        budget: Budget | None = None,
        maximize: bool = False,
        root: Path | None = None,
    ) -> None:
        self.history = history
        self.stop = ""
        self._scheduler = scheduler
        self._executor = executor
        self._cost = cost
        self._journal = journal
        self._trackers = trackers or Trackers(())
        self._budget = budget or Budget()
        self._sign = -1 if maximize else 1
        self._root = root or Path()
        self._running: dict[int, Assignment] = {}
        self._obsolete: list[str] = []

    def run(self) -> None:
        """Run to the end. Raises RuntimeError if the scheduler waits although nothing runs."""
        while not self.stop:
            done = self._assign()
            self._sync()
            if self._executor.idle():
                if done:
                    break
                raise RuntimeError("the scheduler waits, but nothing runs that it could wait for")
            for event in self._executor.wait():
                self._take_in(event)
                if self.stop:
                    break
        if self.stop:
            self.record(Halted(self.stop))
        self._sync()

    def record(self, event: Event) -> None:
        """Tell journal, history and trackers of an event."""
        at = round(self._executor.now(), 6)
        if self._journal is not None:
            self._journal.append(event, at)
        self.history.apply(event, at)
        self._trackers.record(event, self.history)

    def _assign(self) -> bool:
        """Hand out jobs while there is room; return whether nothing is left to hand out."""
        while self._executor.has_room():
            committed = sum(self._cost_of(assignment) for assignment in self._running.values())
            if reason := self._budget.reached(self.history, committed, self._executor.now(), self._sign):
                if not self.history.halted:
                    self.record(Halted(reason))
                return True
            match self._scheduler.suggest():
                case Done():
                    return True
                case Wait():
                    return False
                case assignment:
                    self.record(assignment)
                    self._sync()
                    self._running[assignment.trial] = assignment
                    self._executor.submit(self._job(assignment))
        return False

    def _take_in(self, event: Epoch | Finished) -> None:
        if isinstance(event, Epoch):
            self.record(event)
            if self._journal is not None:
                self._journal.flush()
            return
        outcome = event.outcome
        if self._sign < 0:
            outcome = replace(outcome, error=-outcome.error, curve=tuple(-error for error in outcome.curve))
        since = self._since(self._running.pop(outcome.trial))
        previous = self.history.incumbent
        replaced = self.history.trials[outcome.trial].checkpoint
        # What fails at once still costs a unit: a study of failures must reach its budget.
        reached = max(outcome.resource, since + 1) if outcome.failed else max(outcome.resource, since)
        self.record(replace(event, outcome=outcome, cost=self._cost(since, reached)))
        if replaced is not None and event.checkpoint not in (None, replaced):
            self._obsolete.append(replaced)
        verdicts = self._scheduler.update(outcome)
        for verdict in verdicts:
            self.record(verdict)
        ended = {verdict.trial for verdict in verdicts if verdict.state != "paused"}
        if previous is not None and previous[0].state not in ("running", "paused"):
            ended.add(previous[0].trial)
        self._forget(ended)

    def _forget(self, ended: set[int]) -> None:
        """Mark the checkpoints of ended trials for deletion, but not the incumbent's."""
        best = self.history.incumbent
        for trial in ended - ({best[0].trial} if best else set()):
            if (checkpoint := self.history.trials[trial].checkpoint) is not None:
                self._obsolete.append(checkpoint)

    def _sync(self) -> None:
        """Make the journal durable; only then may checkpoints go that it no longer needs."""
        if self._journal is not None:
            self._journal.sync()
        for checkpoint in self._obsolete:
            path = self._root / checkpoint
            path.unlink(missing_ok=True)
            if path.parent.is_dir() and not any(path.parent.iterdir()):
                path.parent.rmdir()
        self._obsolete.clear()

    def _job(self, assignment: Assignment) -> Job:
        configuration = self.history.trials[assignment.trial].configuration
        return Job(assignment.trial, configuration, self._since(assignment), assignment.until)

    def _since(self, assignment: Assignment) -> int:
        return 0 if isinstance(assignment, Start) else assignment.since

    def _cost_of(self, assignment: Assignment) -> float:
        return self._cost(self._since(assignment), assignment.until)
