"""What every scheduler and every searcher keeps: `python -m halving.conformance my_package.schedulers:Mine`.

A scheduler is built as `Mine(searcher, **options)` and driven through random schedules of workers, arrivals, failures
and sizes of the space; a searcher (it has `propose`) as `Mine(space, seed=0, **options)`, over spaces of 1 to 20
dimensions, finite and conditional ones too. Options are given as `--option r_max=27`. One line per check; the exit
status is 1 if any failed.
"""

import argparse
import ast
import hashlib
import inspect
import math
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy import stats

from halving.errors import UserError
from halving.schedulers import Scheduler
from halving.searchers import Searcher
from halving.space import Choice, Integer, Space
from halving.targets import check_call, locate
from halving.trial import Assignment, Configuration, Done, Outcome, Resume, Start, Value, Verdict, Wait

FINAL = ("stopped", "completed", "failed")
# Longer than a bracket of most ladders; an endless scheduler is cut off there, as a budget would.
_LIMIT = 300
_SCHEDULES = 40
_TRIALS = 12


@dataclass(frozen=True)
class Subject:
    """The class under test, by its importable name (`module:Name` or dotted), and its options."""

    target: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    schedules: int = _SCHEDULES

    def make(self, first: Any, **extra: Any) -> Any:
        """Build one. Raises UserError for a target that cannot be found or called with these options."""
        check_call(self._class, [first], {**self.options, **extra}, False, self.target)
        return self._class(first, **self.options, **extra)

    def takes(self, option: str) -> bool:
        return option in inspect.signature(self._class).parameters

    @property
    def is_searcher(self) -> bool:
        """Whether it proposes; raises UserError for a class that is neither searcher nor scheduler."""
        if not hasattr(self._class, "propose") and not hasattr(self._class, "suggest"):
            raise UserError(f"{self.target} has neither `suggest` (a scheduler) nor `propose` (a searcher)")
        return hasattr(self._class, "propose")

    @property
    def r_max(self) -> float:
        """The resource that no trial may exceed; +inf for a class that has no such option."""
        parameters = inspect.signature(self._class).parameters
        default = parameters["r_max"].default if "r_max" in parameters else math.inf
        return self.options.get("r_max", default)

    @property
    def stories(self) -> "list[Story] | list[Proposals]":
        """Every schedule (or space) of the suite, played."""
        if self.is_searcher:
            return [Proposals(self, seed) for seed in range(self.schedules)]
        return [play(self, Schedule.draw(seed)) for seed in range(self.schedules)]

    @cached_property
    def elsewhere(self) -> list[str]:
        """The digests of the same stories in another process, whose strings hash differently."""
        options = [f"--option={name}={value!r}" for name, value in self.options.items()]
        schedules = [f"--schedules={self.schedules}", "--digests"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "random"}
        command = [sys.executable, "-m", "halving.conformance", self.target, *options, *schedules]
        child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return child.stdout.split() if child.returncode == 0 else [child.stderr[-300:]] * self.schedules

    @cached_property
    def learns(self) -> bool:
        """Whether other errors would lead a searcher elsewhere, in any of a few spaces."""
        spaces = [Proposals(self, seed) for seed in range(6)]
        return any(repr(each.propose(error=lambda trial: -(trial * 7 % 5))) != repr(each.proposed) for each in spaces)

    @cached_property
    def _class(self) -> Callable[..., Any]:
        return locate(self.target)


@dataclass(frozen=True)
class Schedule:
    """How the world treats a scheduler: `skew` above 1 lets old assignments finish first, below 1 new ones.

    `failing` is the share of failures and non-finite errors, `count` the configurations there are (None: no end).
    """

    seed: int
    workers: int
    failing: float
    skew: float
    count: int | None
    curves: bool

    @classmethod
    def draw(cls, seed: int) -> "Schedule":
        rng = np.random.default_rng([seed, 1])
        workers = (1, 50, 2)[seed] if seed < 3 else int(rng.integers(1, 51) if seed % 2 else rng.integers(1, 9))
        failing = 1.0 if seed == 7 else float(rng.choice([0.0, 0.3, 0.3]))
        count = int(rng.integers(0, 41)) if seed % 2 else None
        return cls(seed, workers, failing, float(rng.choice([0.05, 1.0, 1.0, 20.0])), count, bool(seed % 3))

    def propose(self, trial: int) -> Configuration | None:
        """Be the scheduler's searcher, too."""
        return None if self.count is not None and trial >= self.count else {"x": trial}

    def observe(self, trial: int, configuration: Configuration, resource: int, error: float) -> None:
        if configuration != {"x": trial} or not (math.isfinite(error) or error == math.inf):
            raise ValueError(f"the searcher was told of trial {trial}: {configuration}, error {error}")

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
                if rng.random() < self.failing / 3:
                    errors[0] = math.nan if until - since > 1 else errors[0]
                return Outcome(trial, until, errors[-1], curve=tuple(errors) if self.curves else ())

    def __str__(self) -> str:
        space = "" if self.count is None else f", {self.count} configurations"
        return f"{self.workers} workers, {self.failing:.0%} failing{space}, schedule {self.seed}"


