"""Where a study runs: what its header says of the machine and the code."""

import gc
import hashlib
import math
import os
import platform
import resource
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from halving.errors import UserError

_SPINS = 5000  # a quarter of a millisecond: most pieces of a step follow sooner
_MOST_THREADS = 4  # more do not pay for networks that a laptop trains in seconds
_LONGEST_DIFF = 100_000  # characters: what is longer is known by its digest
_PACKAGES = ("halving", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "hydra-core", "wandb")


def environment(device: str, threads: int) -> dict[str, Any]:
    """Return versions, commit with what differs from it, host, device, threads as JSON; never environment variables."""
    commit = _git("describe", "--always", "--dirty", "--abbrev=40", "--match=")
    diff = _git("diff", "--no-color", "--no-ext-diff", "HEAD") if commit and commit.endswith("-dirty") else None
    if diff and len(diff) > _LONGEST_DIFF:
        diff = f"sha256 {hashlib.sha256(diff.encode(errors='replace')).hexdigest()}, {len(diff)} characters"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "commit": commit,
        "diff": diff,
        "device": device,
        "threads": threads,
    }


def dated(text: str) -> dict[str, str]:
    """Return what a header says of a note: its text, and when it was written."""
    return {"notes": text, **({"noted": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"} if text else {})}


def wait_briefly() -> None:
    """Let OpenMP's threads spin but briefly while they wait for each other, then sleep; a user's setting stays.

    Spinning long, as libgomp's do by default, they take the cores from other programs and from each other: tens of
    times slower beside a busy loop. Sleeping at once, they make a small network's step take twice as long. It counts
    here and in child processes, for what loads OpenMP later, as torch does when it is first imported.
    """
    if not any(map(os.environ.get, ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"))):
        os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": str(_SPINS)}


def allow_files() -> None:
    """Let this process have as many files open at once as it may allow itself: often 1,024 until it is asked for."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(OSError, ValueError):  # more than the system has
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextmanager
def importing() -> Iterator[None]:
    """Look for no garbage while modules are imported, nor later in what is there then.

    They leave none, and to look through the 300,000 objects of torch and scipy again and again takes a fifth of the
    time.
    """
    looking = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if looking:
            gc.enable()


def cores() -> int:
    """Return how many cores this process may use by its affinity mask and its control groups' quota, rounded up."""
    mask = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(mask, _quota())))


def default_threads(workers: int, among: float | None = None) -> int:
    """Return how many threads each of `workers` jobs gets of so many cores, or of those that there are.

    As many as OMP_NUM_THREADS says, or at most 4.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    most = int(asked) if asked.isdecimal() else _MOST_THREADS
    return max(1, min(int(cores() if among is None else among) // workers, most))


def _quota() -> float:
    """Return how many cores' time control groups leave to this process: version 2's cpu.max, version 1's CFS quota."""
    mounts, found = Path("/sys/fs/cgroup"), math.inf
    try:
        groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return found
    for _, controllers, path in groups:
        if controllers and "cpu" not in controllers.split(","):
            continue
        files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
        group = mounts / controllers / path.lstrip("/")
        for directory in (group, *group.parents):
            try:
                quota, period = " ".join((directory / file).read_text() for file in files).split()
            except (OSError, ValueError):
                continue
            if quota.isdecimal():
                found = min(found, int(quota) / int(period))
    return found


def expanded(path: str | Path) -> Path:
    """Return a path with a leading `~` as the home directory. Raises UserError where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{path}: there is no such home directory; write ./{path} for a directory of that name"
        ) from error


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*words: str) -> str | None:
    """Return what git says of the checkout that the package is imported from; None where there is none."""
    git = ["git", "-C", str(Path(__file__).parent), *words]
    try:
        found = subprocess.run(git, capture_output=True, text=True, errors="replace", timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
