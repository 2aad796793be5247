"""The state of a study, as a fold over its events: what journal, trackers, reports and the tuner all read."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from halving.fields import Checkpoint, Count, Only, Private, Words
from halving.provenance import Provenance
from halving.trial import Configuration, Epoch, Finished, Restarted, Resume, Start, Verdict

# What a confirmation may draw anew, by the root keys of its seeds.
VARIED = {
    "init": ("trial",),
    "order": ("trial", "order_seed"),
    "split": ("trial", "order_seed", "seed"),
}
Vary = Annotated[str, Only(lambda value: value in ("", *VARIED), "a newer halving wrote")]
INTERRUPTED = "interrupted"  # why a study halted, if a signal or the end of its process did it


def amount(n: float) -> str:
    """Say how much, whole numbers whole."""
    return str(int(n)) if float(n).is_integer() else f"{n:g}"


def count(n: float, nouns: str) -> str:
    """Say how many, in the singular where it is one."""
    return f"{amount(n)} {nouns.removesuffix('s') if n == 1 else nouns}"


@dataclass(frozen=True, slots=True)
class Ladder:
    """The levels of resource of one bracket and how many trials reach each, as far as is known beforehand."""

    levels: tuple[int, ...]
    sizes: tuple[int, ...]


def planned_cost(plan: tuple[Ladder, ...], cost: Callable[[int, int], float]) -> float | None:
    """Return what climbing all of a plan's ladders spends, or None where it is not known beforehand."""
    if not plan or any(len(ladder.sizes) < len(ladder.levels) for ladder in plan):
        return None
    steps = (
        size * cost(since, until)
        for ladder in plan
        for since, until, size in zip((0, *ladder.levels), ladder.levels, ladder.sizes, strict=False)
    )
    return sum(steps)


@dataclass(frozen=True, slots=True)
class Header:
    """What is known before the first trial.

    `unit` names one unit of resource; `full_cost` is what training one trial to r_max costs in these units;
    `planned_cost` is what all of the study will cost, where that is known. `metric` is minimised, or maximised and
    then recorded with its sign flipped. `settings` is JSON for the edges, which `provenance` reads.
    `resumes` says whether a rung costs what it adds to the one below, or all of it anew; studies before 0.8 do not say.
    """

    name: str
    scheduler: str
    searcher: str
    seed: int
    r_max: int
    unit: str = "epochs"
    metric: str = "error"
    maximize: bool = False
    full_cost: float = 0.0
    planned_cost: float | None = None
    dimensions: tuple[str, ...] = ()
    plan: tuple[Ladder, ...] = ()
    settings: Private = field(default_factory=dict[str, Any], repr=False)
    resumes: bool | None = None

    @property
    def provenance(self) -> Provenance:
        return Provenance.of(self.settings)

    @property
    def single(self) -> bool:
        """Whether one trial is trained as it stands: nothing is searched."""
        return self.scheduler == "single"

    @property
    def sign(self) -> int:
        """What turns an error, which is minimised, into the metric as people see it."""
        return -1 if self.maximize else 1


@dataclass(frozen=True, slots=True)
class Halted:
    """No new assignments from here on, although the scheduler had more: a budget was reached or a signal came."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The study's close: its winner, the winner's resolved configuration, test metrics and retraining command.

    `failure` says which of these are missing, and why: resuming the study tries again.
    """

    best: Count | None
    test: Mapping[str, float] = field(default_factory=dict[str, float])
    command: Words = ""
    config: Private = field(default_factory=dict[str, Any], repr=False)
    failure: Words = ""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The study goes on in a new process: what of its header has changed with that."""

    plan: tuple[Ladder, ...] = ()
    planned_cost: float | None = None
    settings: Private = field(default_factory=dict[str, Any], repr=False)


@dataclass(frozen=True, slots=True)
class Confirm:
    """Train a trial's configuration from nothing to `until`; each `repeat`, from 1, draws anew what `vary` names."""

    number: Count
    trial: Count
    repeat: Count
    until: Count
    vary: Vary


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A confirmation ended: its error, minimised and +inf where it failed, and what else `Finished` tells."""

    number: Count
    error: float
    seconds: float = 0.0
    cost: float = 0.0
    checkpoint: Checkpoint | None = None
    cause: Words = ""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The trial with the best mean over its confirmations of one kind, by `vary` and `until`; None where all failed.

    `tests` are the test metrics of each of its confirmations, by repeat, and `ensemble` those of their mean prediction.
    `failure` says what of these is missing, and why: resuming the study tries again.
    """

    trial: Count | None
    tests: Mapping[str, Mapping[str, float]] = field(default_factory=dict[str, Mapping[str, float]])
    ensemble: Mapping[str, float] = field(default_factory=dict[str, float])
    failure: Words = ""
    vary: Vary = ""
    until: Count = 0