@dataclass(frozen=True)
class Told:
    """An outcome and the verdicts on it."""

    outcome: Outcome
    verdicts: tuple[Verdict, ...]


@dataclass
class Story:
    """All that a scheduler decided under one schedule, and how it ended: `fault` says what is wrong with that."""

    subject: Subject
    schedule: Schedule
    steps: list[Start | Resume | Told] = field(default_factory=list[Start | Resume | Told])
    fault: str = ""
    finished: bool = False
    changed: str = ""
    state: bytes = b""

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr(self.steps).encode()).hexdigest()

    @property
    def assignments(self) -> list[Assignment]:
        return [step for step in self.steps if not isinstance(step, Told)]

    def of(self, trial: int) -> str:
        """One trial's part, in short."""
        parts: list[str] = []
        for step in self.steps:
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
        return f"{self.schedule}, {len(self.steps)} calls"


def play(subject: Subject, schedule: Schedule) -> Story:
    """Drive a new scheduler through a schedule, to its end or, if it has none of its own, until a budget is spent.

    Where the space is finite it must end by itself: nobody can be promoted for ever.
    """
    story = Story(subject, schedule)
    try:
        _play(subject.make(schedule), story)
    except UserError:
        raise
    except Exception as error:
        story.fault = f"raised {type(error).__name__}: {error}"
    return story


def _play(scheduler: Scheduler, story: Story) -> None:
    schedule, running, done = story.schedule, list[Assignment](), False
    most = _LIMIT if schedule.count is None else schedule.count * min(story.subject.r_max, 1000)
    rng = np.random.default_rng([schedule.seed, 2])
    while True:
        spent = len(story.assignments) >= most
        answer: Any = None
        while not (spent and schedule.count is None) and len(running) < schedule.workers:
            before = state(scheduler)
            answer = scheduler.suggest()
            if isinstance(answer, Wait | Done):
                story.changed = story.changed or (f"{answer} changed it" if state(scheduler) != before else "")
                break
            if not isinstance(answer, Start | Resume):
                raise TypeError(f"suggested {answer!r}")
            story.steps.append(answer)
            running.append(answer)
            if done or len(story.assignments) > most:
                why = "after Done" if done else f"although there are only {schedule.count} configurations"
                story.fault = f"suggests assignment {len(story.assignments)} {why}: {story.of(answer.trial)}"
                return
        done = done or isinstance(answer, Done)
        if not running:
            story.finished, story.state = done, state(pickle_copy(scheduler))
            story.fault = "" if done or spent else "waits although nothing runs"
            return
        outcome = schedule.outcome(running.pop(int(len(running) * rng.random() ** schedule.skew)))
        story.steps.append(Told(outcome, scheduler.update(outcome)))


def state(thing: object) -> bytes:
    """All that is inside, as bytes; its repr without addresses where it cannot be pickled."""
    try:
        return pickle.dumps(thing)
    except Exception:
        return re.sub(r"0x[0-9a-f]+", "", repr(vars(thing))).encode()


def pickle_copy(thing: Any) -> Any:
    """A copy in which equal strings are shared as another run would share them; itself where that cannot be."""
    try:
        return pickle.loads(pickle.dumps(thing))
    except Exception:
        return thing


# Each check returns what is wrong, or nothing.


def comes_to_an_end(story: Story) -> str:
    """It ends under any arrival order, with 1 to 50 workers, with failures and NaN; once Done, always Done."""
    return story.fault


