"""Network namespaces on a bridge in one of its own; nothing leaves them. They take root's rights."""

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import Any


class Network:
    """Machines at 10.77.0.<number>, as far as the network is concerned."""

    def __init__(self) -> None:
        self._name = f"halving{os.getpid()}"
        self._made: list[str] = []
        self._begun: list[subprocess.Popen[bytes]] = []
        self.env = dict(os.environ)
        self._ip("netns", "add", f"{self._name}s")
        self._made.append(f"{self._name}s")
        for words in (("add", "br0", "type", "bridge"), ("set", "br0", "up")):
            self._ip("-n", f"{self._name}s", "link", *words)

    def add(self, number: int) -> None:
        space, switch = f"{self._name}n{number}", f"{self._name}s"
        self._ip("netns", "add", space)
        self._made.append(space)
        self._ip("link", "add", "eth0", "netns", space, "type", "veth", "peer", "name", f"p{number}", "netns", switch)
        self._ip("-n", switch, "link", "set", f"p{number}", "master", "br0", "up")
        self._ip("-n", space, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            self._ip("-n", space, "link", "set", device, "up")

    def inside(self, number: int) -> list[str]:
        """Return the words before a command that is to run there."""
        return ["ip", "netns", "exec", f"{self._name}n{number}"]

    def begin(self, number: int, command: Sequence[str]) -> subprocess.Popen[bytes]:
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(
            [*self.inside(number), *command], env=self.env, start_new_session=True, stdin=subprocess.DEVNULL, **quiet
        )
        self._begun.append(process)
        return process

    def link(self, number: int, state: str) -> None:
        self._ip("-n", f"{self._name}s", "link", "set", f"p{number}", state)

    def kill(self, number: int) -> None:
        """Kill all that runs on a machine."""
        self._kill(f"{self._name}n{number}")

    def close(self) -> None:
        for space in self._made:
            self._kill(space)
            subprocess.run(["ip", "netns", "del", space], check=False)
        for process in self._begun:
            process.wait()

    def pids(self, number: int) -> list[str]:
        return self._pids(f"{self._name}n{number}")

    def _pids(self, space: str) -> list[str]:
        inside = ["ip", "netns", "pids", space]
        return subprocess.run(inside, capture_output=True, text=True, check=False).stdout.split()

    def _kill(self, space: str) -> None:
        for pid in self._pids(space):
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def _ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)
