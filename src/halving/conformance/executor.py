"""What an executor keeps, checked on what it says of jobs that misbehave in real ways."""

import logging
import os
import signal
import subprocess
import time
from collections import Counter, deque
from collections.abc import Callable, Container, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from halving.errors import StorageError, UserError
from halving.executors import Executor
from halving.executors.pool import Pool
from halving.executors.work import trial_of
from halving.trial import Epoch, Finished, Job, Outcome, Restarted, Step


class Trial(IntEnum):
    """What the trials of this suite do."""

    RAISES, EXITS, KILLED, KILLS, HUNGRY, HANGS, FULL = range(5, 12)
    SPOILS, BREAKS = 15, 17


_PLAIN, _AGAIN, _PATIENT, _TOGETHER = (0, 1, 2), (3, 4), (12, 13), (14, Trial.SPOILS, 16, Trial.BREAKS, 18)
_EPOCHS = 3
_ENDLESS = 10**6
_MORE = {"retries": 1, "trial_timeout": 4.0}
_PATIENCE = 120.0  # seconds for all jobs of a scene


@dataclass(frozen=True)
class Misbehaving:
    """An objective whose trials leave files in `root`, from which they go on, and do what their numbers say.

    Those that behave, and those of which one spoils the others' work, may be worked on together.
    """

    root: Path

    def alike(self, job: Job) -> int | None:
        return None if Trial.RAISES <= job.trial <= Trial.FULL else job.until

    def __call__(self, jobs: Sequence[Job]) -> Generator[Step]:
        left = [self._run(job) for job in jobs]
        try:
            while left:
                for each in tuple(left):
                    yield (step := next(each))
                    if isinstance(step, Finished):
                        left.remove(each)
        finally:
            for each in left:
                each.close()

    def _run(self, job: Job) -> Generator[Step]:
        left, epoch = self.root / str(job.trial), 0
        try:
            for epoch in range(int(left.read_text()) + 1 if left.exists() else 1, job.until + 1):
                yield Epoch(job.trial, epoch, {"pid": os.getpid()})
                if epoch >= job.since + 2:
                    self._misbehave(job.trial)
                left.write_text(str(epoch))
                time.sleep(0.02 if job.until == _ENDLESS else 0.0)
        except GeneratorExit:
            left.write_text(str(epoch))
            raise
        yield Finished(Outcome(job.trial, job.until, 1.0 / (job.trial + job.until)))

    def _misbehave(self, trial: int) -> None:
        once = self.root / f"{trial}-once"
        match trial:
            case Trial.RAISES | Trial.SPOILS:
                raise ValueError("raised on purpose")
            case Trial.EXITS:
                raise SystemExit(0)
            case Trial.KILLED | Trial.BREAKS if not once.exists():
                once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            case Trial.KILLS:
                os.kill(os.getpid(), signal.SIGKILL)
            case Trial.HUNGRY:
                raise MemoryError("on purpose")
            case Trial.HANGS:
                child = subprocess.Popen(["sleep", "3600"], start_new_session=True)
                (self.root / "started").write_text(str(child.pid))
                child.wait()
            case Trial.FULL:
                raise StorageError("cannot write: make room, on purpose")
            case _:
                pass


@dataclass
class Told:
    """What an executor said of its jobs. `apart` says whether its workers are other processes.

    `refused` is what came of a full disk, `stopped` what was said while it was asked to stop, `left` the processes that
    are there after its end, and `faults` are broken promises that were seen on the way.
    """

    steps: list[Step] = field(default_factory=list[Step])
    apart: bool = False
    timed: bool = False
    refused: str = ""
    stopped: list[Step] = field(default_factory=list[Step])
    kept: dict[int, int] = field(default_factory=dict[int, int])
    left: set[int] = field(default_factory=set[int])
    faults: list[str] = field(default_factory=list[str])

    def of(self, trial: int) -> list[Step]:
        return [step for step in self.steps if trial_of(step) == trial]

    def ends(self, trial: int) -> list[Finished]:
        return [step for step in self.of(trial) if isinstance(step, Finished)]

    def places(self, trial: int) -> list[int]:
        """The processes in which a trial was worked on, one after the other."""
        pids = [int(step.metrics["pid"]) for step in self.of(trial) if isinstance(step, Epoch)]
        return [pid for i, pid in enumerate(pids) if i == 0 or pids[i - 1] != pid]

    def __str__(self) -> str:
        return f"{len(self.steps)} steps, {'workers apart' if self.apart else 'in this process'}"


