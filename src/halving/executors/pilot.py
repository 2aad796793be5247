"""A pilot: workers on another machine, which the study's process has over one connection, for as long as it lasts."""

import json
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any

from halving.environment import wait_briefly
from halving.errors import UserError
from halving.executors.base import Objective
from halving.executors.letters import Letters
from halving.executors.pool import Slot
from halving.executors.process import Processes
from halving.executors.signed import Signed
from halving.executors.work import Lost, Raised, Ready, Stopped, Unstarted
from halving.trial import Finished, Job

# What an interpreter elsewhere is given: what was put on this one's path goes before what is installed there.
BEGIN = (
    "import sys, json; said = json.loads(sys.stdin.readline()); sys.path[:0] = said['path']; "
    "from halving.executors.pilot import main; main(said, *sys.argv[1:])"
)
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
_ANSWER = 30  # seconds for a machine to name its GPUs
SILENCE = 60  # seconds after which the other side is given up
GREETING = 60  # seconds for the other side to show that it is the study, whose port may be another's by now

Order = tuple[Slot, tuple[Job, ...] | Stopped | None]  # to run, to stop, to be killed


def invitation(**said: str | int) -> bytes:
    """Return the line that a pilot reads first.

    Whoever has the `key` may join at `port` of `host`, or with port 0 at a socket's path; or it says a `directory`.
    With `spread` each of its workers sees one of the machine's GPUs, in turn.
    """
    entries = [Path(each).absolute() for each in sys.path if each]
    own = [str(each) for each in entries if not any(map(each.is_relative_to, (sys.prefix, sys.base_prefix)))]
    return json.dumps({**said, "path": own}).encode() + b"\n"


def by_value(objective: Objective) -> bytes:
    """Return what is evaluated as other machines can have it. Raises UserError where they cannot."""
    try:  # with cloudpickle also what is defined in a script, which is no module elsewhere
        return import_module("cloudpickle" if find_spec("cloudpickle") else "pickle").dumps(objective)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(f"what is evaluated cannot be sent to another machine ({error})") from error


def main(invited: dict[str, Any], name: str, workers: str) -> None:
    """Join, and work until the connection ends or a signal asks to."""
    asked: list[int] = []
    for number in _SIGNALS:
        signal.signal(number, lambda number, frame: asked.append(number))
    wait_briefly()
    try:
        channel = Letters(Path(invited["directory"])) if "directory" in invited else join(invited)
    except Exception as error:
        at = invited.get("directory") or f"{invited['host']}:{invited['port']}"
        sys.exit(f"the study at {at} cannot be joined: {type(error).__name__}: {error}")
    bell, ring = Pipe(duplex=False)
    orders: SimpleQueue[Order | None] = SimpleQueue()
    # What a worker that is killed has had on the disk goes with the pilot; the study may go at any moment.
    with suppress(EOFError, OSError), TemporaryDirectory(prefix="halving-") as os.environ["TMPDIR"]:
        channel.send(name)
        objective = _Given(channel.recv_bytes())
        threading.Thread(target=_hear, args=(channel, orders, ring), daemon=True).start()
        with closing(Processes(objective, places(int(workers), invited.get("spread", 0)), bell)) as processes:
            _Pilot(channel, processes).fly(orders, bell, asked)


