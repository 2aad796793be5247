"""The loop: suggestions become jobs, events become decisions, and the journal has each before it is acted on."""

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from halving.checkpoints import discard, named, sweep
from halving.errors import UserError, real, whole
from halving.executors import Executor
from halving.history import Confirm, Confirmed, Event, Halted, History
from halving.journal import Journal
from halving.schedulers import Scheduler
from halving.tracking.base import Trackers
from halving.trial import Assignment, Done, Epoch, Finished, Job, Restarted, Resume, Start, Step, Verdict, Wait


@dataclass(frozen=True)
class Budget:
    """What ends a study early: whichever is reached first stops new assignments, and running ones finish.

    `evaluations` and `resource` count what was started, in assignments and in units of resource; `seconds` is the
    executor's time; `target` is a metric to reach; `patience` is evaluations without a better incumbent. With `reach`,
    `resource` is the default end of a study that was given none: it waits until a trial goes to that resource, but only
    until `most` is spent, or `resource` on failures alone.
    """

    evaluations: int | None = None
    resource: float | None = None
    seconds: float | None = None
    target: float | None = None
    patience: int | None = None
    reach: int | None = None
    most: float = math.inf

    def __post_init__(self) -> None:
        for name in ("evaluations", "patience", "reach"):
            if (value := getattr(self, name)) is not None:
                whole(f"budget.{name}", value)
        for name in ("resource", "seconds"):
            if (value := getattr(self, name)) is not None:
                real(f"budget.{name}", value, lambda x: 0 < x < math.inf, "must be a number above 0")
        if self.target is not None:  # as Python has it, which can be negated
            target = real("budget.target", self.target, lambda x: not math.isnan(x), "is no number to reach")
            object.__setattr__(self, "target", target)

    def reached(
        self, history: History, committed: float, now: float, sign: int = 1, running: Iterable[Assignment] = ()
    ) -> str:
        """Return what was reached, in words, or nothing.

        `committed` is the cost of what is `running`; `sign` is -1 where the errors are a maximised metric, flipped.
        """
        evaluations = len(history.finished)
        best = history.incumbent
        if self.evaluations is not None and evaluations + history.running >= self.evaluations:
            return f"budget.evaluations={self.evaluations} reached"
        spent = history.spent + committed
        if self.resource is not None and spent >= self.resource:
            if self.reach is None:
                return f"budget.resource={self.resource:g} reached"
            failing = best is None and history.spent >= self.resource
            far = max([0 if best is None else best[1].resource, *(each.until for each in running)])
            if failing or far >= self.reach:
                return f"the default budget.resource={self.resource:g} reached"
            if spent >= self.most:
                return f"the default budget.resource={self.most:g} reached, and no trial has reached {self.reach}"
        if self.seconds is not None and now - history.confirming >= self.seconds:
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
        cost: Callable[[int, int], float],
        journal: Journal | None = None,
        trackers: Trackers | None = None,
        budget: Budget | None = None,
        maximize: bool = False,
        root: Path | None = None,
        clean: Callable[[Event], Event] | None = None,
    ) -> None:
        self.history = History()
        self.stop = ""
        self._scheduler = scheduler
        self._executor = executor
        self._cost = cost
        self._journal = journal
        self._trackers = trackers or Trackers(())
        self._budget = budget or Budget()
        self._sign = -1 if maximize else 1
        self._root = root
        self._clean = clean
        self._running: dict[int, Assignment] = {}
        self._interrupted: deque[Assignment] = deque()
        self._committed = 0.0
        self._before = -executor.now()  # what was built before the study begins is not its time
        self._obsolete: dict[int, tuple[int, ...]] = {}

    def rederive(self, events: Iterable[tuple[Event, float]]) -> None:
        """Take in an earlier process's events: decisions are taken anew and must come out the same.

        What ran when that process ended will be handed out again first, and verdicts that it could no longer write
        are recorded. Raises UserError where a decision differs.
        """
        due: deque[Verdict] = deque()
        for event, at in events:
            self.history.apply(event, at)
            match event:
                case Start() | Resume():
                    _insist(event, self._scheduler.suggest(), due)
                    self._running[event.trial] = event
                case Finished(outcome):
                    del self._running[outcome.trial]
                    due.extend(self._scheduler.update(outcome))
                case Verdict():
                    _insist(event, due.popleft() if due else None, ())
                case _:
                    pass
        self._before += self.history.seconds
        self._interrupted.extend(self._running.values())
        self._committed = sum(map(self._cost_of, self._interrupted))
        for verdict in due:
            self.record(verdict)
        self.tidy()

    def run(self) -> None:
        """Run to the end. Raises RuntimeError if the scheduler waits although nothing runs."""
        while not self.stop and self.hand_out():
            self.listen()
        if self.stop:
            for event in self._executor.stop():
                self._take_in(event)
            self.record(Halted(self.stop))
        self.tidy()

    def tidy(self) -> None:
        """Make the journal durable, and delete the checkpoints that nobody needs any more."""
        self.sync()
        if self._root is not None:
            sweep(self._root, self.history)

    def hand_out(self) -> bool:
        """Hand out jobs while there is room; return whether the study goes on.

        Raises RuntimeError if the scheduler waits although nothing runs.
        """
        done = self._assign()
        self.sync()
        if self._executor.idle() and not done:
            raise RuntimeError("the scheduler waits, but nothing runs that it could wait for")
        return not self._executor.idle()

    def listen(self) -> None:
        """Take in what happens until a decision may be due."""
        for event in self._executor.wait():
            if self.stop and isinstance(event, Finished) and event.outcome.failed:
                break  # of the signal, perhaps, which what a trial had started got as well: it is run again later
            self._take_in(event)
            if self.stop:
                break

    def confirm(self, due: Iterable[Confirm], job: Callable[[Confirm], Job]) -> None:
        """Train trials of a study that has come to its end again, unless `stop` says why that should end now."""
        waiting = deque(due)
        while not self.stop and (waiting or not self._executor.idle()):
            while waiting and self._executor.has_room():
                asked = waiting.popleft()
                if asked.number not in self.history.confirmations:
                    self.record(asked)
                    self.sync()
                self._executor.submit(job(asked))
            for step in self._executor.wait():
                if self.stop and isinstance(step, Finished) and step.outcome.failed:
                    break
                self._take_in_confirmed(step)
                if self.stop:
                    break
        if self.stop:
            for step in self._executor.stop():
                self._take_in_confirmed(step)
            self.record(Halted(self.stop))
        self.sync()

    def record(self, event: Event) -> None:
        """Tell journal, history and trackers of an event."""
        at = round(self._now(), 6)
        event = self._clean(event) if self._clean is not None else event
        if self._journal is not None:
            self._journal.append(event, at)
        self.history.apply(event, at)
        self._trackers.record(event, at)

    def _now(self) -> float:
        """Return the seconds that the study has run, in this process and in those before."""
        return self._before + self._executor.now()

    def _assign(self) -> bool:
        """Hand out jobs while there is room; return whether nothing is left to hand out."""
        while self._executor.has_room():
            if self._interrupted:
                self._executor.submit(self._job(self._interrupted.popleft()))
                continue
            if reason := self._budget.reached(
                self.history, self._committed, self._now(), self._sign, self._running.values()
            ):
                if not self.history.halted:
                    self.record(Halted(reason))
                return True
            match self._scheduler.suggest():
                case Done():
                    return True
                case Wait():
                    return False
                case assignment:
                    if wrong := self._wrong(assignment):
                        raise self._mistake(wrong)
                    self.record(assignment)
                    self.sync()
                    self._running[assignment.trial] = assignment
                    self._committed += self._cost_of(assignment)
                    self._executor.submit(self._job(assignment))
        return False

    def _take_in(self, event: Step) -> None:
        match event:
            case Epoch(trial, epoch):
                # What is trained again after an interruption comes out the same: it is already known.
                if (known := self.history.trials[trial].last.epochs) and epoch <= known[-1].epoch:
                    return
                self._write(event)
            case Restarted():
                self._write(event)
            case Finished():
                self._finish(event)

    def _wrong(self, answer: Any) -> str:
        """Say why a scheduler's answer cannot be carried out, or nothing."""
        if not isinstance(answer, Start | Resume):
            return f"suggests {answer!r}"
        if answer.trial in self._running:
            return f"suggests trial {answer.trial}, which is running"
        if isinstance(answer, Start) == (answer.trial in self.history.trials):
            return f"{'starts' if isinstance(answer, Start) else 'resumes'} trial {answer.trial}, which has " + (
                "been started" if isinstance(answer, Start) else "not been started"
            )
        return ""

    def _mistake(self, what: str) -> UserError:
        kind = type(self._scheduler)
        name = "<module>" if kind.__module__ == "__main__" else kind.__module__
        tries = f"python -m halving.conformance {name}:{kind.__qualname__} tries it"
        return UserError(f"the scheduler {kind.__name__} {what}; {tries}")

    def _finish(self, event: Finished) -> None:
        outcome = event.outcome
        if self._sign < 0:
            outcome = replace(outcome, error=-outcome.error, curve=tuple(-error for error in outcome.curve))
        assignment = self._running.pop(outcome.trial)
        self._committed -= self._cost_of(assignment)
        since = _since(assignment)
        previous = self.history.incumbent
        # What fails at once still costs a unit: a study of failures must reach its budget.
        reached = max(outcome.resource, since + 1) if outcome.failed else max(outcome.resource, since)
        self.record(replace(event, outcome=outcome, cost=self._cost(since, reached)))
        self._obsolete[outcome.trial] = named(self.history.trials[outcome.trial])
        answer = self._scheduler.update(outcome)
        if not isinstance(cast(object, answer), Iterable):
            raise self._mistake(f"answers {answer!r} to an outcome, where verdicts are due")
        verdicts = list(answer)
        for verdict in verdicts:
            self.record(verdict)
        ended = {verdict.trial for verdict in verdicts if verdict.state != "paused"}
        if previous is not None and previous[0].state not in ("running", "paused"):
            ended.add(previous[0].trial)
        # The incumbent's checkpoint stays: it may be the winner's.
        best = self.history.incumbent
        self._obsolete.update((trial, ()) for trial in ended if best is None or trial != best[0].trial)

    def _take_in_confirmed(self, step: Step) -> None:
        match step:
            case Finished(outcome, seconds, checkpoint, cause):
                error = math.inf if math.isinf(outcome.rank_error) else self._sign * outcome.error
                cost = self._cost(0, max(outcome.resource, 1))
                self.record(Confirmed(-outcome.trial, error, seconds, cost, checkpoint, cause))
                self.sync()
            case _:
                pass  # its epochs are nobody's curve

    def _write(self, event: Event) -> None:
        self.record(event)
        if self._journal is not None:
            self._journal.flush()

    def sync(self) -> None:
        """Make the journal durable; only then may checkpoints go that it no longer needs."""
        if self._journal is not None:
            self._journal.sync()
        if self._root is not None:
            for trial, kept in self._obsolete.items():
                discard(self._root, trial, kept)
        self._obsolete.clear()

    def _job(self, assignment: Assignment) -> Job:
        configuration = self.history.trials[assignment.trial].configuration
        return Job(assignment.trial, configuration, _since(assignment), assignment.until)

    def _cost_of(self, assignment: Assignment) -> float:
        return self._cost(_since(assignment), assignment.until)


def _since(assignment: Assignment) -> int:
    return 0 if isinstance(assignment, Start) else assignment.since


def _insist(recorded: Event, derived: object, due: Iterable[Verdict]) -> None:
    """Refuse a journal that says other than what was derived, or leaves out verdicts that were due before."""
    for verdict in due:
        derived = verdict
    if recorded != derived:
        raise UserError(
            "resume: the journal does not follow from its configuration, so that the study cannot go on as it was: "
            f"it records {recorded}, where {derived} comes out now; resume with the version of halving and of your "
            "own scheduler that it was begun with. (One that gave up its paused trials at max_trials, as asha does, "
            "cannot take them back: begin it with a budget instead, which can be raised)"
        )