def play(make: Callable[..., Executor], takes: Container[str], options: Mapping[str, Any]) -> Told:
    """Give an executor jobs that end, raise, kill and hang; then a full disk, and a study that stops.

    It is made with `options`, and with few retries and a short time for each job if it `takes` these.
    """
    more = {name: value for name, value in _MORE.items() if name in takes and name not in options}
    told = Told(timed="trial_timeout" in takes)
    with TemporaryDirectory(prefix="halving-") as root:
        pool_log = logging.getLogger(Pool.__module__)
        pool_log.addFilter(_unsaid)
        executor = make(Misbehaving(Path(root)), **more)
        try:
            _act(executor, told, Path(root))
        except UserError:
            raise
        except Exception as error:
            told.faults.append(f"raised {type(error).__name__}: {error}")
        finally:
            executor.shutdown(graceful=False)
            pool_log.removeFilter(_unsaid)
        pids = {int(step.metrics["pid"]) for step in told.steps if isinstance(step, Epoch)} - {os.getpid()}
        pids |= {int(file.read_text()) for file in Path(root).glob("started")}
        deadline = time.monotonic() + 10
        while (left := {pid for pid in pids if _alive(pid)}) and time.monotonic() < deadline:
            time.sleep(0.02)
        told.left = left
    return told


def _act(executor: Executor, told: Told, root: Path) -> None:
    _run(executor, told, [Job(trial, {}, 0, _EPOCHS) for trial in _PLAIN])
    told.apart = os.getpid() not in told.places(0)
    for since in (0, _EPOCHS):
        _run(executor, told, [Job(trial, {}, since, since + _EPOCHS) for trial in _AGAIN])
    bad = [Trial.RAISES, Trial.EXITS, Trial.HUNGRY]
    if told.apart:
        bad += [Trial.KILLED, Trial.KILLS, *([Trial.HANGS] if told.timed else [])]
    _run(executor, told, [Job(int(trial), {}, 0, _EPOCHS) for trial in bad])
    together = [trial for trial in _TOGETHER if told.apart or trial != Trial.BREAKS]
    _run(executor, told, [Job(int(trial), {}, 0, _EPOCHS) for trial in together])
    try:
        _run(executor, told, [Job(int(Trial.FULL), {}, 0, _EPOCHS)])
    except StorageError as error:
        told.refused = str(error)
    patient = [Job(trial, {}, 0, _ENDLESS) for trial in _PATIENT]
    begun = set[int]()
    while patient and executor.has_room():
        executor.submit(patient.pop())
    while not begun:
        for step in executor.wait():
            told.steps.append(step)
            begun.add(trial_of(step))
            break  # as a study does that is stopped: what was not taken must not be lost
    told.stopped = list(executor.stop())
    if not executor.idle():
        told.faults.append("after it has stopped, it is not idle")
    told.kept = {trial: int(file.read_text()) for trial in _PATIENT if (file := root / str(trial)).exists()}


def _run(executor: Executor, told: Told, jobs: Iterable[Job]) -> None:
    """Run jobs to their end, as a study does."""
    waiting, out = deque(jobs), set[int]()
    began = last = executor.now()
    deadline = time.monotonic() + _PATIENCE
    while waiting or out:
        while waiting and executor.has_room():
            out.add(waiting[0].trial)
            executor.submit(waiting.popleft())
        if executor.idle():
            told.faults.append(f"it is idle, but of jobs {sorted(out)} there is no end")
            return
        for step in executor.wait():
            told.steps.append(step)
            if isinstance(step, Finished):
                out.discard(step.outcome.trial)
        if executor.now() < last:
            told.faults.append("its time goes back")
        last = executor.now()
        if time.monotonic() > deadline:
            told.faults.append(f"of jobs {sorted(out)} there is no end after {last - began:.0f} seconds")
            return
    if not (executor.idle() and executor.has_room()):
        told.faults.append("all jobs have ended, but it is not idle, or has no room")


def keeps_what_it_promises(told: Told) -> str:
    """It has room and is idle as jobs come and end, its time does not go back, and nothing is raised."""
    return next(iter(told.faults), "")


def every_job_ends_once(told: Told) -> str:
    """Of every job there is one Finished, and nothing after it."""
    for trial in {*map(trial_of, told.steps)} - {Trial.FULL, *_PATIENT}:
        wanted = 2 if trial in _AGAIN else 1
        if len(told.ends(trial)) != wanted:
            return f"trial {trial} had {wanted} jobs and {len(told.ends(trial))} ends"
        if not isinstance(told.of(trial)[-1], Finished):
            return f"trial {trial} says something after its end"
    return ""


def epochs_come_in_order(told: Told) -> str:
    """Epochs come as they were, each once where no worker was lost."""
    for trial in (*_PLAIN, *_AGAIN):
        epochs = [step.epoch for step in told.of(trial) if isinstance(step, Epoch)]
        if epochs != list(range(1, (_EPOCHS, 2 * _EPOCHS)[trial in _AGAIN] + 1)):
            return f"the epochs of trial {trial} came as {epochs}"
    return ""


def what_raises_fails_alone(told: Told) -> str:
    """An exception, a SystemExit and a lack of memory fail their trial, in words, and no other."""
    return _failed_alone(
        told, {Trial.RAISES: "ValueError: raised on purpose", Trial.EXITS: "SystemExit", Trial.HUNGRY: "memory"}
    )


