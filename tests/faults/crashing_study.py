"""Runs a small study again and again, each time in a child that dies at a chosen write, or is refused it.

One JSON line in per run: {"run_dir", "at": point number or null, "when": "before" | "torn" | "after" | "full" |
"interrupt" | "terminate twice", "own": whether it is of a training that leaves files, "confirm": whether its best two
are trained again}; one JSON line out: {"status", "points"}. A point is one call that writes, copies, makes durable,
renames or deletes; its name is the call's and the file's.
"""

import builtins
import errno
import gc
import io
import json
import os
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
import known  # noqa: F401
import torch
from hydra import compose, initialize_config_dir

from halving.app.objective import ConfiguredObjective
from halving.app.runner import Planned, Runner
from halving.checkpoints.store import Store
from halving.config.polite import register
from halving.config.request import Request
from halving.confirming import Confirming
from halving.errors import StorageError
from halving.executors import Serial
from halving.history import Ended, Header
from halving.journal import Journal, replay
from halving.report.derived import TABLES, replace
from halving.schedulers import SuccessiveHalving
from halving.searchers import RandomSearcher
from halving.searchers.recorded import Recorded
from halving.space import Space
from halving.training.own import Own, Running
from halving.training.pausing import Course, train
from halving.training.trainer import Trainer
from halving.trial import Job, Step

CONF = Path(__file__).resolve().parents[2] / "conf"
OVERRIDES = [
    *("model=softmax", "data.train_samples=60", "r_max=4", "device=cpu"),
    *("executor.threads=1", "executor.checkpoint_every=1", "data.batch_size=30"),
]


def leaving(trial: Running) -> Iterator[float]:
    """Train by drawing, and leave two files."""
    one, other = trial.directory / "one", trial.directory / "sub" / "other"
    error = trial.configuration["optimizer.lr"]
    if trial.since:
        assert one.read_text() == other.read_text()
        error = float(one.read_text())
    trial.keep()
    while True:
        error *= random.random() + float(torch.rand(()))
        other.parent.mkdir(exist_ok=True)
        for file in (one, other):
            file.write_text(repr(error))
        yield error


@dataclass(frozen=True)
class Leaving:
    """Runs jobs of `leaving`, with a checkpoint after every epoch."""

    store: Store

    def __call__(self, jobs: Sequence[Job]) -> Generator[Step]:
        for job in jobs:
            course = Course("error", 3, f"of trial {job.trial}", checkpoint_every=1)
            yield from train(partial(self._begun, job), self.store, job, course)

    def _begun(self, job: Job) -> Own:
        work = partial(self.store.working, job.trial)
        return Own(leaving, Running(job.trial, dict(job.configuration), job.trial, _work=work), "error")


def study(run_dir: Path, cfg: Any, own: bool, confirm: bool) -> None:
    """Run the study in `run_dir`, or go on with the one that is there."""
    run_dir.mkdir(exist_ok=True)
    journal = Journal(run_dir)
    events = tuple(journal.events)
    before = replay(events)
    space = Space.from_config({"optimizer": {"lr": {"_target_": "scipy.stats.loguniform", "a": 0.01, "b": 1.0}}})
    recorded = {trial.trial: trial.configuration for trial in before.trials.values()}
    eta, r_max, n = (3, 3, 2) if own else (2, 2, 2) if confirm else (2, 4, 2)
    scheduler = SuccessiveHalving(Recorded(RandomSearcher(space), recorded), eta=eta, r_max=r_max, n=n)
    objective = ConfiguredObjective(Request(cfg), run_dir, 1)
    executor = Serial(Leaving(Store(run_dir)) if own else objective)
    first = Header("crashing", "sha", "random", 0, r_max, dimensions=space.names)
    runner = Runner(Planned(first, scheduler, executor, lambda since, until: until - since, root=run_dir), journal)
    tuner = runner.tuner
    with runner:
        if before.ended is None:
            runner.run(
                lambda: Ended(tuner.history.incumbents[-1][0].trial),
                partial(runner.confirm, Confirming(2, 2), 0, r_max, objective) if confirm else None,
            )
    if runner.signals:
        raise KeyboardInterrupt
    for name in ("results.csv", "curves.csv"):
        replace(run_dir / name, TABLES[name](tuner.history))


