"""Repeat the studies of the book, and check their numbers: `python scripts/reproduce.py --study minibatch`.

`--all` repeats them all; `--quick` on small subsets, in minutes. Tables and figures go into one folder, `--out`; what
is there already is not trained again, and what was broken off goes on. Exit status 1 where a number is out of its
range.
"""

import argparse
import math
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from halving import Study, UserError, load
from halving.checkpoints.links import create
from halving.comparison import labelled
from halving.config.commands import override
from halving.environment import expanded
from halving.journal.run_directories import run_directories
from halving.report.confirmation import Row
from halving.report.derived import replace
from halving.report.drawing import drawing
from halving.report.workers import idle
from halving.spreadsheet import line
from halving.tracking.terminal import one_line
from halving.tracking.wording import number

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("data=digits", "data.train_samples=300", "data.batch_size=32", "executor.threads=1")
LENET = (*SMALL, "model=lenet_modern")  # the book's LeNet learns nothing in so few steps
TWO = "lr_schedule=constant,cosine"

Runs = Mapping[str, list[Study]]


@dataclass(frozen=True)
class Number:
    """A number of a study: what the book has, if it says, what it is here, and between what it must lie.

    A training that `may_diverge` has none then, which is no mistake.
    """

    name: str
    here: float
    low: float
    high: float
    book: str = ""
    may_diverge: bool = False

    @property
    def within(self) -> bool:
        return self.low <= self.here <= self.high or (self.may_diverge and math.isnan(self.here))


@dataclass(frozen=True)
class Book:
    """A study of the book: the commands that repeat it, with `quick` on small subsets, and what they come to."""

    section: str
    commands: Mapping[str, Sequence[str]]
    quick: Sequence[str]
    numbers: Callable[[Runs, bool], list[Number]]
    figure: Callable[[Runs, Path], None]


def only(runs: Runs, label: str) -> Study:
    """Return the study of a command that is one. Raises UserError where overrides have made it several."""
    if len(runs[label]) > 1:
        raise UserError(f"{label} came to {len(runs[label])} studies; give each override one value here, no list")
    return runs[label][0]


def error(study: Study) -> float:
    """Return the winner's error, nan where no trial survived."""
    found = study.summary["best_error"]
    return math.nan if found is None else found


def epochs(study: Study) -> float:
    return float(study.summary["resource_spent"])


def last(study: Study, metric: str) -> float:
    """Return a metric of the only trial after its last epoch, nan where it failed."""
    return math.nan if math.isnan(error(study)) else study.curves[0][-1].get(metric, math.nan)


def confirmed(study: Study) -> Row | None:
    """Return what the winner came to with fresh seeds, None where it was not trained with any."""
    return study.confirmed.rows[0] if study.confirmed is not None and study.confirmed.rows else None


def per_epoch(study: Study) -> float:
    """Return the median seconds of training of an epoch, nan where there is none."""
    seconds = [epoch["seconds"] for epoch in study.curves[0]]
    return statistics.median(seconds) if seconds else math.nan


def softmax(runs: Runs, quick: bool) -> list[Number]:
    book, halved = only(runs, "random"), only(runs, "halving")
    high = 0.5 if quick else 0.18
    return [
        Number("validation error, 5 trainings of 8 epochs", error(book), 0, 0.5 if quick else 0.2),
        Number("epochs", epochs(book), 40, 40, "40"),
        Number("validation error, successive halving over 16", error(halved), 0, high),
        Number("epochs it spends", epochs(halved), 30, 80),
    ]


def lenet_random(runs: Runs, quick: bool) -> list[Number]:
    study = only(runs, "random")
    cost = 15 if quick else 50
    return [
        Number("validation error, 5 trainings of 10 epochs", error(study), 0, 0.6 if quick else 0.20),
        Number("epochs", epochs(study), cost, cost, "50"),
    ]


def lenet_halving(runs: Runs, quick: bool) -> list[Number]:
    study = only(runs, "halving")
    return [
        Number("validation error of the incumbent", error(study), 0, 0.6 if quick else 0.162, "0.162"),
        Number("epochs, where trials pause and resume", epochs(study), 68, 68, "116"),
    ]


