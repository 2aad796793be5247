"""Each assignment as a job of Slurm's own, for clusters whose nodes may not connect to the study."""

import itertools
import logging
import os
import shlex
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from halving.checkpoints.files import put
from halving.errors import StudyError, UserError
from halving.executors.base import Objective
from halving.executors.letters import ALIVE, OBJECTIVE, Box
from halving.executors.pilot import BEGIN, by_value, invitation
from halving.executors.pool import Slot
from halving.executors.sbatch import GOING, Submitting
from halving.executors.work import Lost, Message, Raised, Ready, Stopped, Unstarted
from halving.trial import Finished, Job

log = logging.getLogger(__name__)

_BEAT = 1.0  # seconds after which the pool is given a turn
_GLANCE = 0.2  # seconds after which letters are looked for
_LOOK = 2.0  # seconds after which Slurm is asked again
_SIGN = 10.0  # seconds between two signs of life
_NAME = ".jobs-"


@dataclass
class _Submitted:
    """Jobs that Slurm has as `number`, if it took them; how many have no end yet, and whether Slurm's has `ended`."""

    box: Box
    left: int
    number: str = ""
    ended: bool = False


class Jobs:
    """A slot is a place in Slurm's queue, of which there are `workers` from the beginning.

    What a slot is sent is submitted; the job is a pilot of its own, which leaves in a directory what it has to say. The
    directory lies in the run directory, or where the study was begun, and goes with the study.

    Raises UserError where Slurm would not take a job.
    """

    def __init__(
        self, objective: Objective, submitting: Submitting, workers: int, python: str, run_dir: Path | None
    ) -> None:
        self._content = by_value(objective)
        self._submitting, self._python = submitting, python
        self._run_dir = run_dir
        self._root: Path | None = None
        self._numbers, self._letters = itertools.count(), itertools.count()
        self._new = [next(self._numbers) for _ in range(workers)]
        self._at: dict[Slot, _Submitted] = {}
        self._ends: deque[tuple[Slot, Message]] = deque()
        self._looked = self._signed = time.monotonic()
        self._waiting: float | None = None  # since when there are jobs, but none has begun
        self._waited = 0.0
        self._cancel_all()
        try:
            submitting.submit("#!/bin/sh\n", "--test-only")
        except UserError as error:
            if "node configuration is not available" not in str(error):  # which a job waits for: nodes come back
                raise

    def listen(self, timeout: float | None) -> Iterator[tuple[Slot, Message]]:
        until = time.monotonic() + (_BEAT if timeout is None else min(_BEAT, timeout))
        yield from self._ready()
        while True:
            heard = False
            for slot, each in list(self._at.items()):
                for message in each.box.said():
                    for told in self._heard(slot, each, message):
                        heard = True
                        yield slot, told
            self._note()
            if time.monotonic() - self._looked >= _LOOK:
                self._look()
            yield from self._ready()
            while self._ends:
                heard = True
                yield self._ends.popleft()
            if heard or (left := until - time.monotonic()) <= 0:
                return
            time.sleep(min(_GLANCE, left))

    def send(self, slot: Slot, jobs: Sequence[Job]) -> None:
        if self._root is None:  # by now the run directory is the study's
            for stale in self._run_dir.glob(f"{_NAME}*") if self._run_dir is not None else ():
                shutil.rmtree(stale, ignore_errors=True)  # of a process that was killed, whose jobs are cancelled
            self._root = Path(mkdtemp(prefix=_NAME, dir=self._run_dir or Path.cwd()))
            put(self._content, self._root / OBJECTIVE)
            (self._root / ALIVE).touch()
        self._at[slot] = _Submitted(Box(self._root / str(next(self._letters)), jobs), len(jobs))
        self._submit(self._at[slot])
        self._note()

    def ask_to_stop(self, slot: Slot) -> None:
        if (each := self._at.get(slot)) is None:
            return
        each.box.stop()
        if not each.box.begun:  # it need not wait for its turn to do nothing
            self._cancel(each)
            self._end(slot, each, Stopped())

    def kill(self, slot: Slot) -> None:
        if (each := self._at.pop(slot, None)) is not None:
            each.box.close()
            self._cancel(each)
            self._new.append(next(self._numbers))

    def close(self) -> None:
        self._cancel_all()
        self._at.clear()
        for _ in range(10):  # who writes there at the moment may keep it
            if self._root is not None and self._root.exists():
                shutil.rmtree(self._root, ignore_errors=True)  # which ends whom Slurm has not ended yet

    def waited(self) -> float:
        """Return the seconds in which all jobs waited for their turn."""
        return self._waited + (0.0 if self._waiting is None else time.monotonic() - self._waiting)

    def _note(self) -> None:
        """Take note of whether all wait, or there is nothing to wait for."""
        waits = bool(self._at) and not any(each.box.begun for each in self._at.values())
        if waits and self._waiting is None:
            self._waiting = time.monotonic()
        elif not waits and self._waiting is not None:
            self._waited, self._waiting = self.waited(), None

    def _submit(self, each: _Submitted) -> None:
        words = shlex.join([self._python, "-P", "-c", BEGIN, each.box.directory.name, "1"])
        said = invitation(directory=str(each.box.directory)).decode()
        try:
            each.number = self._submitting.submit(f"#!/bin/sh\nexec {words} <<'END'\n{said}END\n")
        except UserError as error:
            log.warning("%s; this is tried again", error)

    def _heard(self, slot: Slot, each: _Submitted, message: Message) -> Iterator[Message]:
        """Give what a job says to the pool, which knows its slots without it."""
        match message:
            case Ready():
                return
            case Lost() | Stopped() | Unstarted():
                self._end(slot, each, message)
                return
            case Finished():
                each.left -= 1
            case Raised() | StudyError():
                each.left = 0
            case _:
                pass
        if each.left <= 0:
            del self._at[slot]
            each.box.close()
        yield message

    def _end(self, slot: Slot, each: _Submitted, message: Lost | Stopped | Unstarted) -> None:
        """Let another slot take the place of one, unless no job can begin there."""
        self._at.pop(slot, None)
        each.box.close()
        if not isinstance(message, Unstarted):
            self._new.append(next(self._numbers))
        self._ends.append((slot, message))

    def _look(self) -> None:
        """Find out who has ended without a word, which may arrive later than Slurm knows."""
        self._looked = time.monotonic()
        if self._root is not None and time.monotonic() - self._signed >= _SIGN:
            self._signed = time.monotonic()
            os.utime(self._root / ALIVE)
        for each in self._at.values():
            if not each.number:
                self._submit(each)
        if not self._at or (states := self._submitting.states()) is None:
            return
        for slot, each in list(self._at.items()):
            state, reason = states.get(each.number, ("gone", ""))
            if not each.number or state in GOING:
                each.ended = False
            elif not each.ended:
                each.ended = True
            elif state in ("FAILED", "COMPLETED") and not each.box.begun and "Launch" not in reason:
                told = f"executor=slurm: job {each.number} could not start a worker: see jobs.log in the run directory"
                self._end(slot, each, Unstarted(told))
            else:
                memory = state == "OUT_OF_MEMORY"
                self._end(slot, each, Lost(f"its job {each.number} ended: {state}", memory, memory=memory))

    def _ready(self) -> Iterator[tuple[Slot, Ready]]:
        while self._new:
            yield self._new.pop(0), Ready()

    def _cancel(self, each: _Submitted) -> None:
        if each.number:
            self._submitting.cancel(each.number)

    def _cancel_all(self) -> None:
        if left := self._submitting.cancel():
            log.warning("executor=slurm: %s", left)