class Faults:
    """Stands between the study and the disk."""

    def __init__(self, at: int | None, when: str) -> None:
        self.points: list[str] = []
        self._at, self._when = at, when

    def __call__(self, name: str, call: Any, tear: Any = None) -> Any:
        here = len(self.points) == self._at
        self.points.append(name)
        if not here:
            return call()
        match self._when:
            case "full":
                raise OSError(errno.ENOSPC, "No space left on device")
            case "interrupt":
                os.kill(os.getpid(), signal.SIGINT)
                return call()
            case "terminate twice":
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)
                return call()
            case "torn" if tear is not None:
                tear()
            case "after":
                call()
            case _:
                pass
        os._exit(137)

    def install(self) -> None:
        write, fsync, truncate, unlink, replace = os.write, os.fsync, os.ftruncate, os.unlink, os.replace
        rmtree, opened, share = shutil.rmtree, io.open, os.copy_file_range

        def name(fd: int) -> str:
            return kind(Path(f"/proc/self/fd/{fd}").readlink())

        def kind(path: Any) -> str:
            path = Path(path)
            return path.suffix if path.suffix in (".pt", ".tmp") else path.name if path.suffix else "directory"

        class File(io.FileIO):
            def write(inner, data: Any) -> int:
                half = memoryview(data)[: len(memoryview(data)) // 2]
                plain = super().write
                return self(f"write {name(inner.fileno())}", lambda: plain(data), lambda: plain(half))

        def open_binary(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            return File(path, "w") if mode == "wb" else opened(path, mode, *args, **kwargs)

        os.write = lambda fd, data: self(
            f"write {name(fd)}", lambda: write(fd, data), lambda: write(fd, data[: len(data) // 2])
        )
        os.copy_file_range = lambda a, b, count: self(  # type: ignore
            "copy file", lambda: share(a, b, count), lambda: share(a, b, os.fstat(a).st_size // 2)
        )
        os.fsync = lambda fd: self(f"fsync {name(fd if isinstance(fd, int) else fd.fileno())}", lambda: fsync(fd))
        os.ftruncate = lambda fd, size: self(f"truncate {name(fd)}", lambda: truncate(fd, size))
        os.replace = lambda a, b: self(f"rename {kind(a)}", lambda: replace(a, b))
        shutil.rmtree = lambda path, *a, **k: self("delete directory", lambda: rmtree(path, *a, **k))  # type: ignore
        os.unlink = lambda path, **k: self(f"delete {kind(path)}", lambda: unlink(path, **k))
        io.open = builtins.open = open_binary  # type: ignore


def count(kind: type[Trainer | Own], run_dir: Path) -> None:
    """Note beside the run directory, by a byte each, the epochs that were trained to their end."""
    train, note = kind.epoch, os.write
    file = os.open(run_dir.with_suffix(".trained"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def epoch(self: Any, epoch: int) -> dict[str, float]:
        metrics = train(self, epoch)
        note(file, b".")
        return metrics

    kind.epoch = epoch  # type: ignore[method-assign]


def child(call: dict[str, Any], cfg: Any, out: int) -> None:
    tell = os.write
    count(Own if call["own"] else Trainer, Path(call["run_dir"]))
    faults = Faults(call["at"], call["when"])
    faults.install()
    status = 0
    try:
        study(Path(call["run_dir"]), cfg, call["own"], call["confirm"])
    except OSError as error:
        status = 1 if error.errno == errno.ENOSPC else 2
    except StorageError as error:
        status = 1 if "make room" in str(error) else 2
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        traceback.print_exc()
        status = 2
    tell(out, json.dumps(faults.points).encode())
    os._exit(status)


def main() -> None:
    torch.set_num_threads(1)
    register(CONF)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", OVERRIDES)
    ConfiguredObjective(Request(cfg), Path(), 1).prepare({})
    gc.freeze()
    with TemporaryDirectory() as there:  # what is done for the first time is done before the forks
        study(Path(there, "run"), cfg, False, False)
    for line in sys.stdin:
        ours, theirs = os.pipe()
        if (pid := os.fork()) == 0:
            child(json.loads(line), cfg, theirs)
        os.close(theirs)
        with os.fdopen(ours) as pipe:
            points = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps({"status": status, "points": json.loads(points or "[]")}), flush=True)


if __name__ == "__main__":
    main()
