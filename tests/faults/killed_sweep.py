"""Runs an app as `python app ...` does, and dies by SIGKILL at a chosen write: `AT=n killed_sweep.py app ...`.

A point is a call that makes a file durable, of the journal or of an answer, or that puts it in its place.
"""

import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

points = 0


def counted(call: Any) -> Any:
    def wrapped(*args: Any) -> Any:
        global points
        points += 1
        if points == int(os.environ["AT"]):
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args)

    return wrapped


os.fsync, Path.replace = counted(os.fsync), counted(Path.replace)  # type: ignore[assignment]
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