def lenet_asha(runs: Runs, quick: bool) -> list[Number]:
    free, waiting = only(runs, "asynchronous"), only(runs, "synchronous")
    shares = [idle(study.history) or 0.0 for study in (free, waiting)]
    return [
        Number("validation error, asynchronous", error(free), 0.1, 0.6 if quick else 0.15),
        Number("validation error, synchronous", error(waiting), 0.1, 0.6 if quick else 0.15),
        Number("idle share of two workers, asynchronous", shares[0], 0, 0.5 if quick else 0.05),
        Number("idle share of two workers, synchronous", shares[1], 0, 0.6 if quick else 0.3),
        Number("by how much the synchronous share is more", shares[1] - shares[0], -0.5 if quick else 0.01, 0.6),
    ]


def dropout_mlp(runs: Runs, quick: bool) -> list[Number]:
    high = 0.6 if quick else 0.16
    return [
        Number(f"validation error, {study.history.header.searcher}", error(study), 0.12, high)
        for study in runs["searchers"]
        if study.history.header is not None
    ]


def minibatch(runs: Runs, quick: bool) -> list[Number]:
    found: list[Number] = []
    for name, study in named(runs["descents"], "optimizer", "descent.by").items():
        loss = last(study, "val_loss") / 2
        found.append(Number(f"loss, {name}", loss, 0.241, 0.26 if quick else 0.25, "0.242 to 0.249"))
        found.append(Number(f"seconds per epoch, {name}", per_epoch(study), 0, 10))
    return found


def lr_schedules(runs: Runs, quick: bool) -> list[Number]:
    book = {"constant": "0.896", "square_root": "0.848", "multi_factor": "0.884", "cosine": "0.881"}
    low, found = 0.3 if quick else 0.87, list[Number]()
    for name, study in named(runs["schedules"], "lr_schedule").items():
        edge = name == "constant"  # a rate of 0.3 to the end is at the edge of stability
        found.append(Number(f"test accuracy, {name}", 1 - last(study, "val_error"), low, 1, book.get(name, ""), edge))
        found.append(Number(f"training accuracy, {name}", 1 - last(study, "train_error"), low, 1, may_diverge=edge))
        averaged = 1 - last(study, "averaged_val_error")
        found.append(Number(f"test accuracy, {name} and swa", averaged, low, 1, may_diverge=edge))
    ema = last(only(runs, "ema"), "averaged_val_error")
    found.append(Number("test accuracy, square_root and ema", 1 - ema, low, 1))
    return found


def lr_schedules_tuned(runs: Runs, quick: bool) -> list[Number]:
    steady = {"square_root": (0.24, 0.33), "factor": (0.22, 0.32), "cosine": (0.23, 0.28)}
    found: list[Number] = []
    for name, study in named(runs["schedules"], "lr_schedule").items():
        row, edge = confirmed(study), name not in steady  # which wins with a rate that some seeds do not survive
        mean = row.mean if row is not None and math.isfinite(row.mean) else math.nan
        low, high = (0.0, 0.8) if quick else steady.get(name, (0.18, 0.95))
        found.append(Number(f"validation error with fresh seeds, {name}", mean, low, high, may_diverge=edge))
        if not quick:  # of two seeds it says nothing
            half = row.high - row.mean if row is not None and math.isfinite(mean) else math.nan
            found.append(Number(f"half of its 95 % interval, {name}", half, 0, 0.05 if not edge else 0.6, "", edge))
    return found


def named(studies: Sequence[Study], *keys: str) -> dict[str, Study]:
    """Return the studies of a multirun by what they were told of some keys."""
    found: dict[str, Study] = {}
    for study in studies:
        overrides = study.history.header.provenance.overrides if study.history.header is not None else ()
        told = {key: value for key, _, value in (str(item).partition("=") for item in overrides)}
        name = ", ".join(told.get(key, f"{key} as it stands") for key in keys)
        found[name if name not in found else f"{name}, job {study.run_dir.name if study.run_dir else ''}"] = study
    return found


def picture(runs: Runs, path: Path) -> None:
    """Draw the trials of the first study."""
    drawing("figures").figure_png(next(iter(runs.values()))[0].history, path)


