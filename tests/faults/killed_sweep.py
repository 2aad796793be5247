"""Runs an app as `python app ...` does, and dies by SIGKILL at a write: `AT='/3/.halving 2' killed_sweep.py app`.

A write makes a file or directory durable, or puts a file in its place; the second one whose path ends so is not done.
"""

import os
import re
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

place, number = os.environ["AT"].split()
passed = 0


def deadly(call: Callable[..., Any], path: Callable[..., str]) -> Callable[..., Any]:
    def wrapped(*args: Any) -> Any:
        global passed
        passed += re.search(f"{place}$", path(*args)) is not None
        if passed == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args)

    return wrapped


os.fsync = deadly(os.fsync, lambda fd: str(Path(f"/proc/self/fd/{fd}").readlink()))
Path.replace = deadly(Path.replace, lambda _, target: str(target))  # type: ignore[method-assign]
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
