"""Objectives that misbehave in real ways; they train nothing, so that a worker is there in a moment."""

import asyncio
import gc
import math
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from halving.errors import StorageError
from halving.trial import Epoch, Finished, Job, Outcome, Step


def quality(job: Job) -> float:
    return float(np.random.default_rng([job.trial, job.until]).random())


@dataclass(frozen=True)
class Plain:
    """Takes `seconds` for each unit and comes to an error that follows from trial and resource."""

    seconds: float = 0.0

    def __call__(self, jobs: Sequence[Job]) -> Generator[Step]:
        (job,) = jobs
        assert gc.isenabled(), "as it is not while a worker begins"
        for epoch in range(job.since + 1, job.until + 1):
            time.sleep(self.seconds)
            yield Epoch(job.trial, epoch, {"val_error": quality(job)})
        yield Finished(Outcome(job.trial, job.until, quality(job)), checkpoint=f"{os.getpid()}.pt")


@dataclass(frozen=True)
class Placed:
    """Takes `seconds` for each unit, and tells by which process."""

    seconds: float

    def __call__(self, jobs: Sequence[Job]) -> Generator[Step]:
        (job,) = jobs
        for epoch in range(job.since + 1, job.until + 1):
            time.sleep(self.seconds)
            yield Epoch(job.trial, epoch, {"pid": os.getpid()})
        yield Finished(Outcome(job.trial, job.until, quality(job)))


@dataclass(frozen=True)
class Drawn:
    """Draws errors that follow from trial and resource, slowly as long as there is a file; a study's own `run_dir`."""

    run_dir: Path

    def at(self, run_dir: Path) -> "Drawn":
        return Drawn(run_dir)

    def __call__(self, jobs: Sequence[Job]) -> Generator[Step]:
        slowly = Path(os.environ.get("SLOWLY", "/nowhere"))
        for job in jobs:
            for epoch in range(job.since + 1, job.until + 1):
                time.sleep(0.2 if slowly.exists() else 0.0)
                yield Epoch(job.trial, epoch, {})
            yield Finished(Outcome(job.trial, job.until, random.Random(f"{job.trial} {job.until}").random()))


@dataclass(frozen=True)
class Seeing:
    """Tells which GPU it sees."""

    def __call__(self, jobs: Sequence[Job]) -> Generator[Step]:
        (job,) = jobs
        yield Epoch(job.trial, 1, {"gpu": float(os.environ["CUDA_VISIBLE_DEVICES"].replace(",", "."))})
        time.sleep(0.5)  # so that no other job goes to this worker
        yield Finished(Outcome(job.trial, job.until, 0.5))


@dataclass(frozen=True)
class Killed:
    """Trial 1 is killed in its second epoch by SIGKILL, as often as `times`; it goes on from what it left."""

    directory: Path
    times: int

    def __call__(self, jobs: Sequence[Job]) -> Generator[Step]:
        (job,) = jobs
        left = self.directory / f"{job.trial}"
        deaths = self.directory / "deaths"
        for epoch in range(int(left.read_text()) + 1 if left.exists() else 1, job.until + 1):
            yield Epoch(job.trial, epoch, {"pid": os.getpid()})
            if job.trial == 1 and epoch == 2 and (n := len(deaths.read_text()) if deaths.exists() else 0) < self.times:
                deaths.write_text("x" * (n + 1))
                os.kill(os.getpid(), signal.SIGKILL)
            left.write_text(str(epoch))
        yield Finished(Outcome(job.trial, job.until, quality(job)))


@dataclass(frozen=True)
class Hungry:
    """Trial 1 asks for more memory than its process may have."""

    def __call__(self, jobs: Sequence[Job]) -> Generator[Step]:
        (job,) = jobs
        if job.trial == 1:
            resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
            bytearray(2**32)
        yield Finished(Outcome(job.trial, job.until, quality(job)))


@dataclass(frozen=True)
class Unlucky:
    """Every trial's first worker is killed; the next one tells which GPU it sees."""

    directory: Path

    def __call__(self, jobs: Sequence[Job]) -> Generator[Step]:
        (job,) = jobs
        if not (died := self.directory / str(job.trial)).exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield Finished(Outcome(job.trial, job.until, quality(job)), checkpoint=os.environ.get("CUDA_VISIBLE_DEVICES"))


@dataclass(frozen=True)
class Hanging:
    """Trial 1 sleeps and ignores every polite request to end; a worker takes `starting` seconds for its imports."""

    starting: float = 0.0

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        time.sleep(self.starting)

    def __call__(self, jobs: Sequence[Job]) -> Generator[Step]:
        (job,) = jobs
        if job.trial == 1:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                time.sleep(60)
        yield Finished(Outcome(job.trial, job.until, quality(job)))


