"""A worker and all that its trials started: they end together."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_MARK = "HALVING_WORKER"
_ROUNDS = 5  # in which what is started while others are killed is found, too


def lead(mark: str) -> None:
    """Make this process the head of a tree, in a session of its own, which a terminal's Ctrl-C does not reach."""
    os.setsid()
    brand(mark)


def brand(mark: str) -> None:
    """Let what this process starts carry a mark, by which `end` finds it."""
    os.environ[_MARK] = mark


def end(heads: Mapping[int, str]) -> None:
    """Kill trees, given by the process id and the mark of each one's head, which may be dead already.

    On Linux these are all that descend from a head, are of its session or carry its mark, so that neither a session
    of their own nor a parent's death keeps them; elsewhere those of its process group.
    """
    for _ in range(_ROUNDS):
        others = _members(heads) - {os.getpid()}
        for pid in others:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if not others:
            break
    for head in heads:
        with suppress(OSError):
            os.killpg(head, signal.SIGKILL)


def end_own(mark: str) -> None:
    """End this process, the head of a tree, and all of it, from outside: what it runs meanwhile could start more."""
    try:
        subprocess.run([sys.executable, "-I", __file__, str(os.getpid()), mark], check=False)
    except OSError:  # there is no memory for another process, here neither
        end({os.getpid(): mark})


def descendants() -> set[int]:
    """Return what this process has started, and all that descends from it. Known on Linux only."""
    return _members({os.getpid(): ""}) - {os.getpid()}


def _members(heads: Mapping[int, str]) -> set[int]:
    marks = [f"{_MARK}={mark}\0".encode() for mark in heads.values()]
    found: set[int] = set()
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):  # parents before children
        with suppress(OSError):
            pid = int(process.name)
            state, parent, _, session = (process / "stat").read_bytes().rpartition(b")")[2].split()[:4]
            related = pid in heads or int(session) in heads or int(parent) in heads or int(parent) in found
            if state != b"Z" and (related or any(mark in (process / "environ").read_bytes() for mark in marks)):
                found.add(pid)
    return found


if __name__ == "__main__":
    end({int(sys.argv[1]): sys.argv[2]})