Event = (
    Header
    | Resumed
    | Start
    | Resume
    | Epoch
    | Restarted
    | Finished
    | Verdict
    | Halted
    | Confirm
    | Confirmed
    | Chosen
    | Ended
)


@dataclass
class Evaluation:
    """One assignment of a trial and, once it has finished, what it came to. Times are seconds since the start.

    `restarts` says why it had to begin again, each time that it had to, and `restarted` when; `heard` is when each of
    its `epochs` had ended, and `spent` what the whole study had spent once it had finished.
    """

    rung: int
    since: int
    until: int
    started: float
    reason: str
    epochs: list[Epoch] = field(default_factory=list[Epoch])
    restarts: list[str] = field(default_factory=list[str])
    finished: Finished | None = None
    ended: float = 0.0
    verdict: str = ""
    verdict_reason: str = ""
    restarted: list[float] = field(default_factory=list[float])
    heard: list[float] = field(default_factory=list[float])
    spent: float = 0.0

    def __repr__(self) -> str:
        came_to = "running" if self.finished is None else f"error {self.error:.6g}, {self.verdict or 'finished'}"
        return f"Evaluation({self.since} to {self.until}: {came_to})"

    @property
    def resource(self) -> int:
        return self.until if self.finished is None else self.finished.outcome.resource

    @property
    def error(self) -> float:
        """The error by which it is ranked; +inf while it runs and when it failed."""
        return math.inf if self.finished is None else self.finished.outcome.rank_error


@dataclass
class Trial:
    """All that happened to one trial."""

    trial: int
    configuration: Configuration
    bracket: int
    state: str = "running"
    evaluations: list[Evaluation] = field(default_factory=list[Evaluation])
    sign: int = 1  # -1 where its metric is maximised

    def __repr__(self) -> str:
        ended = (each for each in self.evaluations if each.finished)
        errors = ", ".join(f"{self.sign * each.error:.6g} at {each.resource}" for each in ended)
        return f"Trial({self.trial}, {self.configuration}, {self.state}: {errors or 'no error yet'})"

    @property
    def last(self) -> Evaluation:
        return self.evaluations[-1]

    @property
    def checkpoint(self) -> str | None:
        """The newest checkpoint that an assignment left."""
        for evaluation in reversed(self.evaluations):
            if evaluation.finished is not None and evaluation.finished.checkpoint is not None:
                return evaluation.finished.checkpoint
        return None

    @property
    def epochs(self) -> Iterator[tuple[Evaluation, Epoch]]:
        """The learning curve: every epoch with the assignment it belongs to."""
        return ((evaluation, epoch) for evaluation in self.evaluations for epoch in evaluation.epochs)


@dataclass
class Confirmation:
    """One retraining of a trial with fresh seeds: no trial itself. Times are seconds since the start."""

    asked: Confirm
    started: float
    confirmed: Confirmed | None = None
    ended: float = 0.0