@dataclass(frozen=True)
class Chaotic:
    """Half of all assignments raise, or come to NaN or inf."""

    seed: int

    def __call__(self, jobs: Sequence[Job]) -> Generator[Step]:
        (job,) = jobs
        match int(np.random.default_rng([self.seed, job.trial, job.until]).integers(6)):
            case 0:
                raise ValueError(f"trial {job.trial} does not like {job.until}")
            case 1:
                yield Finished(Outcome(job.trial, job.until, math.nan))
            case 2:
                yield Finished(Outcome(job.trial, job.until, math.inf))
            case _:
                yield Finished(Outcome(job.trial, job.until, quality(job)))


@dataclass(frozen=True)
class FullDisk:
    """Finds no room for its checkpoint."""

    def __call__(self, jobs: Sequence[Job]) -> Generator[Step]:
        (job,) = jobs
        yield Epoch(job.trial, 1, {})
        raise StorageError("cannot write the checkpoint: make room")


@dataclass(frozen=True)
class Patient:
    """Notes when it is asked to stop, as training leaves a checkpoint."""

    directory: Path

    def __call__(self, jobs: Sequence[Job]) -> Generator[Step]:
        (job,) = jobs
        epoch = 0
        try:
            while True:
                epoch += 1
                time.sleep(0.05)
                yield Epoch(job.trial, epoch, {})
        finally:
            (self.directory / str(job.trial)).write_text(str(epoch))


ENDS = (SystemExit(0), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError(), BaseException("mine"))


@dataclass(frozen=True)
class Quits:
    """A function that for x below 5 raises what is no Exception, and for 5 forks a child that does so."""

    def __call__(self, configuration: dict[str, Any], resource: int) -> float:
        if configuration["x"] < len(ENDS):
            raise ENDS[configuration["x"]]
        if (child := os.fork()) == 0:
            sys.exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        return 1.0


DEFAULTS = "signal.getsignal(2) is signal.default_int_handler and signal.getsignal(15) is signal.SIG_DFL"


def assert_defaults() -> None:
    assert eval(DEFAULTS)


@dataclass(frozen=True)
class Parent:
    """A function that starts processes in every way and asserts that they heed signals as Python's do."""

    def __call__(self, configuration: dict[str, Any], resource: int) -> float:
        for method in ("fork", "forkserver", "spawn"):
            child = get_context(method).Process(target=assert_defaults)
            child.start()
            child.join(60)
            assert child.exitcode == 0, (method, child.exitcode)
        fork = get_context("fork")
        for _ in range(20):  # a signal that comes before the child has done anything counts as well
            child = fork.Process(target=time.sleep, args=(600,))
            child.start()
            child.terminate()
            child.join(30)
            assert child.exitcode == -signal.SIGTERM, child.exitcode
        with fork.Pool(2) as pool:
            assert pool.map(abs, [-1, -2]) == [1, 2]
        for command in (["sleep", "600"], "exec sleep 600"):
            for number in (signal.SIGINT, signal.SIGTERM):
                with subprocess.Popen(command, shell=isinstance(command, str)) as started:
                    started.send_signal(number)
                    assert started.wait(30) == -number, command
        subprocess.run([sys.executable, "-S", "-c", f"import signal; assert {DEFAULTS}"], check=True)
        return 1.0


def write_pid(path: Path) -> None:
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(600)


@dataclass(frozen=True)
class Brood:
    """Starts processes that outlast it if they can, notes their ids in `path`, and hangs in trial 1."""

    path: Path
    n = 5

    def __call__(self, jobs: Sequence[Job]) -> Generator[Step]:
        (job,) = jobs
        note = f"echo $$ >> {self.path}; exec sleep 600"
        subprocess.Popen(["sh", "-c", note])
        subprocess.Popen(["sh", "-c", note], start_new_session=True)
        subprocess.Popen(["sh", "-c", note], env={"PATH": os.environ["PATH"]})
        subprocess.run(["sh", "-c", f"setsid sh -c '{note}' &"], check=True)
        get_context("fork").Process(target=write_pid, args=(self.path,)).start()
        while not self.path.exists() or len(self.path.read_text().split()) < self.n:
            time.sleep(0.02)
        yield Epoch(job.trial, 1, {"pid": os.getpid()})
        if job.trial == 1:
            time.sleep(600)
        yield Finished(Outcome(job.trial, job.until, quality(job)))
