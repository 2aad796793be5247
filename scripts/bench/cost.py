"""What a trial costs beside its objective, here and with Optuna, Ray Tune and Syne Tune, in one run.

python scripts/bench/cost.py --repeats 5                                          (pip install -e '.[peers]')
python scripts/bench/cost.py --repeats 3 --uncounted --only ours-ray ray ray-reused           what one on Ray costs

Random search in two dimensions, one worker, an objective that does nothing. Each study has a process of its own, and
the systems take turns; shown are the median over repeats, the least and the most. Time runs from the study's creation
to its end, without imports and without the start of a local cluster (`ray.init`). Ours is tuner, scheduler and journal,
each evaluation with an epoch, without trackers; under sha a trial is several evaluations, and one of them is what is
shown. `append and fsync` is the machine's part: the bytes of the fifo study's journal, as many for an evaluation as
there, made durable with nothing else around. Syne Tune looks for results every 10 ms here, by default every 5 s.

fsyncs, fdatasyncs included, are counted in runs of their own by strace, in all processes of a study: those of a longer
study less those of a shorter one, over the difference in trials. What a system does every few seconds is seldom in it.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from overhead import SCHEDULERS, no_op

from halving.environment import expanded
from halving.executors import Serial
from halving.history import Header
from halving.journal import FILE, Journal
from halving.searchers import RandomSearcher
from halving.space import Space
from halving.tuner import Tuner

SYNE_TUNE_TRIAL = """
import argparse
from syne_tune import Reporter
parser = argparse.ArgumentParser()
parser.add_argument("--x", type=float)
parser.add_argument("--y", type=float)
parser.parse_known_args()
Reporter()(error=0.5)
"""


@dataclass(frozen=True)
class Spent:
    """The seconds that a study took and how many evaluations it had."""

    seconds: float
    evaluations: int


def ours(scheduler: str, trials: int, directory: Path, on_ray: bool = False) -> Spent:
    if on_ray:
        begin_ray()
    began = time.perf_counter()
    uniform = {"_target_": "scipy.stats.uniform"}
    searcher = RandomSearcher(Space.from_config({"x": uniform, "y": uniform}))
    journal = Journal(directory)
    executor = import_module("halving.executors.ray").Ray(no_op, workers=1) if on_ray else Serial(no_op)
    tuner = Tuner(
        SCHEDULERS[scheduler](searcher, trials),
        executor,
        cost=lambda since, until: until - since,
        journal=journal,
    )
    tuner.record(Header("cost", scheduler, "random", 0, 27))
    tuner.run()
    journal.close()
    spent = Spent(time.perf_counter() - began, len(tuner.history.finished))
    executor.shutdown(graceful=True)
    return spent


def append_and_fsync(trials: int, directory: Path) -> Spent:
    evaluations = ours("fifo", trials, directory).evaluations
    raw = (directory / FILE).read_bytes()
    size = len(raw) // evaluations
    file = os.open(directory / "again", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    began = time.perf_counter()
    for start in range(0, size * evaluations, size):
        os.write(file, raw[start : start + size])
        os.fsync(file)
    seconds = time.perf_counter() - began
    os.close(file)
    return Spent(seconds, evaluations)


def optuna(kept: str, trials: int, directory: Path) -> Spent:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("x", 0, 1)
        trial.suggest_float("y", 0, 1)
        return 0.5

    began = time.perf_counter()
    storages: dict[str, Callable[[], Any]] = {
        "memory": lambda: None,
        "journal": lambda: JournalStorage(JournalFileBackend(str(directory / "study.log"))),
        "sqlite": lambda: f"sqlite:///{directory}/study.db",
    }
    study = optuna.create_study(storage=storages[kept](), sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=trials)
    return Spent(time.perf_counter() - began, len(study.trials))


def begin_ray() -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray  # pyright: ignore

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")


def ray_tune(reused: bool, trials: int, directory: Path) -> Spent:
    from ray import tune  # pyright: ignore

    def objective(config: dict[str, float]) -> None:
        tune.report({"error": 0.5})

    begin_ray()
    began = time.perf_counter()
    tuner = tune.Tuner(
        objective,
        param_space={"x": tune.uniform(0, 1), "y": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(num_samples=trials, max_concurrent_trials=1, reuse_actors=reused),
        run_config=tune.RunConfig(storage_path=str(directory), verbose=0),
    )
    results = tuner.fit()
    return Spent(time.perf_counter() - began, len(results) - results.num_errors)


def syne_tune(trials: int, directory: Path) -> Spent:
    os.environ["SYNETUNE_FOLDER"] = str(directory)
    from syne_tune import StoppingCriterion, Tuner  # pyright: ignore
    from syne_tune.backend import LocalBackend  # pyright: ignore
    from syne_tune.config_space import uniform  # pyright: ignore
    from syne_tune.optimizer.baselines import RandomSearch  # pyright: ignore

    script = directory / "no_op.py"
    script.write_text(SYNE_TUNE_TRIAL)
    began = time.perf_counter()
    tuner = Tuner(
        LocalBackend(entry_point=str(script)),
        RandomSearch({"x": uniform(0, 1), "y": uniform(0, 1)}, metrics=["error"], random_seed=0),
        StoppingCriterion(max_num_trials_completed=trials),
        n_workers=1,
        sleep_time=0.01,
    )
    tuner.run()
    return Spent(time.perf_counter() - began, tuner.tuning_status.num_trials_completed)


@dataclass(frozen=True)
class System:
    """How one system runs a study, the package that it is in, and how many trials are timed and counted."""

    title: str
    package: str
    study: Callable[[int, Path], Spent]
    timed: int
    counted: tuple[int, int] = (54, 270)


SYSTEMS = {
    "fifo": System("halving, fifo, durable journal", "halving", partial(ours, "fifo"), 2_000),
    "sha": System("halving, sha, durable journal", "halving", partial(ours, "sha, rounds of 27"), 2_000),
    "fsync": System("append and fsync of the same bytes", "halving", append_and_fsync, 2_000),
    "optuna-memory": System("Optuna, in memory", "optuna", partial(optuna, "memory"), 2_000),
    "optuna-journal": System("Optuna, journal file", "optuna", partial(optuna, "journal"), 500),
    "optuna-sqlite": System("Optuna, SQLite", "optuna", partial(optuna, "sqlite"), 200),
    "syne-tune": System("Syne Tune, local backend", "syne-tune", syne_tune, 30, (3, 9)),
    "ours-ray": System("halving on Ray, fifo, durable journal", "ray", partial(ours, "fifo", on_ray=True), 1_000),
    "ray": System("Ray Tune", "ray", partial(ray_tune, False), 20, (3, 9)),
    "ray-reused": System("Ray Tune, reuse_actors=True", "ray", partial(ray_tune, True), 200, (3, 9)),
}


def study(name: str, trials: int, where: Path | None, *before: str) -> Spent:
    """Run one study in a process of its own, behind the command `before`. Raises RuntimeError where it fails."""
    with tempfile.TemporaryDirectory(dir=where, ignore_cleanup_errors=True) as directory:
        answer = Path(directory).resolve() / "spent.json"
        command = [*before, sys.executable, str(Path(__file__).resolve()), "--study", name, str(trials), str(answer)]
        # Some leave files where they are started.
        done = subprocess.run(command, capture_output=True, text=True, cwd=directory)
        if done.returncode:
            raise RuntimeError(f"{name}: {(done.stderr.strip().splitlines() or ['no words'])[-1]}")
        return Spent(**json.loads(answer.read_text()))


def fsyncs(name: str, where: Path | None) -> str:
    """Return the fsyncs of one more evaluation."""
    if not shutil.which("strace"):
        return "no strace"
    calls, evaluations = list[int](), list[int]()
    for trials in SYSTEMS[name].counted:
        with tempfile.NamedTemporaryFile("r") as trace:
            strace = ("strace", "-f", "--seccomp-bpf", "-e", "trace=fsync,fdatasync", "-o", trace.name)
            try:
                evaluations.append(study(name, trials, where, *strace).evaluations)
            except RuntimeError:
                return "strace may not trace here"
            calls.append(len(re.findall(r"\b(?:fsync|fdatasync)\(", trace.read())))
    return f"{(calls[1] - calls[0]) / (evaluations[1] - evaluations[0]):.2f}"


def row(name: str, spent: list[Spent], where: Path | None, uncounted: bool) -> str:
    ms = [1e3 * each.seconds / each.evaluations for each in spent]
    counted = "1, by construction" if name == "fsync" else "" if uncounted else fsyncs(name, where)
    numbers = f"{statistics.median(ms):.3g} | {min(ms):.3g} to {max(ms):.3g} | {counted}"
    return f"| {SYSTEMS[name].title} | {spent[0].evaluations} | {numbers} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=SYSTEMS, nargs="+", default=list(SYSTEMS))
    parser.add_argument("--trials", metavar="SYSTEM=N", nargs="+", default=[], help="another number of timed trials")
    parser.add_argument(
        "--dir", type=expanded, help="where files are written (default: the system's temporary directory)"
    )
    parser.add_argument("--uncounted", action="store_true", help="leave out the fsyncs, which take minutes on Ray")
    parser.add_argument("--study", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.study:
        name, trials, answer = arguments.study
        Path(answer).write_text(json.dumps(asdict(SYSTEMS[name].study(int(trials), Path(answer).parent))))
        return

    trials = {name: SYSTEMS[name].timed for name in arguments.only}
    trials |= {name: int(number) for name, _, number in (each.partition("=") for each in arguments.trials)}
    installed = [name for name in arguments.only if find_spec(SYSTEMS[name].package.replace("-", "_"))]
    spent: dict[str, list[Spent]] = {name: [] for name in installed}
    failed: dict[str, str] = {}
    for _ in range(arguments.repeats):
        for name in installed:
            if name not in failed:
                try:
                    spent[name].append(study(name, trials[name], arguments.dir))
                except RuntimeError as error:
                    failed[name] = str(error)
    packages = sorted({SYSTEMS[name].package for name in installed})
    print(", ".join(f"{package} {version(package)}" for package in packages) + "\n")
    print("| system | evaluations | ms per evaluation | range | fsyncs per evaluation |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in arguments.only:
        if name in installed and name not in failed:
            print(row(name, spent[name], arguments.dir, arguments.uncounted), flush=True)
        else:
            print(f"| {SYSTEMS[name].title} | {failed.get(name, 'not installed')} | | | |")


if __name__ == "__main__":
    main()
