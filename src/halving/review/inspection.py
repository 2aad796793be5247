"""Work on the run directory of a study: `halving study explain <run dir> --trial 7`, see `halving study --help`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from halving.config.commands import override
from halving.environment import expanded
from halving.errors import UserError
from halving.history import Header
from halving.journal import FILE
from halving.report.conclusion import conclusion
from halving.report.drawing import drawing
from halving.report.explanation import explanation
from halving.report.tables import header_of
from halving.study import load
from halving.tracking.terminal import one_line, printable


def check(arguments: argparse.Namespace) -> None:
    """Say of the journal, each checkpoint and each derived file whether it is whole; exit status 1 if one is not."""
    from halving.review.verification import verify

    whole = True
    for finding in verify(arguments.run_dir):
        print(printable(f"{'ok   ' if finding.ok else 'WRONG'}  {finding.subject}: {finding.text}"))
        whole &= finding.ok
    if not whole:
        sys.exit(1)


def rebuild(arguments: argparse.Namespace) -> None:
    """Write results.csv, curves.csv, summary.json, report.html and what trackers wrote anew from the journal."""
    from halving.review.rebuilding import rebuild

    for name in rebuild(arguments.run_dir):
        print(name)
    print(f"rebuilt from {arguments.run_dir / 'journal.jsonl'}")


def report(arguments: argparse.Namespace) -> None:
    """Write report.html anew, of a study that still runs too; of a multirun, comparison.html; and say where it is."""
    from halving.report.derived import replace
    from halving.report.html import report_html

    directory: Path = arguments.run_dir
    if (directory / FILE).is_file():
        replace(directory / "report.html", report_html(load(directory).history, run_dir=directory))
        print(directory / "report.html")
        return
    from halving.config.multirun import compared, write_comparison

    jobs = compared(directory)
    for job in jobs:  # those that have ended wrote theirs
        if job.history is not None and (job.state == "running" or not (job.directory / "report.html").is_file()):
            replace(job.directory / "report.html", report_html(job.history, run_dir=job.directory))
            print(job.directory / "report.html")
    problems = write_comparison(directory, jobs)
    print(directory / "comparison.html")
    if problems:
        raise UserError("; ".join(problems))


def picture(arguments: argparse.Namespace) -> None:
    """Draw the rungs and the learning curves into one PNG file."""
    drawing("figures").figure_png(load(arguments.run_dir).history, arguments.file)
    print(arguments.file)


def explain(arguments: argparse.Namespace) -> None:
    """Say in words why a trial was promoted, paused or stopped, at each rung."""
    for line in explanation(load(arguments.run_dir).history, arguments.trial):
        print(printable(line))


def importance(arguments: argparse.Namespace) -> None:
    """Say which dimensions mattered for a trial's rank, early and late, by a random forest on the journal."""
    from halving.report.importance import early_and_late

    for found in early_and_late(load(arguments.run_dir).history):
        where = f"{found.trials} trials at resource {found.resource}"
        if not found.telling:
            print(
                f"{where}: a random forest explains next to nothing of their ranks (R² {found.explained:.2f}), so that "
                "it cannot tell which dimensions mattered; it takes more trials"
            )
            continue
        print(f"{where}; the forest explains {100 * found.explained:.0f} % of their ranks, and loses of R² without")
        width = max(len(str(row)) for row in found.dimensions)
        for row in found.dimensions:
            print(printable(f"{row!s:>{width}}  {row.dimension}"))


def sensitivity(arguments: argparse.Namespace) -> None:
    """Train what differs from the winner in one dimension, as a study of its own, and draw it; or go on with that.

    Overrides may follow, such as executor=process or r_max=9.
    """
    from halving.config import sensitivity as command

    study, typed = load(arguments.run_dir), arguments.overrides
    own = header_of(study.history).searcher == command.SEARCHER
    directory = arguments.run_dir if own else command.directory(arguments.run_dir.resolve())
    asked = {name: value for name in ("points", "seeds") if (value := getattr(arguments, name)) is not None}
    begun = load(directory) if (directory / FILE).is_file() else None
    if begun is None or begun.history.header is None:
        words = command.begins(study, typed, **{"points": 7, "seeds": 3} | asked)
        _train(words, typed, partial(command.begin, study, typed))
    else:
        grown, ended = command.goes_on(begun, None if own else study, asked), begun.history.ended
        if ended is None or ended.failure or grown or typed:
            _train([], [override("resume", str(directory)), *grown, *typed])
        else:
            print(printable(conclusion(begun.history, directory)))
    drawing("figures").sensitivity_png(load(directory).history, directory / "sensitivity.png")
    print(f"figure: {directory / 'sensitivity.png'}")


def _train(
    recorded: Sequence[str], typed: Sequence[str], begin: Callable[[Header], None] = lambda header: None
) -> None:
    """Do what train.py does with these words."""
    import hydra
    from omegaconf import DictConfig

    from halving.config.polite import command_line, job

    conf = (Path(__file__).parents[1] / "conf").resolve()

    @command_line(conf, recorded)
    @hydra.main(version_base="1.3", config_path=str(conf), config_name="config")
    @job
    def train(cfg: DictConfig) -> None:
        from halving.app import run

        run(cfg, begin)

    sys.argv[1:] = typed
    train()


def main(words: Sequence[str], program: str | None = None) -> None:
    """Run one of the commands, as typed after the `program`."""
    parser = argparse.ArgumentParser(program, description="Work on the run directory of a study.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (explain, importance, report, check, rebuild, picture, sensitivity):
        options = commands.add_parser(command.__name__, help=command.__doc__)
        options.add_argument("run_dir", type=expanded)
        options.set_defaults(command=command)
        if command is picture:
            options.add_argument("file", type=expanded)
        if command is explain:
            options.add_argument("--trial", type=int, required=True)
        if command is sensitivity:
            options.add_argument("--points", type=int, help="quantiles of a distribution (7)")
            options.add_argument("--seeds", type=int, help="trainings of each point (3)")
    with one_line(OSError):
        arguments, arguments.overrides = parser.parse_known_args(words)
        if unknown := [w for w in arguments.overrides if w.startswith("-") or arguments.command is not sensitivity]:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        arguments.command(arguments)