def a_lost_worker_costs_what_was_not_kept(told: Told) -> str:
    """A job whose worker is killed goes on from what it left, and says so; only what it had not kept is done twice."""
    if not told.apart:
        return ""
    restarts = [step for step in told.of(Trial.KILLED) if isinstance(step, Restarted)]
    if len(restarts) != 1 or "retry 1 of" not in restarts[0].reason:
        return f"a killed worker's job was restarted as {restarts}"
    epochs = Counter(step.epoch for step in told.of(Trial.KILLED) if isinstance(step, Epoch))
    # What it said last may be lost with it: a checkpoint holds the epochs that lie between.
    if (
        epochs[1] > 1
        or epochs[2] not in (1, 2)
        or epochs[3] != 1
        or any(end.outcome.failed for end in told.ends(Trial.KILLED))
    ):
        return f"a killed worker's job went on with the epochs {dict(epochs)}"
    return _failed_alone(told, {Trial.KILLS: "retries=1"})


def what_one_does_costs_no_other_its_trial(told: Told) -> str:
    """Of jobs that may be worked on together one raises, and one loses its worker once: only the first fails."""
    for trial in {*_TOGETHER} - {Trial.SPOILS, Trial.BREAKS}:
        epochs = [step.epoch for step in told.of(trial) if isinstance(step, Epoch)]
        if [epoch for i, epoch in enumerate(epochs) if epoch not in epochs[:i]] != list(range(1, _EPOCHS + 1)):
            return f"the epochs of trial {trial} came as {epochs}"
    failed = [trial for trial in _TOGETHER if any(end.outcome.failed for end in told.ends(trial))]
    return "" if failed == [Trial.SPOILS] else f"of trials that were worked on together, {failed} failed"


def a_hanging_job_ends(told: Told) -> str:
    """A job that takes too long is ended and fails."""
    return _failed_alone(told, {Trial.HANGS: "timeout: "}) if told.apart and told.timed else ""


def a_trial_goes_back_to_its_worker(told: Told) -> str:
    """A trial that goes on does so where it may still be in memory; of two that one worker had, one may move.

    Where no worker has a second job, there is none to go back to.
    """
    places = [place for trial in (*_PLAIN, *_AGAIN) for place in told.places(trial)]
    if len({*places}) == len(_PLAIN) + 2 * len(_AGAIN):
        return ""
    crowded = len({place for trial in _AGAIN for place in told.places(trial)[:1]}) < len(_AGAIN)
    moved = [] if crowded else [trial for trial in _AGAIN if len(told.places(trial)) != 1]
    return f"trial {moved[0]} was worked on by processes {told.places(moved[0])}" if moved else ""


def a_full_disk_ends_the_study(told: Told) -> str:
    """What is no trial's fault is raised, and fails none."""
    if "make room" not in told.refused:
        return f"a full disk came to {told.refused or told.of(Trial.FULL)}"
    return "a full disk failed its trial" if told.ends(Trial.FULL) else ""


def stopping_leaves_checkpoints(told: Told) -> str:
    """Asked to stop, what runs leaves a checkpoint after its epoch; what it has said is told, and no job failed."""
    if any(isinstance(step, Finished) for step in told.stopped):
        return "a job that was asked to stop has an end"
    for trial in {*map(trial_of, [*told.steps, *told.stopped])} & {*_PATIENT}:
        epochs = [s.epoch for s in [*told.steps, *told.stopped] if isinstance(s, Epoch) and s.trial == trial]
        if epochs != list(range(1, len(epochs) + 1)) or told.kept.get(trial) != len(epochs):
            return f"trial {trial} told of epochs {epochs}, and left {told.kept.get(trial)}"
    return ""


def nobody_is_left_behind(told: Told) -> str:
    """After its end no worker lives, nor what a job had started that was ended."""
    return f"processes {sorted(told.left)} are still there" if told.left else ""


CHECKS: tuple[Callable[[Told], str], ...] = (
    keeps_what_it_promises,
    every_job_ends_once,
    epochs_come_in_order,
    what_raises_fails_alone,
    a_lost_worker_costs_what_was_not_kept,
    what_one_does_costs_no_other_its_trial,
    a_hanging_job_ends,
    a_trial_goes_back_to_its_worker,
    a_full_disk_ends_the_study,
    stopping_leaves_checkpoints,
    nobody_is_left_behind,
)


def _unsaid(record: logging.LogRecord) -> bool:
    """Leave out of the log what jobs were to come to."""
    return False


def _failed_alone(told: Told, words: dict[int, str]) -> str:
    for trial, word in words.items():
        if not any(end.outcome.failed and word in end.cause for end in told.ends(trial)):
            return f"trial {trial} should have failed with {word!r}, and came to {told.ends(trial)}"
    failed = [trial for trial in (*_PLAIN, *_AGAIN) if any(end.outcome.failed for end in told.ends(trial))]
    return f"trial {failed[0]} failed as well" if failed else ""


def _alive(pid: int) -> bool:
    with suppress(OSError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
