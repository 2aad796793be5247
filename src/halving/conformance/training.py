"""Whether a training of the user's pauses and resumes exactly, and what it forgets if it does not."""

import logging
import os
import pickle
import random
import signal
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from inspect import isclass, ismodule
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from halving.checkpoints.store import Store
from halving.conformance.suite import Result
from halving.errors import UserError, whole
from halving.executors import Process
from halving.executors.pool import Pool
from halving.targets import function_name
from halving.training.base import Exhausted
from halving.training.own import Own, Running, is_training, state_of
from halving.training.pausing import Course, train
from halving.trial import Configuration, Epoch, Finished, Job, Step

Curve = Mapping[int, Mapping[str, float]]

# What another process is asked for, by the numbers of trials, as an executor knows jobs by these.
_GOING_ON, _STRAIGHT, _KILLED, _AGAIN = range(4)

_UNTIL = (
    "only trial.until differs, so that something hangs on the rung: a schedule spans r_max, whatever the rung is, and "
    "nothing else may be built from trial.until either"
)
_OUTSIDE = (
    "in one process it is exact, so that it goes on from what lies in that process, as a global of its module or a "
    "cache; or the processes differ in their number of threads"
)
_PROCESS = "each process comes to its own: the order of a set, hash(), the number of threads, or what its module draws"


@dataclass(frozen=True)
class Report:
    """What every comparison came to, and what was seen besides."""

    results: tuple[Result, ...]
    notes: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        return not any(result.complaint for result in self.results)

    def __str__(self) -> str:
        return "\n".join([*map(str, self.results), *(f"note    {note}" for note in self.notes)])

    __repr__ = __str__


def check(
    function: Callable[[Running], Any], configuration: Configuration | None = None, *, epochs: int = 4, seed: int = 0
) -> Report:
    """Train a configuration straight and in pieces and return a report, where all agree bit for bit.

    It pauses in memory and on the disk, goes on in another process, and is killed. Metrics whose names speak of time or
    seconds are not compared.

    Raises UserError, with the report, where something differs, and for what is no training.
    """
    report = compare(function, configuration or {}, epochs, seed)
    if not report.exact:
        raise UserError(f"{function_name(function)} does not pause and resume exactly:\n{report}")
    return report


def compare(function: Callable[[Running], Any], configuration: Configuration, epochs: int, seed: int) -> Report:
    """Return what `check` finds. Raises UserError for what is no training, or keeps nothing."""
    if not is_training(function):
        raise UserError(f"{function_name(function)} is no training: that is a function of one argument, the trial")
    with TemporaryDirectory(prefix="halving-") as root:
        pieces = _Pieces(function, dict(configuration), whole("check: epochs", epochs, 3), seed, Path(root))
        try:
            return _compared(pieces, _travels(function))
        except Exhausted:
            raise UserError(f"the training ends before epochs={epochs}, to which it is checked: give fewer") from None