def methods(runs: Runs, path: Path) -> None:
    """Draw what the best of each method was at any time."""
    histories = {each.run_dir: each.history for each in next(iter(runs.values())) if each.run_dir is not None}
    drawn, vectors = drawing("comparison").comparison_figure(labelled(histories), path.parent)
    drawn.replace(path)
    vectors.unlink()


def clock(runs: Runs, path: Path) -> None:
    """Draw learning curves over the time on the clock."""
    drawing("figures").over_time_png(next(iter(runs.values()))[0].history, path)


def descents(runs: Runs, path: Path) -> None:
    overlay(named(runs["descents"], "optimizer", "descent.by"), [("val_loss", "epoch"), ("val_loss", "seconds")], path)


def schedules(runs: Runs, path: Path) -> None:
    panels = [("lr", "epoch"), ("train_error", "epoch"), ("val_error", "epoch")]
    overlay(named(runs["schedules"], "lr_schedule"), panels, path)


def overlay(studies: Mapping[str, Study], panels: Sequence[tuple[str, str]], path: Path) -> None:
    module = drawing("overlay")
    trainings = {name: [study.history] for name, study in studies.items()}
    module.overlay_png(trainings, [module.Panel(*panel) for panel in panels], path)


def intervals(runs: Runs, path: Path) -> None:
    found = named(runs["schedules"], "lr_schedule")
    rows = {name: row for name, study in found.items() if (row := confirmed(study)) is not None}
    drawing("intervals").intervals_png(rows, "validation error", path)


STUDIES = {
    "softmax_random_search": Book(
        "19.1",
        {
            "random": ["experiment=softmax_random_search"],
            "halving": [
                *("experiment=softmax_random_search", "scheduler=sha", "eta=2", "scheduler.n=16"),
                "budget.evaluations=null",
            ],
        },
        SMALL,
        softmax,
        picture,
    ),
    "lenet_random_search": Book(
        "19.2", {"random": ["experiment=lenet_random_search"]}, (*LENET, "r_max=3"), lenet_random, picture
    ),
    "dropout_mlp": Book(
        "19.2, exercise",
        {"searchers": ["-m", "experiment=dropout_mlp", "searcher=random,local", "data.train_samples=6000"]},
        (*SMALL, "r_max=2", "budget.evaluations=4"),
        dropout_mlp,
        methods,
    ),
    "lenet_halving": Book("19.4", {"halving": ["experiment=lenet_halving"]}, LENET, lenet_halving, picture),
    "lenet_asha": Book(
        "19.5",
        {
            "asynchronous": ["experiment=lenet_asha"],
            "synchronous": ["experiment=lenet_asha", "scheduler=sha_twice", "budget.resource=null"],
        },
        LENET,
        lenet_asha,
        clock,
    ),
    "minibatch": Book(
        "12.5",
        {"descents": ["experiment=minibatch"]},
        ("r_max=4", "descent.by=gradient,minibatch_10"),
        minibatch,
        descents,
    ),
    "lr_schedules": Book(
        "12.11",
        {
            "schedules": ["experiment=lr_schedules"],
            "ema": ["experiment=lr_schedules", "averaging=ema", "lr_schedule=square_root"],
        },
        (*SMALL, "r_max=6", "optimizer.lr=0.1", "data.train_samples=1000"),
        lr_schedules,
        schedules,
    ),
    "lr_schedules_tuned": Book(
        "12.11, beyond it",
        {"schedules": ["experiment=lr_schedules_tuned"]},
        (*SMALL, "r_max=9", "scheduler.n=3", "confirm.seeds=2", "data.validation=100", TWO),
        lr_schedules_tuned,
        intervals,
    ),
}


