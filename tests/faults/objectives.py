"""Objectives that misbehave in real ways; they train nothing, so that a worker is there in a moment."""

import math
import os
import resource
import signal
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from halving.errors import StorageError
from halving.trial import Epoch, Finished, Job, Outcome, Step


def quality(job: Job) -> float:
    return float(np.random.default_rng([job.trial, job.until]).random())


@dataclass(frozen=True)
class Plain:
    """Takes `seconds` for each unit and comes to an error that follows from trial and resource."""

    seconds: float = 0.0

    def __call__(self, job: Job) -> Generator[Step]:
        for epoch in range(job.since + 1, job.until + 1):
            time.sleep(self.seconds)
            yield Epoch(job.trial, epoch, {"val_error": quality(job)})
        yield Finished(Outcome(job.trial, job.until, quality(job)), checkpoint=f"{os.getpid()}.pt")


@dataclass(frozen=True)
class Killed:
    """Trial 1 is killed in its second epoch by SIGKILL, as often as `times`; it goes on from what it left."""

    directory: Path
    times: int

    def __call__(self, job: Job) -> Generator[Step]:
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

    def __call__(self, job: Job) -> Generator[Step]:
        if job.trial == 1:
            resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
            bytearray(2**32)
        yield Finished(Outcome(job.trial, job.until, quality(job)))


@dataclass(frozen=True)
class Hanging:
    """Trial 1 sleeps and ignores every polite request to end."""

    def __call__(self, job: Job) -> Generator[Step]:
        if job.trial == 1:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                time.sleep(60)
        yield Finished(Outcome(job.trial, job.until, quality(job)))


@dataclass(frozen=True)
class Chaotic:
    """Half of all assignments raise, or come to NaN or inf."""

    seed: int

    def __call__(self, job: Job) -> Generator[Step]:
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

    def __call__(self, job: Job) -> Generator[Step]:
        yield Epoch(job.trial, 1, {})
        raise StorageError("cannot write the checkpoint: make room")


@dataclass(frozen=True)
class Patient:
    """Notes when it is asked to stop, as training leaves a checkpoint."""

    directory: Path

    def __call__(self, job: Job) -> Generator[Step]:
        epoch = 0
        try:
            while True:
                epoch += 1
                time.sleep(0.05)
                yield Epoch(job.trial, epoch, {})
        finally:
            (self.directory / str(job.trial)).write_text(str(epoch))