def numbers_trials_as_they_start(story: Story) -> str:
    """Trials are 0, 1, 2, ... and start with the configuration that the searcher proposed."""
    for number, start in enumerate(step for step in story.steps if isinstance(step, Start)):
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
        if not reached.get(step.trial, 0) < step.until <= story.subject.r_max:
            return f"r_max is {story.subject.r_max}; {story.of(step.trial)}"
        reached[step.trial] = step.until
    return ""


def resumes_where_it_paused(story: Story) -> str:
    """Only a paused trial is resumed, and `since` is the resource at which it paused."""
    states, reached = dict[int, str](), dict[int, int]()
    for step in story.steps:
        match step:
            case Told(outcome, verdicts):
                reached[outcome.trial] = outcome.resource
                states |= {verdict.trial: verdict.state for verdict in verdicts}
            case Resume(trial, since) if states.get(trial) != "paused" or since != reached.get(trial):
                return f"it resumes trial {trial}, {states.get(trial, 'unknown')}; {story.of(trial)}"
            case _:
                states[step.trial] = "running"
    return ""


def every_outcome_has_its_verdict(story: Story) -> str:
    """An outcome gets its trial one verdict, a failure "failed"; other verdicts are for trials that are paused."""
    states: dict[int, str] = {}
    for step in story.steps:
        if not isinstance(step, Told):
            states[step.trial] = "running"
            continue
        outcome = step.outcome
        own = [verdict.state for verdict in step.verdicts if verdict.trial == outcome.trial]
        allowed = ("failed",) if outcome.rank_error == math.inf else ("paused", "stopped", "completed")
        if len(own) != 1 or own[0] not in allowed:
            return f"verdicts {own} on error {outcome.error:g}; {story.of(outcome.trial)}"
        states[outcome.trial] = own[0]
        for verdict in step.verdicts:
            if verdict.trial != outcome.trial and (states.get(verdict.trial), verdict.state) != ("paused", "stopped"):
                return f"trial {verdict.trial} was {states.get(verdict.trial)}; {story.of(verdict.trial)}"
            states[verdict.trial] = verdict.state
    return ""


def leaves_nobody_behind(story: Story) -> str:
    """When it is done nobody is left paused or running."""
    states: dict[int, str] = {}
    for step in story.steps:
        states |= {v.trial: v.state for v in step.verdicts} if isinstance(step, Told) else {step.trial: "running"}
    left = [trial for trial, ended in states.items() if ended not in FINAL] if story.finished else []
    return f"{len(left)} trials are left {states[left[0]]}, as {story.of(left[0])}" if left else ""


def reasons_say_something(story: Story) -> str:
    """Assignments and verdicts have a reason."""
    for step in story.steps:
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
    scheduler: Scheduler = story.subject.make(story.schedule)
    for number, step in enumerate(story.steps):
        again = Told(step.outcome, scheduler.update(step.outcome)) if isinstance(step, Told) else scheduler.suggest()
        if repr(again) != repr(step):
            return f"call {number} said {step}, in the replay {again}"
    return "" if state(pickle_copy(scheduler)) == story.state else "the answers are the same, but not what is inside"


def decides_the_same_in_another_process(story: "Story | Proposals") -> str:
    """The same seed gives the same decisions in a new interpreter."""
    seed = story.schedule.seed if isinstance(story, Story) else story.seed
    there = story.subject.elsewhere
    said = there[seed] if seed < len(there) else "nothing"
    return "" if said == story.digest else f"schedule {seed} was decided otherwise there ({said[-200:]})"


