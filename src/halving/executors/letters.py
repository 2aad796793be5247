"""What a study and a worker leave for one another in a directory that both see, where they cannot connect."""

import os
import pickle
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from halving.checkpoints.files import put
from halving.errors import StudyError
from halving.executors.work import Lost, Message, Raised, Stopped, Unstarted
from halving.trial import Finished, Job

OBJECTIVE, ALIVE = "objective", "alive"  # beside the letters of all workers
_JOBS, _SAID, _STOP = "jobs", "said", "stop"
_LOOK = 0.5  # seconds after which a worker looks whether it is to stop
_SILENCE = 600.0  # seconds without a sign of life after which the study is given up
_SIZE = 8  # bytes that say how long what follows is


class Letters:
    """A worker's side of a connection: it is asked for its jobs, and ends when they have, or the directory is gone."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._jobs: tuple[Job, ...] = pickle.loads((directory / _JOBS).read_bytes())
        self._left = len(self._jobs)
        self._said = os.open(directory / _SAID, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._asked = self._stopped = False
        self._over = threading.Event()
        self._sign, self._seen = 0.0, time.monotonic()

    def recv_bytes(self) -> bytes:
        return (self._directory.parent / OBJECTIVE).read_bytes()

    def send(self, said: str | tuple[int, Message]) -> None:
        content = pickle.dumps(said)
        whole = memoryview(len(content).to_bytes(_SIZE) + content)
        while whole:
            whole = whole[os.write(self._said, whole) :]
        os.fsync(self._said)  # other machines see it from here on
        told = said[1] if isinstance(said, tuple) else None
        if isinstance(told, Finished):
            self._left -= 1
        elif isinstance(told, Raised | Lost | Stopped | Unstarted | StudyError):
            self._left = 0
        if self._left <= 0:
            self._over.set()

    def recv(self) -> tuple[int, tuple[Job, ...] | Stopped]:
        """Return the jobs, and then that they are to stop, once that is asked; raise EOFError at the end."""
        if not self._asked:
            self._asked = True
            return 0, self._jobs
        while not self._over.wait(_LOOK) and self._directory.is_dir():
            if not self._stopped and ((self._directory / _STOP).exists() or self._forsaken()):
                self._stopped = True
                return 0, Stopped()
        raise EOFError

    def _forsaken(self) -> bool:
        """Whether the study has long given no sign of life. Only this machine's clock is asked."""
        with suppress(OSError):
            if (sign := (self._directory.parent / ALIVE).stat().st_mtime) != self._sign:
                self._sign, self._seen = sign, time.monotonic()
        return time.monotonic() - self._seen > _SILENCE


class Box:
    """The study's side: what it has for one worker, and hears from it."""

    def __init__(self, directory: Path, jobs: Sequence[Job]) -> None:
        self.directory = directory
        self.begun = False
        self._read = 0
        put(pickle.dumps(tuple(jobs)), directory / _JOBS)

    def stop(self) -> None:
        put(b"", self.directory / _STOP)

    def close(self) -> None:
        """Let a worker end at once, if it has not: it looks for its directory."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def said(self) -> Iterator[Message]:
        """Give what was said since; of what is not taken nothing is lost."""
        try:
            with (self.directory / _SAID).open("rb") as file:
                file.seek(self._read)
                content = file.read()
        except OSError:  # it has said nothing yet
            return
        while len(content) >= _SIZE and len(content) >= (end := _SIZE + int.from_bytes(content[:_SIZE])):
            self.begun = True
            self._read += end
            one, content = content[_SIZE:end], content[end:]
            told: str | tuple[int, Message] = pickle.loads(one)
            if isinstance(told, tuple):  # not just its name
                yield told[1]
