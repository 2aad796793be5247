"""What a study's own process carries as the study grows, far beyond the machines at hand; docs/scale.md has more.

python scripts/bench/scale.py                                                                               10 minutes
python scripts/bench/scale.py --trials 10000 --messages 30000 --runs 20                                       1 minute

Three parts, each also alone with `--only`. `study`: asha on recorded curves with workers that fail, under a virtual
clock; tuner, scheduler, history and journal are the real ones, and the time is the processor's for them and for the
simulation. Of the fsyncs one in a thousand is done, and counted for all in what it does in a second. `resumed`, without
the largest: that study read and decided anew, and its tables and page. `pool`: connections of so many pilots, which
another process holds, each of which ends its job at once with three messages. `wandb`: so many trials' runs, written
offline. Memory is the most that a process has had, less what it had before it began.
"""

import argparse
import multiprocessing
import resource
import selectors
import tempfile
import time
from collections.abc import Callable, Container, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from halving.curves import load
from halving.environment import expanded
from halving.executors import Executor, Simulated
from halving.executors.pilot import join
from halving.executors.pilots import Piloted
from halving.executors.work import Began, Ready
from halving.history import Event, Header, History
from halving.journal import FILE, Journal, read
from halving.report.derived import write_all
from halving.schedulers import ASHA
from halving.searchers.table import RandomRows
from halving.tracking.wandb import Wandb
from halving.training.fidelities.table import Table
from halving.trial import Epoch, Finished, Job, Outcome, Step
from halving.tuner import Tuner

CURVES = Path(__file__).with_name("curves") / "mlp_fashion_mnist.npz"
SAMPLE = 1000  # one fsync in so many is done
R_MAX = 27


class Sampled(Journal):
    """Makes itself durable once in a thousand times."""

    syncs, synced, seconds = 0, 0, 0.0

    def sync(self) -> None:
        self.flush()
        if self.durable:
            return
        self.syncs += 1
        if self.syncs % SAMPLE == 1:
            began = time.perf_counter()
            super().sync()
            self.seconds += time.perf_counter() - began
            self.synced += 1
        self.durable = True


def tuned(arguments: argparse.Namespace, trials: int, **parts: Any) -> Tuner:
    """Return what runs a study of so many trials."""
    curves = load(arguments.curves)
    table = Table(curves, epochs_too=True)
    whole = R_MAX if curves.seconds is None else float(np.nanmean(curves.seconds[:, curves.level(R_MAX)]))
    executor = Simulated(table, arguments.workers, stragglers=0.5, seconds_to_failure=arguments.failing * whole)
    return Tuner(
        ASHA(RandomRows(curves, reuse=True), r_max=R_MAX, max_trials=trials), executor, cost=table.cost, **parts
    )


def study(arguments: argparse.Namespace, trials: int, where: Path) -> str:
    """Run one with a journal in a directory, and say what it took."""
    before, journal = memory(), Sampled(where)
    tuner = tuned(arguments, trials, journal=journal)
    tuner.record(Header("scale", "asha", "random", 0, R_MAX, dimensions=(*load(arguments.curves).columns,)))
    began = time.process_time()
    tuner.run()
    seconds = time.process_time() - began
    journal.close()
    n, size, sync = len(tuner.history.finished), (where / FILE).stat().st_size, journal.seconds / journal.synced
    failed = sum(each.outcome.failed for _, evaluation in tuner.history.finished if (each := evaluation.finished))
    both = seconds + sync * journal.syncs
    return (
        f"{n:,} evaluations, {failed / n:.1%} failed: {1e3 * seconds / n:.3f} ms and {journal.syncs / n:.2f} fsyncs of "
        f"{1e3 * sync:.2f} ms each, so {n / both:,.0f} a second; journal {size / 1e6:,.0f} MB, {size / n:,.0f} bytes "
        f"each; memory {memory() - before:,.0f} MB"
    )


def resumed(arguments: argparse.Namespace, trials: int, where: Path) -> str:
    """Take up a study that has ended, and say what that and the tables took."""
    before, began = memory(), time.process_time()
    events = read(where)
    records = len(events)
    was_read = time.process_time()
    tuner = tuned(arguments, trials)
    tuner.rederive(events)
    replayed = time.process_time()
    del events
    if problems := write_all(tuner.history, where):
        raise RuntimeError(problems)
    written = time.process_time()
    page = (where / "report.html").stat().st_size
    return (
        f"{records:,} records read in {was_read - began:.1f} s, decided anew in {replayed - was_read:.1f} s; tables "
        f"and page ({page / 1e6:.1f} MB) in {written - replayed:.1f} s; memory {memory() - before:,.0f} MB"
    )


class Connections:
    """Launches pilots that are nothing but connections, all held by one other process."""

    def __init__(self, number: int) -> None:
        self._number = number

    def start(self, host: str, port: int, key: bytes) -> None:
        invited = {"host": host, "port": port, "key": key.hex()}
        self._process = multiprocessing.get_context("spawn").Process(target=fly, args=(invited, self._number))
        self._process.start()

    def tend(self, joined: Container[str]) -> Iterator[str]:
        return iter(())

    def places(self) -> int:
        return self._number

    def blames(self, name: str) -> bool:
        return False

    def close(self) -> None:
        self._process.join()