@dataclass
class History:
    """A study so far. `apply` is the only way in.

    `at_work` are the trials that run. `spent` is in units of resource, `improved_at` the number of evaluations at which
    the incumbent last changed. `confirmations`, by their numbers, enter neither these nor the incumbent; `confirming`
    is the seconds they took. `notes` are its researcher's words, each with the moment when it came.
    """

    header: Header | None = None
    trials: dict[int, Trial] = field(default_factory=dict[int, Trial])
    finished: list[tuple[Trial, Evaluation]] = field(default_factory=list[tuple[Trial, Evaluation]])
    at_work: dict[int, Trial] = field(default_factory=dict[int, Trial])
    spent: float = 0.0
    seconds: float = 0.0
    train_seconds: float = 0.0
    incumbents: list[tuple[Trial, Evaluation]] = field(default_factory=list[tuple[Trial, Evaluation]])
    improved_at: int = 0
    halted: str = ""
    ended: Ended | None = None
    confirmations: dict[int, Confirmation] = field(default_factory=dict[int, Confirmation])
    chosen: Chosen | None = None
    confirming: float = 0.0
    notes: dict[str, str] = field(default_factory=dict[str, str])

    def __repr__(self) -> str:
        what = f"{count(len(self.trials), 'trials')}, {count(len(self.finished), 'evaluations')}"
        if (header := self.header) is not None:
            what = f"{header.name}: {header.scheduler} with {header.searcher}, {what}"
            if (best := self.incumbent) is not None:
                error = header.sign * best[1].error
                at = f"after {count(best[1].resource, header.unit)}"
                what += f"; trial {best[0].trial} is best: {header.metric} {error:.6g} {at}"
        return f"History({what})"

    def state(self, trial: Trial) -> str:
        """Say what a trial is doing: what was decided of it, else running, or cut off with the study, or waiting."""
        if trial.state != "running":
            return trial.state
        if trial.last.finished is not None:
            return "paused"
        return INTERRUPTED if self.ended is not None or self.halted == INTERRUPTED else "running"

    def beyond(self, earlier: "History") -> bool:
        """Whether anything has been evaluated, or chosen by confirmations, since this was as an earlier history."""
        return len(self.finished) > len(earlier.finished) or self.chosen != earlier.chosen

    def closed(self) -> "History":
        """Return this study as it is once nobody runs it any more: interrupted, unless it came to its end."""
        return self if self.ended is not None else replace(self, halted=INTERRUPTED)

    @property
    def running(self) -> int:
        """How many trials are being worked on, or were when the study was cut off."""
        return len(self.at_work)

    @property
    def incumbent(self) -> tuple[Trial, Evaluation] | None:
        """The best trial at the highest resource that any trial has reached; the lower id wins a tie."""
        return self.incumbents[-1] if self.incumbents else None

    def apply(self, event: Event, at: float) -> None:
        """Take in the next event, which happened `at` seconds after the study began."""
        before, self.seconds = self.seconds, max(self.seconds, at)
        if isinstance(event, Header | Resumed) and (told := Provenance.of(event.settings)).notes:
            self.notes.setdefault(str(told.notes), str(told.noted))
        if isinstance(event, Confirm | Confirmed | Chosen):  # which nothing of the study itself runs beside
            self.confirming += self.seconds - before
        match event:
            case Header():
                self.header = event
            case Resumed(plan, planned_cost, settings):
                assert self.header is not None
                self.header = replace(
                    self.header, plan=plan, planned_cost=planned_cost, settings={**self.header.settings, **settings}
                )
                self.halted, self.ended = "", None
            case Start(trial, configuration, until, bracket, rung, reason):
                sign = -1 if self.header is not None and self.header.maximize else 1
                self.trials[trial] = Trial(trial, configuration, bracket, sign=sign)
                self._assign(self.trials[trial], Evaluation(rung, 0, until, at, reason))
            case Resume(trial, since, until, rung, reason):
                self.trials[trial].last.verdict = "promoted"
                self.trials[trial].last.verdict_reason = reason
                self._assign(self.trials[trial], Evaluation(rung, since, until, at, reason))
            case Epoch(trial):
                self.trials[trial].last.epochs.append(event)
                self.trials[trial].last.heard.append(at)
            case Restarted(trial, _, reason):
                self.trials[trial].last.restarts.append(reason)
                self.trials[trial].last.restarted.append(at)
            case Finished(outcome):
                self._finish(self.trials[outcome.trial], event, at)
            case Verdict(trial, state, reason):
                self.trials[trial].state = state
                self.trials[trial].last.verdict = state
                self.trials[trial].last.verdict_reason = reason
            case Halted(reason):
                self.halted = reason
            case Confirm(number):
                self.confirmations[number] = Confirmation(event, at)
                self.chosen = None
            case Confirmed(number):
                self.confirmations[number].confirmed, self.confirmations[number].ended = event, at
            case Chosen():
                self.chosen = event
            case Ended():
                self.ended = event

    def _assign(self, trial: Trial, evaluation: Evaluation) -> None:
        trial.state = "running"
        trial.evaluations.append(evaluation)
        self.at_work[trial.trial] = trial
        self.halted, self.ended, self.chosen = "", None, None

    def _finish(self, trial: Trial, event: Finished, at: float) -> None:
        evaluation = trial.last
        evaluation.finished, evaluation.ended = event, at
        self.finished.append((trial, evaluation))
        self.at_work.pop(trial.trial, None)
        self.spent += event.cost
        evaluation.spent = self.spent
        self.train_seconds += event.seconds
        if math.isinf(evaluation.error):
            return
        best = self.incumbent
        if best is None or order(trial, evaluation) < order(*best):
            self.incumbents.append((trial, evaluation))
            self.improved_at = len(self.finished)


def order(trial: Trial, evaluation: Evaluation) -> tuple[int, float, int]:
    """Return by what evaluations are ranked over a study: the highest resource, the least error, the lower trial."""
    return -evaluation.resource, evaluation.error, trial.trial