@dataclass
class Proposals:
    """A searcher's proposals over one random space, and the outcomes that it observes between."""

    subject: Subject
    seed: int

    @cached_property
    def space(self) -> Space:
        rng = np.random.default_rng([self.seed, 3])
        kinds: list[Any] = [
            [0.1, 1.0, 10.0],
            ["a", "b", None, True],
            stats.uniform(-3.0, 5.0),
            stats.loguniform(1e-5, 1.0),
            stats.norm(0.0, 2.0),
            stats.randint(2, 30),
        ]
        # Two lists are fewer configurations than there are trials, or hardly more.
        count = (1, 20, 2)[self.seed] if self.seed < 3 else int(rng.integers(1, 21))
        kinds = kinds[:2] if self.seed == 2 else kinds
        if self.seed == 3:
            options = {
                "a": {"x": kinds[2]},
                "b": {"x": kinds[0], "y": {"_values_": [1, 2], "_when_": "n > 9"}},
                "c": {},
            }
            return Space.from_config({"n": kinds[5], "group": {"_choice_": options, "z": kinds[3]}})
        return Space.from_config({f"group{i % 3}.key{i}": kinds[int(rng.integers(len(kinds)))] for i in range(count)})

    def make(self) -> Searcher:
        return self.subject.make(self.space, **({"seed": self.seed} if self.subject.takes("seed") else {}))

    def propose(
        self,
        delay: int = 0,
        error: Callable[[int], float] = lambda trial: trial * 7 % 5 / 5,
        resumed: int | None = None,
    ) -> list[Configuration | None]:
        """Ask for 12 trials; outcomes arrive `delay` trials late, and then the newest first, some at two resources.

        Before trial `resumed` another searcher takes over, which gets what is recorded of the first.
        """
        searcher, waiting, proposals = self.make(), list[int](), list[Configuration | None]()
        recorded: list[tuple[Any, ...]] = []
        for trial in range(_TRIALS):
            if trial == resumed:
                searcher = self.make()
                for step in recorded:
                    if len(step) > 2:
                        searcher.observe(*step)
                    elif hasattr(searcher, "recall"):
                        searcher.recall(*step)  # pyright: ignore
            configuration = searcher.propose(trial)
            proposals.append(configuration)
            if configuration is None:
                continue
            recorded.append((trial, configuration))
            waiting.append(trial)
            while len(waiting) > delay:
                other = waiting.pop()
                for resource in (1, 3)[: 1 + other % 2]:
                    recorded.append((other, proposals[other], resource, error(other)))
                    searcher.observe(*recorded[-1])
        return proposals

    @cached_property
    def proposed(self) -> list[Configuration | None]:
        return self.propose()

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr(self.proposed).encode()).hexdigest()

    def __str__(self) -> str:
        return f"{len(self.space.dimensions)} dimensions, seed {self.seed}"


def proposes_within_the_space(story: Proposals) -> str:
    """A configuration has the dimensions that exist, in the space's order, each with a value inside its support."""
    for trial, configuration in enumerate(story.proposed):
        if complaint := _outside(story.space, configuration):
            return f"trial {trial}: {complaint}"
    return ""


def _outside(space: Space, configuration: Configuration | None) -> str:
    if configuration is None:
        return ""
    existing = space.existing(configuration)
    if tuple(configuration) != tuple(dimension.name for dimension in existing):
        return f"it has {tuple(configuration)}, the space {[dimension.name for dimension in existing]}"
    for dimension in existing:
        value: Any = configuration[dimension.name]
        if isinstance(dimension, Choice):
            inside = any(value == known and type(value) is type(known) for known in dimension.values)
        else:
            low, high = dimension.distribution.support()
            inside = low <= value <= high and (not isinstance(dimension, Integer) or value == int(value))
        if not inside:
            return f"{dimension.name}={value!r} is not in the space"
    return ""


def values_are_plain(story: Proposals) -> str:
    """Values are Python's own bool, int, float, str and None, as the dimension has it: no scalars of numpy."""
    for configuration in filter(None, story.proposed):
        for dimension in story.space.existing(configuration):
            value: Value = configuration.get(dimension.name)
            expected = {"integer": (int,), "continuous": (float,)}.get(
                dimension.kind, (bool, int, float, str, type(None))
            )
            if type(value) not in expected:
                return f"{dimension.name}={value!r} is of type {type(value).__module__}.{type(value).__name__}"
    return ""


def does_not_depend_on_who_finished_first(story: Proposals) -> str:
    """Unless it learns from errors, trial t gets the same configuration whatever finished before, and in what order."""
    if story.subject.learns or repr(story.propose(delay=4)) == repr(story.proposed):
        return ""
    return "it does not learn from errors, but the order of outcomes changes what it proposes"


def proposes_nothing_twice(story: Proposals) -> str:
    """No configuration is proposed again, with and without pending trials: an exhausted space gives None."""
    for delay in (0, 4):
        first: dict[str, int] = {}
        for trial, configuration in enumerate(story.propose(delay)):
            if configuration is not None and first.setdefault(repr(configuration), trial) != trial:
                return f"trial {trial} gets what trial {first[repr(configuration)]} had: {configuration}"
    return ""