@dataclass(frozen=True)
class _Pieces:
    """Trains one configuration in many ways, as an executor's objective too."""

    function: Callable[[Running], Any]
    configuration: Configuration
    epochs: int
    seed: int
    root: Path
    metric: str = "error"

    def begun(self, store: Store) -> Own:
        work = partial(store.working, 0)
        return Own(self.function, Running(0, dict(self.configuration), self.seed, self.epochs, _work=work), self.metric)

    def steps(self, name: object, store: Store | None = None, since: int = 0, until: int = 0) -> Generator[Step]:
        store = store or Store(self.root / str(name))
        course = Course(self.metric, self.epochs + 1, "checked", checkpoint_every=1)
        job = Job(0, self.configuration, since, until or self.epochs)
        yield from train(partial(self.begun, store), store, job, course)
        if not until:
            store.close()

    def in_memory(self) -> Curve:
        store = Store(self.root / "memory")
        curve = _curve(
            step for epoch in range(self.epochs) for step in self.steps("memory", store, since=epoch, until=epoch + 1)
        )
        store.close()
        return curve

    def from_disk(self) -> Curve:
        """Go on from the disk after each epoch, and leave what another process goes on from."""
        for last in range(1, self.epochs):
            for name in ("disk", _GOING_ON)[: 1 if last > 2 else 2]:
                steps = self.steps(name)
                _curve(takewhile(partial(_before, last), steps))
                steps.close()
        return _curve(self.steps("disk"))

    def elsewhere(self) -> dict[int, Curve]:
        """Return the curves of another process, which is killed once; what goes on is the first that a process does."""
        executor, told = Process(self, 1, retries=1), dict[int, Curve]()
        pool_log = logging.getLogger(Pool.__module__)
        pool_log.addFilter(_no_retry)
        try:
            for scene in (_GOING_ON, _STRAIGHT, _KILLED, _AGAIN):
                steps = list[Step]()
                executor.submit(Job(scene, self.configuration, 0, self.epochs))
                while not executor.idle():
                    steps += executor.wait()
                told[scene] = _curve(steps)
        finally:
            executor.shutdown(graceful=False)
            pool_log.removeFilter(_no_retry)
        return told

    def __call__(self, jobs: Sequence[Job]) -> Generator[Step]:
        for job in jobs:
            killed = self.root / "killed"
            for step in self.steps(job.trial):
                if job.trial == _KILLED and isinstance(step, Epoch) and step.epoch == 3 and not killed.exists():
                    killed.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                # An executor knows the scenes by the numbers of trials.
                ended = isinstance(step, Finished)
                yield (
                    replace(step, outcome=replace(step.outcome, trial=job.trial))
                    if ended
                    else replace(step, trial=job.trial)
                )


def _compared(pieces: _Pieces, travels: bool) -> Report:
    straight, unkept, states = _straight(pieces)
    pieces = _Pieces(**{**vars(pieces), "metric": next(iter(straight[1]), pieces.metric)})
    random.random()  # what others draw must not matter
    again, _, states_again = _straight(pieces)
    disk = pieces.from_disk()
    there = pieces.elsewhere() if travels else {}
    notes = () if travels else ("not tried in another process, as the function cannot be imported there by its name",)
    differing = sorted(name for name, state in states.items() if states_again.get(name, state) != state)
    if twice := _difference(straight, again, "when it is trained once more", _undetermined(there, differing)):
        return Report((Result("trains_twice_the_same", twice),), notes)
    if there and (unlike := _difference(straight, there[_STRAIGHT], "in another process", _PROCESS)):
        there = {}
        notes = ("not gone on in another process, as it is not the same there from its beginning",)
    else:
        unlike = ""
    forgotten = _difference(straight, disk, "when it goes on from the disk", _forgotten(pieces, unkept))
    results = [
        Result("trains_twice_the_same", ""),
        Result(
            "pauses_in_memory", _difference(straight, pieces.in_memory(), "when it pauses after each epoch", _UNTIL)
        ),
        Result("goes_on_from_the_disk", forgotten),
    ]
    if travels:
        results.append(Result("trains_the_same_in_another_process", unlike))
    for scene, name, how in (
        (_GOING_ON, "goes_on_in_another_process", "when another process goes on"),
        (_KILLED, "goes_on_after_a_kill", "when it goes on after a kill"),
    ):
        if scene in there:
            why = "as from the disk" if forgotten else _OUTSIDE
            results.append(Result(name, _difference(straight, there[scene], how, why)))
    files = any(pieces.root.glob("disk/checkpoints/*/*/files"))  # which may hold it
    if unkept and not (forgotten or files):
        notes = (*notes, f"{_named(unkept)} changes in training and is not kept, which was of no matter here")
    return Report(tuple(results), notes)


def _straight(pieces: _Pieces) -> tuple[Curve, dict[str, str], dict[str, str]]:
    """Return the curve of a training without a pause, what it changes but does not keep, and states after one epoch.

    What is not kept comes with its kind, and states are told by their digests.
    """
    store = Store(pieces.root / "straight")
    training = pieces.begun(store)
    try:
        curve = {1: training.epoch(1)}
        first = _states(training)
        curve |= {epoch: training.epoch(epoch) for epoch in range(2, pieces.epochs + 1)}
        last = _states(training)
    finally:
        training.close()
    moved = {name for name, (_, _, state) in last.items() if name in first and first[name][2] != state}
    unkept = {name: kind for name, (kind, kept, _) in last.items() if name in moved and not kept}
    return curve, unkept, {name: state for name, (_, _, state) in first.items()}


