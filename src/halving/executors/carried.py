"""Checkpoints carried along with jobs and messages, for workers that do not see the run directory."""

import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from secrets import token_hex
from tempfile import mkdtemp
from typing import Any, Protocol, runtime_checkable

from halving.checkpoints import DIRECTORY, resources
from halving.checkpoints.carried import Parcel, packed, parcels, unpack
from halving.checkpoints.files import make, put
from halving.checkpoints.names import supersede
from halving.executors.base import Objective
from halving.executors.pool import Backend, Slot
from halving.executors.work import Message, trial_of, work
from halving.trial import Job, Step

_PROBE = ".probe.tmp"


@runtime_checkable
class Keeping(Protocol):
    """An objective that keeps checkpoints below a run directory, and could keep them below another one."""

    @property
    def run_dir(self) -> Path: ...

    def at(self, run_dir: Path) -> Objective: ...


@dataclass(frozen=True, slots=True)
class Laden(Job):
    """A job with what it goes on from, for a worker that does not find `probe` in the run directory."""

    probe: str = ""
    load: tuple[Parcel, ...] = ()


@dataclass(frozen=True, slots=True)
class Shares:
    """The worker sees the run directory: it needs nothing carried."""


class Carrying:
    """A backend whose jobs and messages carry checkpoints where a slot does not see the run directory.

    With `always` nothing is found out: every slot is one of these.
    """

    def __init__(self, backend: Backend, run_dir: Path, always: bool) -> None:
        self._backend, self._run_dir, self._always = backend, run_dir, always
        self._probe = token_hex(16)
        self._laid = False
        self._sharing: set[Slot] = set()
        self._jobs: dict[Slot, dict[int, Job]] = {}

    def listen(self, timeout: float | None) -> Iterator[tuple[Slot, Message]]:
        heard: Any
        for slot, heard in self._backend.listen(timeout):
            match heard:
                case Shares():
                    self._sharing.add(slot)
                case Parcel(trial, resource):
                    if (job := self._jobs.get(slot, {}).get(trial)) is not None:
                        unpack(heard, self._run_dir)
                        supersede(self._run_dir, trial, job.since, resource)
                case _:
                    yield slot, heard

    def send(self, slot: Slot, jobs: Sequence[Job]) -> None:
        self._jobs[slot] = {job.trial: job for job in jobs}
        if slot not in self._sharing:
            if not (self._laid or self._always):  # by now the run directory is the study's
                make(self._run_dir)
                put(self._probe.encode(), self._run_dir / _PROBE)
                self._laid = True
            jobs = tuple(map(self._laden, jobs))
        self._backend.send(slot, jobs)

    def ask_to_stop(self, slot: Slot) -> None:
        self._backend.ask_to_stop(slot)

    def kill(self, slot: Slot) -> None:
        self._jobs.pop(slot, None)
        self._backend.kill(slot)

    def close(self) -> None:
        self._backend.close()
        if self._laid:
            (self._run_dir / _PROBE).unlink(missing_ok=True)

    def _laden(self, job: Job) -> Laden:
        own = {field.name: getattr(job, field.name) for field in fields(Job)}
        return Laden(**own, probe=self._probe, load=parcels(self._run_dir, job.trial, job.until))


class Carrier:
    """A worker's side: works on what comes in a directory of its own, where the run directory is not to be seen."""

    def __init__(self, objective: Objective) -> None:
        self._objective, self._own = objective, objective
        self._root: Path | None = None

    def work(self, jobs: Sequence[Job], asked_to_stop: Callable[[], bool]) -> Generator[Message | Parcel | Shares]:
        """Work as `work` does, and give what is to be carried before what tells of it."""
        laden = [job for job in jobs if isinstance(job, Laden)]
        if not laden or not isinstance(self._objective, Keeping):
            yield from work(self._objective, jobs, asked_to_stop)
        elif _seen(self._objective.run_dir / _PROBE, laden[0].probe):
            yield Shares()
            yield from work(self._objective, jobs, asked_to_stop)
        else:
            if self._root is None:
                self._root = Path(mkdtemp(prefix="halving-"))
                self._own = self._objective.at(self._root)
            for each in chain.from_iterable(job.load for job in laden):
                unpack(each, self._root)
            known = {job.trial: set(resources(self._root, job.trial)) for job in jobs}
            for message in work(self._own, jobs, asked_to_stop):
                of = (trial_of(message),) if isinstance(message, Step) else known
                for trial in of:
                    new = set(resources(self._root, trial)) - known[trial]
                    yield from (packed(self._root, trial, resource) for resource in sorted(new))
                    known[trial] |= new
                yield message
            for other in (self._root / DIRECTORY).glob("*"):  # no longer in memory either
                if other.name not in map(str, known):
                    shutil.rmtree(other, ignore_errors=True)

    def close(self) -> None:
        """Leave nothing on the disk."""
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)


def _seen(file: Path, content: str) -> bool:
    try:
        return file.read_text() == content
    except (OSError, UnicodeDecodeError):
        return False
