"""Workers that connect: whatever starts a pilot somewhere gives slots, for as long as it lives."""

import errno
import itertools
import logging
import pickle
import secrets
import socket
import struct
import threading
import time
from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any, Protocol

from halving.environment import allow_files
from halving.errors import UserError
from halving.executors.base import Objective
from halving.executors.carried import Carrying, Keeping
from halving.executors.pilot import Order, by_value, tune
from halving.executors.pool import Backend, Batching, Pool, Slot, limits
from halving.executors.process import START
from halving.executors.signed import Signed
from halving.executors.work import Lost, Message, Stopped, Unstarted
from halving.trial import Job

log = logging.getLogger(__name__)

_BEAT = 1.0  # seconds after which what started pilots is looked at again
_HANDSHAKE = 10  # seconds to show the key
_NAME = 1024  # bytes of a pilot's name


class Launcher(Protocol):
    """What starts pilots, and others in the place of those that have ended."""

    def start(self, host: str, port: int, key: bytes) -> None:
        """Start pilots that connect to this address and have this key. Raises UserError where that cannot be."""
        ...

    def tend(self, joined: Container[str]) -> Iterator[str]:
        """Start others in the place of pilots that ended, and say why one ended that has not `joined`."""
        ...

    def places(self) -> int:
        """Return how many pilots there are, or may yet come."""
        ...

    def blames(self, name: str) -> bool:
        """Whether a pilot ended by what its trials did."""
        ...

    def close(self) -> None:
        """End all of them, and wait until they have."""
        ...


class Piloted(Pool):
    """Runs jobs in the workers of pilots that a launcher starts, which connect to `address`, a name of this machine.

    With None they connect to it from itself. Whoever has not the study's key is not admitted. `checkpoints` are on a
    path that all see, or are carried to this machine with what workers tell; None finds out for each worker. A pilot's
    end costs its trials no retry, unless it was their doing.

    Raises UserError for numbers out of range, and for an address that is not this machine's.
    """

    elsewhere = True

    def __init__(
        self,
        objective: Objective,
        launcher: Launcher,
        workers: int,
        address: str | None,
        checkpoints: str | None,
        retries: int,
        trial_timeout: float | None,
        batch: int,
        patience: float,
    ) -> None:
        if checkpoints not in (None, "shared", "carried"):
            raise UserError(f"executor.checkpoints={checkpoints}: give shared, carried, or null to find out")
        self.workers = workers
        within, batching = limits(retries, trial_timeout), Batching.of(objective, batch, patience)
        pilots = Pilots(objective, launcher, address)
        try:
            backend: Backend = pilots
            if checkpoints != "shared" and isinstance(objective, Keeping):
                backend = Carrying(pilots, objective.run_dir, always=checkpoints == "carried")
            super().__init__(backend, *within, START, batching)
        except BaseException:
            pilots.close()
            raise


