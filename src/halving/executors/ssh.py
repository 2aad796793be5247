"""Workers on machines that ssh reaches."""

import logging
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, Any

from halving.errors import UserError, whole
from halving.executors.base import Objective
from halving.executors.pilot import BEGIN, invitation
from halving.executors.pilots import Piloted

log = logging.getLogger(__name__)

_PARTING = 5.0  # seconds for pilots to end what runs there
AGAIN = 10.0  # seconds before a machine that was lost is tried again
_OPTIONS = ("BatchMode=yes", "ExitOnForwardFailure=yes", "ServerAliveInterval=15", "ServerAliveCountMax=3")


class SSH(Piloted):
    """Runs jobs in `workers` processes on each of `hosts`, as ssh knows them: its config says users, ports and keys.

    There `python` is an interpreter that has halving, by default the path of this one. All goes through ssh, unless
    `address` is this machine's name as the hosts know it: then workers connect to it, and what is said is signed, but
    not encrypted. The workers of a host have its GPUs in turn. A host that is lost is tried again; the death of one
    costs its trials no retry.

    Raises UserError for hosts that are none, without ssh, and for numbers out of range.
    """

    def __init__(
        self,
        objective: Objective,
        hosts: Sequence[str],
        workers: int = 1,
        python: str | None = None,
        address: str | None = None,
        checkpoints: str | None = None,
        retries: int = 2,
        trial_timeout: float | None = None,
        batch: int = 1,
        patience: float = 0.0,
    ) -> None:
        given: Any = hosts
        if not isinstance(given, list | tuple) or not hosts or not all(_is_host(each) for each in hosts):
            raise UserError(f"executor.hosts={hosts}: give the names of machines, such as executor.hosts=[a,b]")
        each = whole("executor.workers", workers)
        spread = getattr(objective, "device", "auto") in ("auto", "cuda")
        started = _Started(hosts, each, python or sys.executable, address is None, spread)
        super().__init__(
            objective, started, each * len(hosts), address, checkpoints, retries, trial_timeout, batch, patience
        )


@dataclass
class _Ssh:
    process: subprocess.Popen[bytes]
    said: IO[bytes]
    since: float


class _Started:
    """A process of ssh for each host, for as long as its pilot lives. `tunnelled`, it also carries what is said."""

    def __init__(self, hosts: Sequence[str], workers: int, python: str, tunnelled: bool, spread: bool) -> None:
        self._hosts = dict(enumerate(hosts))
        self._workers, self._python, self._tunnelled, self._spread = workers, python, tunnelled, spread
        self._running: dict[int, _Ssh] = {}
        self._at: tuple[str, int, bytes] = "", 0, b""

    def start(self, host: str, port: int, key: bytes) -> None:
        self._at = host, port, key
        for number in self._hosts:
            self._begin(number)

    def tend(self, joined: Container[str]) -> Iterator[str]:
        for number, each in list(self._running.items()):
            if each.process.poll() is None:
                continue
            if self._name(number) in joined:
                if time.monotonic() - each.since >= AGAIN:
                    each.said.close()
                    self._begin(number)
                continue
            each.said.seek(0)
            lines = each.said.read().decode(errors="replace").strip().splitlines() or ["it says nothing"]
            each.said.close()
            del self._running[number]
            yield f"executor=ssh: on {self._hosts[number]} no worker could start: {lines[-1].strip()}"

    def places(self) -> int:
        return len(self._running)

    def blames(self, name: str) -> bool:
        return False

    def close(self) -> None:
        deadline = time.monotonic() + _PARTING
        for each in self._running.values():
            with suppress(subprocess.TimeoutExpired):
                each.process.wait(max(0.0, deadline - time.monotonic()))
            each.process.kill()
            each.process.wait()
            each.said.close()
        self._running.clear()

    def _name(self, number: int) -> str:
        return f"{number} on {self._hosts[number]}"

    def _begin(self, number: int) -> None:
        host, port, key = self._at
        tunnel, path = list[str](), ""
        if self._tunnelled:  # to a socket there, which only its user may open
            path = f"/tmp/halving-{secrets.token_hex(12)}.sock"
            tunnel = ["-R", f"{path}:{host}:{port}"]
            host, port = path, 0
        words = [self._python, "-P", "-c", BEGIN, self._name(number), str(self._workers)]
        options = [word for option in _OPTIONS for word in ("-o", option)]
        there = f"{shlex.join(words)}; rm -f {path}" if path else f"exec {shlex.join(words)}"
        command = ["ssh", "-T", *options, *tunnel, "--", self._hosts[number], there]
        said = TemporaryFile()  # noqa: SIM115
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said, start_new_session=True)
        except OSError as error:
            said.close()
            raise UserError(f"executor=ssh: ssh cannot be run here: {error.strerror}") from error
        assert process.stdin is not None
        with suppress(OSError), process.stdin:  # it has ended, which is seen to later
            process.stdin.write(invitation(host=host, port=port, key=key.hex(), spread=self._spread))
        self._running[number] = _Ssh(process, said, time.monotonic())


def _is_host(name: Any) -> bool:
    return isinstance(name, str) and bool(name) and not name.startswith("-") and not any(map(str.isspace, name))