def goes_on_after_a_resume(story: Proposals) -> str:
    """Fed with the recorded trials (`recall`, if it has that) and outcomes, a new searcher proposes what the old would.

    Some trials are pending where the study resumes.
    """
    undisturbed, resumed = story.propose(delay=2), story.propose(delay=2, resumed=7)
    for trial, (expected, got) in enumerate(zip(undisturbed, resumed, strict=True)):
        if repr(expected) != repr(got):
            return f"trial {trial} gets {got} after a resume at 7, else {expected}"
    return ""


def takes_failures(story: Proposals) -> str:
    """It goes on within the space when some or all trials fail, which it observes as +inf."""
    for error in (lambda _: math.inf, lambda trial: math.inf if trial % 3 else 0.5):
        for configuration in story.propose(error=error):
            if complaint := _outside(story.space, configuration):
                return complaint
    return ""


def stays_exhausted(story: Proposals) -> str:
    """After None it proposes None: schedulers ask again."""
    searcher = story.make()
    answers = [searcher.propose(trial) for trial in range(_TRIALS)]
    answers += [searcher.propose(_TRIALS - 1)] if None in answers else []
    first = answers.index(None) if None in answers else len(answers)
    return "" if all(answer is None for answer in answers[first:]) else f"None for trial {first}, but not afterwards"


SCHEDULER_CHECKS: tuple[Callable[[Story], str], ...] = (
    comes_to_an_end,
    numbers_trials_as_they_start,
    promotes_nobody_twice,
    resource_grows_up_to_r_max,
    resumes_where_it_paused,
    every_outcome_has_its_verdict,
    leaves_nobody_behind,
    reasons_say_something,
    wait_and_done_change_nothing,
    replay_gives_the_same_state,
    decides_the_same_in_another_process,
)
SEARCHER_CHECKS: tuple[Callable[[Proposals], str], ...] = (
    proposes_within_the_space,
    values_are_plain,
    does_not_depend_on_who_finished_first,
    proposes_nothing_twice,
    goes_on_after_a_resume,
    takes_failures,
    stays_exhausted,
    decides_the_same_in_another_process,
)


@dataclass(frozen=True)
class Result:
    """A check and the shortest story of what went wrong, or nothing."""

    check: str
    complaint: str

    def __str__(self) -> str:
        name = self.check.replace("_", " ")
        return f"FAILED  {name}: {self.complaint}" if self.complaint else f"ok      {name}"


def conform(target: str, options: Mapping[str, Any] | None = None, schedules: int = _SCHEDULES) -> list[Result]:
    """Put a scheduler or searcher through every check.

    Raises UserError for a target that cannot be imported, is neither, or cannot be built with these options.
    """
    subject = Subject(target, options or {}, schedules)
    stories: Sequence[Any] = subject.stories
    checks: Sequence[Callable[[Any], str]] = SEARCHER_CHECKS if subject.is_searcher else SCHEDULER_CHECKS
    results: list[Result] = []
    for check in checks:
        complaints = [f"{text} ({story})" for story in stories if (text := _checked(check, story))]
        results.append(Result(check.__name__, min(complaints, key=len, default="")))
    return results


def _checked(check: Callable[[Any], str], story: Any) -> str:
    """A check's answer; a user's class may also raise on the way."""
    try:
        return check(story)
    except UserError:
        raise
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"


def _option(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r}: an option is name=value")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite from the command line; return the exit status."""
    description, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser("python -m halving.conformance", description=description, epilog=details)
    parser.add_argument("target", help="module:Name or a dotted name")
    parser.add_argument("--option", type=_option, action="append", default=[], help="name=value, any number of times")
    parser.add_argument("--schedules", type=int, default=_SCHEDULES, help="random schedules or spaces to go through")
    parser.add_argument("--digests", action="store_true", help="only print a digest of each schedule's decisions")
    asked = parser.parse_args(arguments)
    try:
        if asked.digests:
            for story in Subject(asked.target, dict(asked.option), asked.schedules).stories:
                print(story.digest)
            return 0
        results = conform(asked.target, dict(asked.option), asked.schedules)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for result in results:
        print(result)
    return int(any(result.complaint for result in results))


if __name__ == "__main__":
    sys.exit(main())