def run(command: Sequence[str], directory: Path, problems: list[str]) -> list[Study]:
    """Run a command of train.py into a directory, or go on where it was broken off; return its studies that have ended.

    What failed is added to `problems`. Raises UserError where nothing came of it, or some of it can still go on.
    """
    words = [*command, *(override(key, str(directory)) for key in ("hydra.run.dir", "hydra.sweep.dir")), "tracker=csv"]
    if any(directory.glob("**/journal.jsonl")):
        words.append(override("resume", str(directory)))
    log = directory.with_suffix(".log")
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(create(log), "w")
    except OSError as error:
        raise UserError(f"--out: {log.parent} cannot be written to: {error.strerror}") from error
    with file, subprocess.Popen([sys.executable, ROOT / "train.py", *words], stdout=file, stderr=file) as child:
        try:
            status = child.wait()
        except KeyboardInterrupt:  # which it has heard, too, and ends when its journal is whole
            child.wait()
            raise
    studies = [load(each) for each in run_directories([directory])] if any(directory.glob("**/journal.jsonl")) else []
    if status:
        said = f"train.py failed: {log} says why; its last line: {_last_line(log)}"
        if not studies or any(study.history.ended is None for study in studies):
            raise UserError(said)
        problems.append(said)
    return studies


def reproduce(name: str, out: Path, quick: bool, overrides: Sequence[str], problems: list[str]) -> None:
    """Run one study, write its table and figure; what fails or is out of range is added to `problems`."""
    book, began = STUDIES[name], time.perf_counter()
    runs, failed = dict[str, list[Study]](), list[str]()
    for label, command in book.commands.items():
        words = [*command, *(book.quick if quick else ()), *overrides]
        print(f"{name}, {label}: python train.py {shlex.join(words)}", flush=True)
        runs[label] = run(words, out / name / label, failed)
    numbers = book.numbers(runs, quick)
    beyond = [f"{each.name} is {number(each.here)}" for each in numbers if not each.within]
    diverged = any(study.history.incumbent is None for studies in runs.values() for study in studies)
    if beyond or not diverged:  # else what has diverged was free to
        problems += [*failed, *([f"out of range: {'; '.join(beyond)}"] if beyond else [])]
    seconds = sum(study.summary["wall_seconds"] for studies in runs.values() for study in studies)
    print(table(name, numbers, seconds), flush=True)
    rows = [[each.name, each.book, f"{each.here:.6g}", each.low, each.high, each.within] for each in numbers]
    content = line(["number", "book", "here", "low", "high", "within"]) + "".join(map(line, rows))
    try:
        replace(out / name / "table.md", table(name, numbers, seconds))
        replace(out / name / "numbers.csv", content)
        book.figure(runs, out / name / "figure.png")
    except OSError as error:
        problems.append(f"{error.filename or out / name} cannot be written: {error.strerror}")
    print(f"{out / name / 'figure.png'}, after {time.perf_counter() - began:.0f} s\n", flush=True)


def table(name: str, numbers: Sequence[Number], seconds: float) -> str:
    """Return the numbers as Markdown."""
    rows = [
        f"| {each.name} | {each.book or '-'} | {number(each.here)} | "
        f"{number(each.low)} to {number(each.high)} | {'yes' if each.within else 'NO'} |"
        for each in numbers
    ]
    heads = ["| | the book | here | range | within |", "|---|---:|---:|---:|---|"]
    title = f"## {name} (section {STUDIES[name].section})"
    return "\n".join([title, "", *heads, *rows, "", f"{seconds:.0f} s of studies.", ""])


def _last_line(log: Path) -> str:
    return (log.read_text(errors="replace").strip().splitlines() or ["nothing"])[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--study", choices=STUDIES, help="the one to repeat")
    which.add_argument("--all", action="store_true", help="repeat them all")
    parser.add_argument("--quick", action="store_true", help="small subsets, to see that all of it works")
    parser.add_argument("--out", type=expanded, default=Path("outputs/book"), help="where to (default: outputs/book)")
    parser.add_argument("overrides", nargs="*", help="for every run, such as executor.threads=1")
    with one_line():
        arguments = parser.parse_args()
        out = arguments.out.absolute() / ("quick" if arguments.quick else "full")
        failures: list[str] = []
        try:
            for name in STUDIES if arguments.all else [arguments.study]:
                problems: list[str] = []
                try:
                    reproduce(name, out, arguments.quick, arguments.overrides, problems)
                except UserError as error:  # the other studies are none the worse
                    problems.append(str(error))
                failures += [f"{name}: {problem}" for problem in problems]
        except KeyboardInterrupt:
            print("broken off; the same command goes on", file=sys.stderr)
            sys.exit(130)
        if failures:
            raise UserError("\n".join(failures))


if __name__ == "__main__":
    main()