def fly(invited: dict[str, Any], number: int) -> None:
    """Be so many pilots of a worker each, which end a job as soon as they hear of it, until the study hangs up."""
    connections = [join(invited) for _ in range(number)]
    for i, connection in enumerate(connections):
        connection.send(str(i))
        connection.recv_bytes()
        connection.send((0, Ready()))
    selector = selectors.DefaultSelector()
    for connection in connections:
        selector.register(connection, selectors.EVENT_READ)
    with suppress(EOFError, OSError):
        while True:
            for ready, _ in selector.select():
                connection: Any = ready.fileobj
                match connection.recv():
                    case slot, (Job(trial, _, _, until),):
                        for message in (
                            Began(trial, until),
                            Epoch(trial, until, {"val_error": 0.5, "train_loss": 0.25}),
                            Finished(Outcome(trial, until, 0.5)),
                        ):
                            connection.send((slot, message))
                    case _:
                        pass


def nothing(jobs: Sequence[Job]) -> Generator[Step]:
    """What connections are told to run."""
    raise NotImplementedError


def pool(arguments: argparse.Namespace, workers: int) -> str:
    """Run jobs on so many connections, and say how fast."""
    before, jobs = memory(), arguments.messages // 3
    executor = Piloted(nothing, Connections(workers), workers, None, None, 0, 60.0, 1, 0.0)
    try:
        run(executor, 2 * workers)
        began = time.perf_counter(), time.process_time()
        run(executor, jobs)
        seconds, busy = time.perf_counter() - began[0], time.process_time() - began[1]
    finally:
        executor.shutdown(graceful=False)
    return (
        f"{3 * jobs / seconds:,.0f} messages and {jobs / seconds:,.0f} jobs a second, with {busy / seconds:.0%} of a "
        f"core; memory {memory() - before:,.0f} MB"
    )


def run(executor: Executor, jobs: int) -> None:
    begun, ended = 0, 0
    while ended < jobs:
        while begun < jobs and executor.has_room():
            executor.submit(Job(begun, {}, 0, 1))
            begun += 1
        for step in executor.wait():
            if isinstance(step, Finished):
                if step.outcome.failed:
                    raise RuntimeError(step.cause)
                ended += 1


class Straight:
    """Tells one tracker at once, so that its time is the study's."""

    def __init__(self, tracker: Wandb) -> None:
        self._tracker, self.history = tracker, History()

    def record(self, event: Event, at: float) -> None:
        self.history.apply(event, at)
        self._tracker.record(event, self.history)


def wandb(arguments: argparse.Namespace, trials: int, where: Path) -> str:
    """Mirror a study of so many trials, and say what that took."""
    before, own = memory(), Straight(tracker := Wandb())
    header = Header("scale", "asha", "random", 0, R_MAX, settings={"run_dir": str(where)})
    tuner = tuned(arguments, 1, trackers=own)  # which starts W&B's service
    tuner.record(header)
    tuner.run()
    began, tuner = time.perf_counter(), tuned(arguments, trials, trackers=own)
    tuner.record(header)
    tuner.run()
    tracker.close(own.history)
    seconds = time.perf_counter() - began
    files = [file for file in where.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    return (
        f"{1e3 * seconds / trials:,.0f} ms a run; {len(files) / trials:.1f} files and {size / 1e3 / trials:.0f} kB "
        f"each; memory {memory() - before:,.0f} MB, without W&B's service"
    )


def parts_of(number: int) -> list[int]:
    """Return a hundredth of it, a tenth, and itself."""
    return sorted({max(1, number // part) for part in (100, 10, 1)})


def memory() -> float:
    """Return the most megabytes that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def apart(part: Callable[..., str], *given: Any) -> str:
    """Return what a part says in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(part, *given).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1_000_000, help="of the largest study; two others are smaller")
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--failing", type=float, default=20.0, help="full trainings to a worker's failure, on average")
    parser.add_argument("--messages", type=int, default=300_000)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--curves", type=expanded, default=CURVES, help="a table from 1 to 27 units or more")
    parser.add_argument("--dir", type=expanded, help="where journals are written (default: the system's temporary one)")
    parser.add_argument("--only", nargs="+", choices=("study", "pool", "wandb"), default=("study", "pool", "wandb"))
    arguments = parser.parse_args()
    if "study" in arguments.only:
        for trials in parts_of(arguments.trials):
            with tempfile.TemporaryDirectory(dir=arguments.dir) as where:
                for part in (study, resumed) if trials < arguments.trials else (study,):
                    told = apart(part, arguments, trials, Path(where))
                    print(f"{part.__name__:8} {trials:9,} trials  {told}", flush=True)
    if "pool" in arguments.only:
        for workers in parts_of(arguments.workers):
            print(f"pool     {workers:9,} workers {apart(pool, arguments, workers)}", flush=True)
    if "wandb" in arguments.only:
        with tempfile.TemporaryDirectory(dir=arguments.dir) as where:
            print(f"wandb    {arguments.runs:9,} trials  {apart(wandb, arguments, arguments.runs, Path(where))}")


if __name__ == "__main__":
    main()