def gpus() -> list[str]:
    """Return this machine's GPUs as CUDA names them, without loading what could use them."""
    if (seen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [each for each in seen.split(",") if each]
    with suppress(OSError, subprocess.SubprocessError):
        asked = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        return subprocess.run(asked, capture_output=True, text=True, timeout=_ANSWER, check=True).stdout.split()
    return []


def places(workers: int, spread: int) -> list[str | None]:
    """Return the GPU of each worker, in turn, None where it may see all of them."""
    found = gpus() if spread and workers > 1 else []
    return [found[i % len(found)] if found else None for i in range(workers)]


def tune(connection: Connection) -> None:
    """Let a connection wait for no more to send, and end when the other side has long been silent."""
    with socket.socket(fileno=os.dup(connection.fileno())) as end:
        if end.family == socket.AF_UNIX:
            return
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        own = {"TCP_KEEPIDLE": SILENCE // 3, "TCP_KEEPINTVL": SILENCE // 6, "TCP_KEEPCNT": 4}
        for option, value in {**own, "TCP_USER_TIMEOUT": SILENCE * 1000}.items():
            if hasattr(socket, option):
                end.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


class _Pilot:
    """Tells of workers, and does with them what is ordered. Asked to, it ends when each has left a checkpoint."""

    def __init__(self, channel: Signed | Letters, processes: Processes) -> None:
        self._channel, self._processes = channel, processes
        self._busy: dict[Slot, int] = {}  # how many of its jobs have no end yet

    def fly(self, orders: "SimpleQueue[Order | None]", bell: Connection, asked: list[int]) -> None:
        ending = False
        while not (ending and not self._busy):
            for slot, message in self._processes.listen(None):
                self._tell(slot, message, ending)
            while bell.poll():
                bell.recv_bytes()
                if (order := orders.get()) is None:
                    return
                self._obey(*order)
            if asked and not ending:
                ending = True
                for slot, busy in list(self._busy.items()):
                    if busy:
                        self._processes.ask_to_stop(slot)
                    else:
                        self._tell(slot, Stopped(), ending)

    def _tell(self, slot: Slot, message: Any, ending: bool) -> None:
        match message:
            case Ready() if ending:
                return
            case Ready():
                self._busy[slot] = 0
            case Lost() | Stopped() | Unstarted():
                if self._busy.pop(slot, None) is None:
                    return
            case Finished() if self._busy.get(slot):
                self._busy[slot] -= 1
            case Raised() if slot in self._busy:
                self._busy[slot] = 0
            case _:
                pass
        self._channel.send((slot, message))
        if ending and self._busy.get(slot) == 0:
            self._tell(slot, Stopped(), ending)

    def _obey(self, slot: Slot, order: tuple[Job, ...] | Stopped | None) -> None:
        if slot not in self._busy:
            return
        match order:
            case tuple():
                self._busy[slot] = len(order)
                self._processes.send(slot, order)
            case Stopped():
                self._processes.ask_to_stop(slot)
            case None:
                del self._busy[slot]
                self._processes.kill(slot)


class _Given:
    """An objective by value: it is the worker that imports what it needs, and can say what it lacks."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __reduce__(self) -> tuple[Callable[[bytes], object], tuple[bytes]]:
        return _unpacked, (self._content,)

    __call__: Any = None


def _unpacked(content: bytes) -> Objective | Unstarted:
    try:
        return pickle.loads(content)
    except Exception as error:
        return Unstarted(
            f"a worker on {socket.gethostname()} could not start: {type(error).__name__}: {error}; what it runs must "
            "be importable there"
        )


def join(invited: dict[str, Any]) -> Signed:
    """Return a pilot's connection. Raises OSError and EOFError where there is none."""
    host, port, key = str(invited["host"]), int(invited["port"]), bytes.fromhex(invited["key"])
    if port:
        end = socket.create_connection((host, port), timeout=SILENCE)
    else:
        end = socket.socket(socket.AF_UNIX)
        end.connect(host)
        Path(host).unlink(missing_ok=True)
    end.settimeout(None)
    connection = Connection(end.detach())
    tune(connection)
    _answered_within(connection, GREETING)
    channel = Signed(connection, key, door=False)
    _answered_within(connection, 0)
    return channel


def _answered_within(connection: Connection, seconds: int) -> None:
    """Let a connection raise OSError where nothing is heard for so long; with 0 it waits."""
    with socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", seconds, 0))


def _hear(channel: Signed | Letters, orders: "SimpleQueue[Order | None]", ring: Connection) -> None:
    """Take orders as they come, whatever else is done, so that nobody there waits for being heard."""
    with suppress(EOFError, OSError):
        while True:
            orders.put(channel.recv())
            ring.send_bytes(b"")
    orders.put(None)
    ring.send_bytes(b"")
