"""The lock of a run directory: one process writes its journal, and is named to all others."""

import errno
import fcntl
import os
import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from halving.errors import UserError

LOCK = "journal.lock"

# What flock says of a file system that has no such thing, as some for clusters and some in user space.
_NO_FLOCK = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
_FREE = "free\n"
_CLAIM = re.compile(r"(?P<who>host (?P<host>.*), pid (?P<pid>\d+))\nnamespace (?P<namespace>.*), began (?P<began>.*)\n")
_PROC = Path("/proc/self/stat")
_locks: set[int] = set()


def lock(run_dir: Path) -> Callable[[], None]:
    """Take the exclusive lock of a run directory, and return what gives it up; a dead owner's is free.

    Where the file system knows no flock, the last of numbered claims has it. Its owner's death is seen on its own host
    only. Raises UserError, which names the owner, if another process has it.
    """
    path = run_dir / LOCK
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    _locks.add(fd)
    try:
        if not _flocked(fd, run_dir):
            return partial(_give_up, fd, _claim(path), os.getpid())
        number, text = _last(path)
        if _living(text):
            raise _held(path, number, text)
    except BaseException:
        _unlock(fd)
        raise
    with suppress(OSError):  # a full disk does not undo the lock; only its owner stays unnamed
        os.ftruncate(fd, 0)
        os.write(fd, f"{_me()}\n".encode())
    return partial(_unlock, fd)


def owner(run_dir: Path) -> str:
    """Return who holds the lock of a run directory, and so runs its study; nothing where nobody does."""
    try:
        fd = os.open(run_dir / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    with os.fdopen(fd, errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                return file.read(200).strip() or "another process"
    _, text = _last(run_dir / LOCK)
    return _who(text) if _living(text) else ""


def _flocked(fd: int, run_dir: Path) -> bool:
    """Whether flock has locked a file; its file system may have no such thing."""
    for left in (3, 2, 1, 0):  # one who looks for the owner has it for a moment
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_FLOCK:
                return False
            if not left:
                holder = os.read(fd, 200).decode(errors="replace").strip() or "another process"
                raise UserError(f"{run_dir} is being written by {holder}; wait for it, or stop it first") from error
            time.sleep(0.02)
        else:
            break
    return True


def _claim(path: Path) -> Path:
    """Make the next claim. The last of all is never removed, so that whoever sees none behind its own is the owner."""
    while True:
        number, text = _last(path)
        if _living(text):
            raise _held(path, number, text)
        claim = _numbered(path, number + 1)
        try:
            fd = os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        except FileExistsError:
            continue
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(f"{_me()}\nnamespace {_namespace()}, began {_began(os.getpid())}\n")
        except BaseException:
            claim.unlink()
            raise
        if _last(path)[0] > number + 1:  # of some that came and went since the look
            claim.unlink()
            continue
        for earlier in _claims(path).values():
            if earlier != claim:
                earlier.unlink(missing_ok=True)
        return claim


def _claims(path: Path) -> dict[int, Path]:
    found = path.parent.glob(f"{path.name}-*")
    return {int(number): each for each in found if (number := each.name.rpartition("-")[2]).isdecimal()}


def _last(path: Path) -> tuple[int, str]:
    """Return the number of the last claim, 0 for none, and what it says."""
    number = max(_claims(path), default=0)
    if not number:
        return 0, _FREE
    try:
        fd = os.open(_numbered(path, number), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # a later one has been made since
        return number, ""
    with os.fdopen(fd, encoding="utf-8", errors="replace") as file:
        return number, file.read(400)


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}-{number}")


def _living(text: str) -> bool:
    """Whether a claim holds: what cannot be looked at from here is taken for alive."""
    claim = _CLAIM.fullmatch(text)
    if claim is None:
        return not text.startswith(_FREE)  # what is empty is being written
    return not _local(claim) or _began(int(claim["pid"])) == claim["began"]


def _local(claim: re.Match[str]) -> bool:
    return (claim["host"], claim["namespace"]) == (socket.gethostname(), _namespace())


def _held(path: Path, number: int, text: str) -> UserError:
    claim = _CLAIM.fullmatch(text)
    remedy = "wait for it, or stop it first"
    if claim is None or not _local(claim):
        remedy += f"; it cannot be seen from here: if it has ended there, remove {_numbered(path, number)}"
    return UserError(f"{path.parent} is being written by {_who(text)}; {remedy}")


def _who(text: str) -> str:
    claim = _CLAIM.fullmatch(text)
    return "another process" if claim is None else claim["who"]


def _me() -> str:
    return f"host {socket.gethostname()}, pid {os.getpid()}"


def _namespace() -> str:
    """Return in which of a host's containers numbers of processes mean what they mean here."""
    with suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""


def _began(pid: int) -> str:
    """Return when a process began, by which it is told from a later one of its number; nothing of a dead one."""
    if _PROC.exists():
        with suppress(OSError):
            state, *fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
            return "" if state in ("Z", "X") else fields[18]
        return ""
    with suppress(ProcessLookupError):
        with suppress(PermissionError):
            os.kill(pid, 0)
        return "there"
    return ""


def _give_up(fd: int, claim: Path, mine: int) -> None:
    if os.getpid() == mine:
        with suppress(OSError), claim.open("r+b") as file:  # in its place: a full disk has room for that
            file.write(_FREE.encode())
    _unlock(fd)


def _unlock(fd: int) -> None:
    _locks.discard(fd)
    os.close(fd)


def _disown() -> None:
    """Give up, in a forked child, its share of the locks: it would hold them after its parent's death."""
    for fd in _locks:
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, fd, inheritable=False)  # the number stays taken, as the child may still close it
        os.close(nothing)


os.register_at_fork(after_in_child=_disown)