class Pilots:
    """A slot is a worker of a pilot, which tells of it over the pilot's connection."""

    def __init__(self, objective: Objective, launcher: Launcher, address: str | None) -> None:
        self._content = by_value(objective)
        allow_files()
        self._key = secrets.token_bytes(32)
        self._launcher = launcher
        self._numbers = itertools.count()
        self._names: dict[Signed, str] = {}
        self._slots: dict[Slot, tuple[Signed, Slot]] = {}  # what a pilot calls it
        self._known: dict[Signed, dict[Slot, Slot]] = {}  # and the other way round
        self._joined: set[str] = set()
        self._tended = time.monotonic()
        self._closed = False
        self._new: SimpleQueue[tuple[str, Signed]] = SimpleQueue()
        self._bell, self._ring = Pipe(duplex=False)
        try:
            self._door = socket.create_server((address or "127.0.0.1", 0), backlog=128)
        except OSError as error:
            raise UserError(
                f"executor.address={address}: this machine cannot listen there ({error.strerror or error}); give its "
                "own name or number as the workers' machines have it"
            ) from error
        threading.Thread(target=self._admit_all, daemon=True).start()
        host, port = self._door.getsockname()[:2]
        try:
            launcher.start(socket.gethostname() if host == "0.0.0.0" else address or host, port, self._key)
        except BaseException:
            self.close()
            raise

    def listen(self, timeout: float | None) -> Iterator[tuple[Slot, Message]]:
        if time.monotonic() - self._tended >= _BEAT:
            yield from self._tend()
        ends: list[Any] = [self._bell, *self._names]
        for each in wait(ends, _BEAT if timeout is None else min(_BEAT, timeout)):
            if each is self._bell:
                self._bell.recv_bytes()
                name, connection = self._new.get()
                self._names[connection] = name
                self._joined.add(name)
            elif isinstance(each, Signed):
                yield from self._said(each)

    def send(self, slot: Slot, jobs: Sequence[Job]) -> None:
        self._order(slot, tuple(jobs))

    def ask_to_stop(self, slot: Slot) -> None:
        self._order(slot, Stopped())

    def kill(self, slot: Slot) -> None:
        self._order(slot, None)
        self._slots.pop(slot, None)

    def close(self) -> None:
        self._closed = True
        with suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)  # wakes who waits there
        self._door.close()
        for connection in self._names:
            connection.close()
        self._names.clear()
        self._launcher.close()

    def _tend(self) -> Iterator[tuple[Slot, Message]]:
        for cause in self._launcher.tend(self._joined):
            if self._launcher.places():
                log.warning("%s", cause)
            else:
                yield next(self._numbers), Unstarted(cause)
        self._tended = time.monotonic()

    def _order(self, slot: Slot, order: tuple[Job, ...] | Stopped | None) -> None:
        if slot in self._slots:
            connection, own = self._slots[slot]
            said: Order = own, order
            with suppress(OSError):  # it has gone, which is heard next
                connection.send(said)

    def _said(self, connection: Signed) -> Iterator[tuple[Slot, Message]]:
        of = self._known.setdefault(connection, {})
        try:
            while connection.poll():
                own, message = connection.recv()
                if own not in of:
                    of[own] = next(self._numbers)
                    self._slots[of[own]] = connection, own
                if isinstance(message, Lost | Stopped | Unstarted):
                    self._slots.pop(of[own], None)
                yield of[own], message
        except (EOFError, OSError):
            name = self._names.pop(connection)
            del self._known[connection]
            connection.close()
            blame = any(slot in self._slots for slot in of.values()) and self._launcher.blames(name)
            for slot in of.values():
                if self._slots.pop(slot, None) is not None:
                    yield slot, Lost(f"its pilot {name} ended or is out of reach", blame)

    def _admit_all(self) -> None:
        told = False
        while not self._closed:
            try:
                end, _ = self._door.accept()
            except OSError as error:  # a lack that passes, when others end
                if error.errno == errno.EMFILE and not told:
                    told = True
                    log.warning(
                        "this process may open no more files, so that no more workers can join: begin the study after "
                        "`ulimit -n 65536`, or with fewer workers"
                    )
                time.sleep(0.1)
                continue
            threading.Thread(target=self._admit, args=(end,), daemon=True).start()

    def _admit(self, end: socket.socket) -> None:
        """Let in who has the key, and tell others nothing."""
        with end, ExitStack() as strange:
            try:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _HANDSHAKE, 0))
                connection = Connection(end.dup().detach())
                strange.callback(connection.close)
                signed = Signed(connection, self._key, door=True)
                name: Any = pickle.loads(signed.recv_bytes(_NAME))
                signed.send_bytes(self._content)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 0))
                tune(connection)
            except Exception:  # a stranger may say anything
                return
            strange.pop_all()
        self._new.put((str(name), signed))
        with suppress(OSError):
            self._ring.send_bytes(b"")