def _states(training: Own) -> dict[str, tuple[str, bool, str]]:
    """Return kind, whether it is kept, and digest of the state of all that has one where the function waits."""
    from halving.checkpoints.content import digest  # which needs torch, as schedulers and searchers do not

    kept, seen = {id(part) for part in training.kept.values()}, set[int]()
    weights = {id(each) for part in training.kept.values() for each in _weights(part)}
    found = dict[str, tuple[str, bool, str]]()
    for frame in training.frames:
        shared = {name: frame.f_globals[name] for name in frame.f_code.co_names if name in frame.f_globals}
        for name, value in _with_members({**shared, **frame.f_locals}):
            if id(value) in seen:
                continue
            seen.add(id(value))
            try:
                state = state_of(name, value)
            except Exception:  # it has none, or one that nobody could keep
                continue
            if not isinstance(state, dict) or state:
                inside = {id(each) for each in _weights(value)}
                is_kept = id(value) in kept or (bool(inside) and inside <= weights)
                found[name] = (type(value).__name__, is_kept, digest(state))
    return found


def _with_members(names: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in list(names.items()):
        if isinstance(value, Running) or isclass(value) or ismodule(value):
            continue
        yield name, value
        if not hasattr(value, "state_dict"):
            members = value if isinstance(value, dict) else getattr(value, "__dict__", {})
            yield from ((f"{name}.{member}", inner) for member, inner in list(members.items()) if not ismodule(inner))


def _weights(part: Any) -> Iterable[Any]:
    return part.parameters() if hasattr(part, "parameters") else ()


def _forgotten(pieces: _Pieces, unkept: Mapping[str, str]) -> str:
    if unkept:
        return f"{_named(unkept)} changes in training and is not kept: give it to trial.keep, or write it to a file"
    return (
        "something that it goes on from is not kept: a count, a best value, an iterator, a generator within another "
        "object; or trial.keep is not called after all that draws is built: without parts of its own, too, where "
        "trial.directory holds them"
    )


def _undetermined(there: Mapping[int, Curve], differing: Sequence[str]) -> str:
    likely = f"; {', '.join(differing)} is likely" if differing else ""
    seed = f"a generator that is not seeded, where trial.seed should be its seed{likely}"
    before = (
        "a training that depends on what was trained or drawn before: a generator, or data that it changes, outlives it"
        f" outside of the function{likely}"
    )
    if not there:
        return f"{seed}; or {before.removesuffix(likely)}"
    return seed if _difference(there[_STRAIGHT], there[_AGAIN], "", "") else before


def _named(unkept: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in unkept.items())


def _difference(straight: Curve, other: Curve, how: str, why: str) -> str:
    """Say where two curves differ first, in any bit, if they do."""
    for epoch, metrics in straight.items():
        for name, value in metrics.items():
            found = other.get(epoch, {}).get(name)
            if repr(found) != repr(value) and not any(word in name.lower() for word in ("second", "time")):
                return f"epoch {epoch} comes to {name}={value!r}, and {how} to {found!r}: {why}"
    return ""


def _curve(steps: Iterable[Step]) -> Curve:
    """Return the metrics of each epoch. Raises UserError where the training failed."""
    curve = dict[int, Mapping[str, float]]()
    for step in steps:
        match step:
            case Epoch(_, epoch, metrics):
                curve[epoch] = metrics
            case Finished(cause=cause) if cause:
                raise UserError(f"the training failed, so that it cannot be checked: {cause}")
            case _:
                pass
    return curve


def _no_retry(record: logging.LogRecord) -> bool:
    """Leave out that a worker was killed and its job is tried again: the check did that."""
    return "retry" not in record.getMessage()


def _before(last: int, step: Step) -> bool:
    return not (isinstance(step, Epoch) and step.epoch == last)


def _travels(function: Callable[..., Any]) -> bool:
    """Whether another process can import a function."""
    try:
        return b"__main__" not in pickle.dumps(function) or hasattr(sys.modules["__main__"], "__file__")
    except Exception:
        return False
