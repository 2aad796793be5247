"""Tunes trainings of test_own_training.py, each time in a child that is killed by SIGKILL after some seconds.

One JSON line in per run: {"training", "run_dir", "after": seconds or null}; one line out, the child's status.
"""

import gc
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import test_own_training as own

EPOCH = 0.06  # seconds that an epoch takes at least


def child(call: dict[str, Any]) -> int:
    train = own.Parts.train
    own.Parts.train = lambda *given: time.sleep(EPOCH) or train(*given)
    try:
        own.tune(getattr(own, call["training"]), run_dir=call["run_dir"], resume=True)
    except BaseException:
        traceback.print_exc()
        return 2
    return 0


def main() -> None:

    gc.freeze()
    for line in sys.stdin:
        call = json.loads(line)
        if (pid := os.fork()) == 0:
            os._exit(child(call))
        if call["after"] is not None:
            time.sleep(call["after"])
            os.kill(pid, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
