"""What a study costs beside its training: milliseconds per evaluation of a no-op objective, by scheduler.

python scripts/bench/overhead.py --repeats 3

Tuner, scheduler and journal as in a real study, with a real fsync for each evaluation in a temporary directory: `--dir`
puts it on the disk that counts. `in fsync` is what the disk takes of the milliseconds, the rest is ours. `decision` is
what suggest and update of the scheduler alone take. Exits with 1 where an evaluation costs more than 1 ms at 10,000
trials, or more than 1.5 times what it costs at 1,000, or a decision more than 0.1 ms. No limit is set on the last two:
pasha compares every pair of curves in its top rung, so that its decisions grow with the study, and curve fits models to
every curve. Curve's studies have a hundredth of the trials: what its decisions take does not depend on their number.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from halving.environment import expanded
from halving.executors import Serial
from halving.history import Header
from halving.journal import Journal
from halving.schedulers import (
    ASHA,
    FIFO,
    PASHA,
    AsyncHyperband,
    ConcordantASHA,
    Curve,
    Hyperband,
    Median,
    OneEpoch,
    Scheduler,
    SuccessiveHalving,
)
from halving.searchers import RandomSearcher, Searcher
from halving.space import Space
from halving.trial import Configuration, Done, Epoch, Finished, Job, Outcome, Start, Wait
from halving.tuner import Tuner

FEW, MANY = 1_000, 10_000
MOST_MS, MOST_RATIO, MOST_DECISION_MS = 1.0, 1.5, 0.1

# One row per scheduler: how to make one that runs about so many trials.
SCHEDULERS: dict[str, Callable[[Searcher, int], Scheduler]] = {
    "fifo": lambda searcher, trials: FIFO(searcher, 1, trials),
    "sha, rounds of 27": lambda searcher, trials: SuccessiveHalving(searcher, rounds=trials // 27),
    "sha, one bracket": lambda searcher, trials: SuccessiveHalving(searcher, n=trials),
    "asha": lambda searcher, trials: ASHA(searcher, max_trials=trials),
    "asha, stopping": lambda searcher, trials: ASHA(searcher, variant="stopping", max_trials=trials),
    "concordant_asha": lambda searcher, trials: ConcordantASHA(searcher, max_trials=trials),
    "hyperband": lambda searcher, trials: Hyperband(searcher, r_max=81, rounds=trials // 143),
    "async_hyperband": lambda searcher, trials: AsyncHyperband(searcher, max_trials=trials),
    "one_epoch": lambda searcher, trials: OneEpoch(searcher, n=trials),
    "median": lambda searcher, trials: Median(searcher, max_trials=trials),
    "pasha": lambda searcher, trials: PASHA(searcher, max_trials=trials),
    "curve": lambda searcher, trials: Curve(searcher, max_trials=trials // 100),
}
UNLIMITED = ("pasha", "curve")


@dataclass(frozen=True)
class Cost:
    """Of one study: milliseconds per evaluation, those of them spent in fsync, and fsyncs per evaluation."""

    ms: float
    fsync_ms: float
    fsyncs: float


class TimedJournal(Journal):
    """Counts and times its fsyncs."""

    fsyncs = 0
    seconds = 0.0

    def sync(self) -> None:
        self.flush()
        if self.durable:
            return
        began = time.perf_counter()
        super().sync()
        self.seconds += time.perf_counter() - began
        self.fsyncs += 1


def no_op(jobs: Sequence[Job]) -> Generator[Epoch | Finished]:
    (job,) = jobs
    yield Epoch(job.trial, job.until, {"val_error": 0.5, "train_loss": 0.25})
    yield Finished(outcome(job.trial, job.since, job.until))


def outcome(trial: int, since: int, until: int) -> Outcome:
    """Return errors that decay, each trial's by its own factor."""
    curve = tuple((0.1 + trial * 7919 % 1000 / 1000) * r**-0.5 for r in range(since + 1, until + 1))
    return Outcome(trial, until, curve[-1], curve=curve)


def measure(make: Callable[[Searcher, int], Scheduler], trials: int, where: Path | None) -> Cost:
    space = Space.from_config({"lr": {"_target_": "scipy.stats.loguniform", "a": 0.01, "b": 1.0}})
    scheduler = make(RandomSearcher(space), trials)
    with tempfile.TemporaryDirectory(dir=where) as directory:
        journal = TimedJournal(Path(directory))
        tuner = Tuner(
            scheduler,
            Serial(no_op),
            cost=lambda since, until: until - since,
            journal=journal,
        )
        tuner.record(Header("overhead", type(scheduler).__name__, "RandomSearcher", 0, 27))
        began = time.perf_counter()
        tuner.run()
        seconds = time.perf_counter() - began
        journal.close()
    evaluations = len(tuner.history.finished)
    return Cost(1e3 * seconds / evaluations, 1e3 * journal.seconds / evaluations, journal.fsyncs / evaluations)


class Constant:
    """A searcher that takes no time."""

    def propose(self, trial: int) -> Configuration:
        return {}

    def observe(self, trial: int, configuration: Configuration, resource: int, error: float) -> None:
        """Learn nothing."""


def decide(make: Callable[[Searcher, int], Scheduler], trials: int) -> float:
    """Return the milliseconds that one suggestion and the update that answers it take, on average."""
    scheduler = make(Constant(), trials)
    decisions, seconds = 0, 0.0
    while True:
        began = time.perf_counter()
        assignment = scheduler.suggest()
        seconds += time.perf_counter() - began
        if isinstance(assignment, Done | Wait):
            return 1e3 * seconds / decisions
        told = outcome(assignment.trial, 0 if isinstance(assignment, Start) else assignment.since, assignment.until)
        began = time.perf_counter()
        scheduler.update(told)
        seconds += time.perf_counter() - began
        decisions += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="pairs of studies to time (default: 3)")
    parser.add_argument(
        "--dir", type=expanded, help="where the journals are written (default: the system's temporary one)"
    )
    parser.add_argument("--only", choices=SCHEDULERS, help="one scheduler instead of all")
    arguments = parser.parse_args()

    slow = False
    columns = f"{'trials':>7} {'ms/evaluation':>14} {'in fsync':>9} {'fsyncs':>7} {'decision':>9} {'ratio':>6}"
    print(f"{'scheduler':20} {columns}")
    for name in [arguments.only] if arguments.only else SCHEDULERS:
        pairs = [
            tuple(measure(SCHEDULERS[name], trials, arguments.dir) for trials in (FEW, MANY))
            for _ in range(arguments.repeats)
        ]
        ratio = statistics.median(many.ms / few.ms for few, many in pairs)
        for trials, costs in zip((FEW, MANY), zip(*pairs, strict=True), strict=True):
            ms = statistics.median(cost.ms for cost in costs)
            in_fsync = statistics.median(cost.fsync_ms for cost in costs)
            decision = statistics.median(decide(SCHEDULERS[name], trials) for _ in range(arguments.repeats))
            shown = f"{ratio:6.2f}" if trials == MANY else ""
            numbers = f"{ms:14.3f} {in_fsync:9.3f} {costs[0].fsyncs:7.3f} {decision:9.4f}"
            print(f"{name:20} {trials:7} {numbers} {shown}", flush=True)
            limited = trials == MANY and name not in UNLIMITED
            slow |= limited and (ms > MOST_MS or ratio > MOST_RATIO or decision > MOST_DECISION_MS)
    print(f"at most {MOST_MS:g} ms at {MANY:,} trials and {MOST_RATIO:g} times what it is at {FEW:,} wanted")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
