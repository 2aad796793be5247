"""What a scheduler keeps, checked on all that it decided under one schedule."""

import math
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from halving.errors import UserError
from halving.schedulers import Scheduler
from halving.searchers import Searcher
from halving.tracking.wording import count
from halving.trial import Assignment, Configuration, Done, Outcome, Resume, Start, Verdict, Wait

Make = Callable[[Searcher], Scheduler]

FINAL = ("stopped", "completed", "failed")
# Longer than a bracket of most ladders; an endless scheduler is cut off there, as a budget would.
_LIMIT = 300


class Heard(list[tuple[int, int]]):
    """What the searcher was told last, trials and resources: no part of a scheduler's state, in which it is empty."""

    def __reduce__(self) -> tuple[type["Heard"], tuple[()]]:
        return Heard, ()


@dataclass(frozen=True)
class Schedule:
    """How the world treats a scheduler, drawn from a seed; it is the scheduler's searcher, too.

    `failing` is the share of failures and non-finite errors; `skew` above 1 lets old assignments finish first, below 1
    new ones; `count` is the number of configurations there are (None: no end); `curves` says if outcomes have them.
    """

    seed: int
    workers: int
    failing: float
    skew: float
    count: int | None
    curves: bool
    heard: Heard = field(default_factory=Heard, compare=False, repr=False)

    @classmethod
    def draw(cls, seed: int) -> "Schedule":
        rng = np.random.default_rng([seed, 1])
        workers = (1, 50, 2)[seed] if seed < 3 else int(rng.integers(1, 51) if seed % 2 else rng.integers(1, 9))
        failing = 1.0 if seed == 7 else float(rng.choice([0.0, 0.3, 0.3]))
        count = int(rng.integers(0, 41)) if seed % 2 else None
        return cls(seed, workers, failing, float(rng.choice([0.05, 1.0, 1.0, 20.0])), count, bool(seed % 3))

    def propose(self, trial: int) -> Configuration | None:
        return None if self.count is not None and trial >= self.count else {"x": trial}

    def observe(self, trial: int, configuration: Configuration, resource: int, error: float) -> None:
        if configuration != {"x": trial} or not (math.isfinite(error) or error == math.inf):
            raise ValueError(f"the searcher was told of trial {trial}: {configuration}, error {error}")
        self.heard.append((trial, resource))

    def outcome(self, assignment: Assignment) -> Outcome:
        """What an assignment comes to: coarse errors, so that ties are common; a good one's curve may hold a NaN."""
        trial, until = assignment.trial, assignment.until
        since = min(assignment.since if isinstance(assignment, Resume) else 0, until)
        rng = np.random.default_rng([self.seed, trial, until])
        match int(rng.integers(3)) if rng.random() < self.failing else None:
            case 0:
                return Outcome(trial, int(rng.integers(since, until + 1)), math.nan, failed=True)
            case 1:
                return Outcome(trial, until, math.nan, curve=(math.nan,) * (until - since))
            case 2:
                return Outcome(trial, until, math.inf)
            case _:
                quality = float(np.random.default_rng([self.seed, trial]).random())
                errors = [round(quality + rng.random() / r, 1) for r in range(since + 1, until + 1)]
                if rng.random() < self.failing / 3 and len(errors) > 1:
                    errors[0] = math.nan
                return Outcome(trial, until, errors[-1], curve=tuple(errors) if self.curves else ())

    def __str__(self) -> str:
        space = "" if self.count is None else f", {count(self.count, 'configurations')}"
        return f"{count(self.workers, 'workers')}, {self.failing:.0%} failing{space}, schedule {self.seed}"


@dataclass(frozen=True)
class Told:
    """An outcome and the verdicts on it."""

    outcome: Outcome
    verdicts: tuple[Verdict, ...]


@dataclass
class Story:
    """All that a scheduler decided under one schedule, and how it ended: `fault` says what is wrong with that.

    `make` builds another such scheduler; no trial may go beyond `r_max`.
    """

    make: Make
    r_max: float
    schedule: Schedule
    decisions: list[Start | Resume | Told] = field(default_factory=list[Start | Resume | Told])
    fault: str = ""
    finished: bool = False
    changed: str = ""
    unheard: str = ""
    state: bytes = b""

    @property
    def seed(self) -> int:
        return self.schedule.seed

    @property
    def assignments(self) -> list[Assignment]:
        return [step for step in self.decisions if not isinstance(step, Told)]

    def of(self, trial: int) -> str:
        """One trial's part, in short."""
        parts: list[str] = []
        for step in self.decisions:
            match step:
                case Start() if step.trial == trial:
                    parts.append(f"start to {step.until}")
                case Resume() if step.trial == trial:
                    parts.append(f"resume from {step.since} to {step.until} at rung {step.rung}")
                case Told(outcome, verdicts):
                    parts += [f"error {outcome.error:g} at {outcome.resource}"] if outcome.trial == trial else []
                    parts += [verdict.state for verdict in verdicts if verdict.trial == trial]
                case _:
                    pass
        return f"trial {trial}: {', '.join(parts)}"

    def __str__(self) -> str:
        return f"{self.schedule}, {len(self.decisions)} calls"


def play(make: Make, r_max: float, seed: int) -> Story:
    """Drive a new scheduler through a schedule, to its end or, if it has none of its own, until a budget is spent.

    Where the space is finite it must end by itself: nobody can be promoted for ever.
    """
    story = Story(make, r_max, Schedule.draw(seed))
    try:
        _play(make(story.schedule), story)
    except UserError:
        raise
    except Exception as error:
        story.fault = f"raised {type(error).__name__}: {error}"
    return story


def _play(scheduler: Scheduler, story: Story) -> None:
    schedule, running, done, given = story.schedule, list[Assignment](), False, 0
    endless = schedule.count is None
    most = _LIMIT if schedule.count is None else schedule.count * min(story.r_max, 1000)
    rng = np.random.default_rng([schedule.seed, 2])
    while True:
        while len(running) < schedule.workers and not (endless and given >= most):
            answer = _suggestion(scheduler, story)
            if isinstance(answer, Wait | Done):
                done = done or isinstance(answer, Done)
                break
            running.append(answer)
            given += 1
            if done or given > most:
                why = "after Done" if done else f"although there are only {schedule.count} configurations"
                story.fault = f"suggests assignment {given} {why}: {story.of(answer.trial)}"
                return
        if not running:
            story.finished, story.state = done, _state(scheduler)
            story.fault = "" if done or given >= most else "waits although nothing runs"
            return
        outcome = schedule.outcome(running.pop(int(len(running) * rng.random() ** schedule.skew)))
        schedule.heard.clear()
        story.decisions.append(Told(outcome, scheduler.update(outcome)))
        if schedule.heard != [(outcome.trial, outcome.resource)]:
            told = ", ".join(f"trial {trial} at {resource}" for trial, resource in schedule.heard) or "nothing"
            story.unheard = story.unheard or f"of trial {outcome.trial} at {outcome.resource} it was told {told}"


def _suggestion(scheduler: Scheduler, story: Story) -> Assignment | Wait | Done:
    before = _state(scheduler)
    answer: Any = scheduler.suggest()
    match answer:
        case Start() | Resume():
            story.decisions.append(answer)
        case Wait() | Done():
            story.changed = story.changed or (f"{answer} changed it" if _state(scheduler) != before else "")
        case _:
            raise TypeError(f"suggested {answer!r}")
    return answer


def _state(thing: object) -> bytes:
    """All that is inside, as bytes; its repr without addresses where it cannot be pickled.

    A copy is pickled, since which equal strings are one object, as pickle notes, depends on the run.
    """
    try:
        return pickle.dumps(pickle.loads(pickle.dumps(thing)))
    except Exception:
        return re.sub(r"0x[0-9a-f]+", "", repr(getattr(thing, "__dict__", thing))).encode()


def comes_to_an_end(story: Story) -> str:
    """It ends under any arrival order, with 1 to 50 workers, with failures and NaN; once Done, always Done."""
    return story.fault


def tells_the_searcher_of_each_outcome(story: Story) -> str:
    """The searcher hears of each outcome once, by `observe` with its resource: without that it learns nothing."""
    return story.unheard


def numbers_trials_as_they_start(story: Story) -> str:
    """Trials are 0, 1, 2, ... and start with the configuration that the searcher proposed."""
    for number, start in enumerate(step for step in story.decisions if isinstance(step, Start)):
        if (start.trial, start.configuration) != (number, {"x": number}):
            return f"start {number} is of trial {start.trial} with {start.configuration}"
    return ""


def promotes_nobody_twice(story: Story) -> str:
    """A trial enters each rung at most once."""
    seen: set[tuple[int, int]] = set()
    for step in story.assignments:
        if (step.trial, step.rung) in seen:
            return f"trial {step.trial} enters rung {step.rung} twice; {story.of(step.trial)}"
        seen.add((step.trial, step.rung))
    return ""


def resource_grows_up_to_r_max(story: Story) -> str:
    """A trial's resource strictly grows and is never beyond r_max."""
    reached: dict[int, int] = {}
    for step in story.assignments:
        if not reached.get(step.trial, 0) < step.until <= story.r_max:
            return f"r_max is {story.r_max}; {story.of(step.trial)}"
        reached[step.trial] = step.until
    return ""


def _states(step: Start | Resume | Told) -> dict[int, str]:
    """The trials whose state a step changes, with the new one."""
    if isinstance(step, Told):
        return {verdict.trial: verdict.state for verdict in step.verdicts}
    return {step.trial: "running"}


def resumes_where_it_paused(story: Story) -> str:
    """Only a paused trial is resumed, and `since` is the resource at which it paused."""
    states, reached = dict[int, str](), dict[int, int]()
    for step in story.decisions:
        match step:
            case Told(outcome):
                reached[outcome.trial] = outcome.resource
            case Resume(trial, since) if states.get(trial) != "paused" or since != reached.get(trial):
                return f"it resumes trial {trial}, {states.get(trial, 'unknown')}; {story.of(trial)}"
            case _:
                pass
        states |= _states(step)
    return ""


def every_outcome_has_its_verdict(story: Story) -> str:
    """An outcome gets its trial one verdict, a failure "failed"; other verdicts are for trials that are paused."""
    states: dict[int, str] = {}
    for step in story.decisions:
        if not isinstance(step, Told):
            states |= _states(step)
            continue
        outcome = step.outcome
        own = [verdict.state for verdict in step.verdicts if verdict.trial == outcome.trial]
        allowed = ("failed",) if outcome.rank_error == math.inf else ("paused", "stopped", "completed")
        if len(own) != 1 or own[0] not in allowed:
            return f"verdicts {own} on error {outcome.error:g}; {story.of(outcome.trial)}"
        for verdict in step.verdicts:
            if verdict.trial != outcome.trial and (states.get(verdict.trial), verdict.state) != ("paused", "stopped"):
                return f"trial {verdict.trial} was {states.get(verdict.trial)}; {story.of(verdict.trial)}"
            states[verdict.trial] = verdict.state
    return ""


def leaves_nobody_behind(story: Story) -> str:
    """When it is done nobody is left paused or running."""
    states: dict[int, str] = {}
    for step in story.decisions:
        states |= _states(step)
    left = [trial for trial, state in states.items() if state not in FINAL] if story.finished else []
    return f"{len(left)} trials are left {states[left[0]]}, as {story.of(left[0])}" if left else ""


def reasons_say_something(story: Story) -> str:
    """Assignments and verdicts have a reason."""
    for step in story.decisions:
        for item in step.verdicts if isinstance(step, Told) else (step,):
            if not item.reason.strip():
                return f"{item} has no reason"
    return ""


def wait_and_done_change_nothing(story: Story) -> str:
    """A suggestion of Wait or Done leaves no trace inside."""
    return story.changed


def replay_gives_the_same_state(story: Story) -> str:
    """The recorded calls, without those that answered Wait or Done, give the same answers and the same state."""
    if story.fault:
        return ""
    scheduler = story.make(story.schedule)
    for number, step in enumerate(story.decisions):
        again = Told(step.outcome, scheduler.update(step.outcome)) if isinstance(step, Told) else scheduler.suggest()
        if repr(again) != repr(step):
            return f"call {number} said {step}, in the replay {again}"
    return "" if _state(scheduler) == story.state else "the answers are the same, but not what is inside"


CHECKS: tuple[Callable[[Story], str], ...] = (
    comes_to_an_end,
    tells_the_searcher_of_each_outcome,
    numbers_trials_as_they_start,
    promotes_nobody_twice,
    resource_grows_up_to_r_max,
    resumes_where_it_paused,
    every_outcome_has_its_verdict,
    leaves_nobody_behind,
    reasons_say_something,
    wait_and_done_change_nothing,
    replay_gives_the_same_state,
)
